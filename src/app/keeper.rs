//! What the control process does about directives by itself: it lets go what has expired, and has those looked at again
//! whom something held back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::directives::{Control, Entry, What};
use crate::model::{TenantId, UserId};
use crate::queue::{Queue, look_again};
use crate::worker::TenantEnforcer;

/// How often it is seen whether something has expired.
const EVERY: Duration = Duration::from_secs(1);

pub(super) struct Keeper {
    pub(super) control: Arc<Control>,
    pub(super) queue: Arc<dyn Queue>,
    pub(super) enforcers: BTreeMap<TenantId, Arc<TenantEnforcer>>,
}

impl Keeper {
    pub(super) async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut tick = tokio::time::interval(EVERY);
        let mut to_look_at = Vec::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                _ = tick.tick() => {}
            }
            for entry in self.control.remove_expired().await {
                to_look_at.extend(self.let_go(entry));
            }
            to_look_at = self.look(to_look_at).await;
        }
    }

    /// The user whose evictions have paused until now, and go on.
    fn let_go(&self, entry: Entry) -> Option<(TenantId, UserId)> {
        let What::Contended { user } = entry.what else { return None };
        if let Some(enforcer) = self.enforcers.get(&entry.tenant) {
            enforcer.release(&user);
        }
        Some((entry.tenant, user))
    }

    /// Those who could not be put into the queue now: the sweep would find them, but later.
    async fn look(&self, users: Vec<(TenantId, UserId)>) -> Vec<(TenantId, UserId)> {
        let mut left = Vec::new();
        for (tenant, user) in users {
            if look_again(&*self.queue, &tenant, std::slice::from_ref(&user)).await.is_err() {
                left.push((tenant, user));
            }
        }
        left
    }
}
