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
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                _ = tick.tick() => {}
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = self.let_go_and_look() => {}
            }
        }
    }

    async fn let_go_and_look(&self) {
        for entry in self.control.remove_expired().await {
            if let Some((tenant, user)) = self.let_go(entry) {
                self.control.look_later(&tenant, vec![user.clone()]);
                self.look(&tenant, vec![user]).await;
            }
        }
        for (tenant, users) in self.control.due_looks() {
            self.look(&tenant, users).await;
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

    /// Who cannot be put into the queue now is tried again later.
    async fn look(&self, tenant: &TenantId, users: Vec<UserId>) {
        if look_again(&*self.queue, tenant, &users).await.is_err() {
            self.control.look_later(tenant, users);
        }
    }
}
