//! A look inside a service that runs in the caller's own process: what waits, what was decided, who is paused.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::App;
use crate::ledger::Ledger;
use crate::model::{Reason, TenantId, UserId};
use crate::queue::Queue;
use crate::telemetry::Metrics;
use crate::worker::{Enforcer as _, Look, TenantEnforcer};

/// Messages in the queue, both lanes of all tenants together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    pub ready: u64,
    /// Handed out to a worker and not settled yet.
    pub in_hand: u64,
    pub delayed: u64,
    pub dead: u64,
}

impl Waiting {
    /// All that is still to be done.
    pub fn open(&self) -> u64 {
        self.ready.saturating_add(self.in_hand).saturating_add(self.delayed)
    }
}

/// Stays useful while the service runs.
#[derive(Clone)]
pub struct Inside {
    queue: Arc<dyn Queue>,
    ledger: Arc<dyn Ledger>,
    enforcers: BTreeMap<TenantId, Arc<TenantEnforcer>>,
    pub metrics: Metrics,
}

impl App {
    pub fn inside(&self) -> Inside {
        Inside {
            queue: Arc::clone(&self.core.queue),
            ledger: Arc::clone(&self.core.ledger),
            enforcers: self.core.enforcers(),
            metrics: self.metrics(),
        }
    }
}

impl Inside {
    pub async fn waiting(&self) -> anyhow::Result<Waiting> {
        let mut waiting = Waiting::default();
        for lane in self.queue.stats().await? {
            waiting.ready += lane.ready;
            waiting.in_hand += lane.unsettled.unwrap_or(0);
            waiting.delayed += lane.delayed.unwrap_or(0);
            waiting.dead += lane.dead.unwrap_or(0);
        }
        Ok(waiting)
    }

    /// The last decisions about a user of the default tenant, newest first, as the admin API shows them.
    pub async fn decisions(&self, uid: &str, limit: usize) -> anyhow::Result<Vec<Value>> {
        Ok(self.ledger.recent(&TenantId::default_tenant(), &UserId::parse(uid)?, limit).await?)
    }

    /// `running`, or the cause for which some tenant is paused.
    pub fn state(&self) -> &'static str {
        let states = self.enforcers.values().map(|enforcer| enforcer.state().as_str());
        states.into_iter().find(|state| *state != "running").unwrap_or("running")
    }

    /// Lists a user's sessions and ends none, as `soloist sessions` does. Returns how many there are.
    pub async fn look(&self, uid: &str) -> anyhow::Result<usize> {
        let user = UserId::parse(uid)?;
        let look = Look { user, reason: Reason::Enforce, at: None, login_at: None, dry_run: true };
        let enforcer = self.enforcers.get(&TenantId::default_tenant());
        let enforcer = enforcer.ok_or_else(|| anyhow::anyhow!("there is no default tenant"))?;
        Ok(enforcer.evaluate(&look).await?.view.sessions.len())
    }
}
