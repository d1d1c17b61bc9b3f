//! A step without a queue: what it needs besides a provider, as little of it as goes.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::json;
use soloist::directives::{Directive, Directives, Stale};
use soloist::model::{Lane, LoginEvent, TenantId, UserId};
use soloist::policy::{TenantPolicies, written};
use soloist::provider::SessionProvider;
use soloist::queue::{LaneStats, Published, Queue, QueueError, Subscription};
use soloist::worker::{TenantEnforcer, TenantWorker};

use super::no_ledger::NoLedger;
use super::processes::{Ports, parts};

pub(crate) fn enforcer(provider: Arc<dyn SessionProvider>, limit: usize) -> Arc<TenantEnforcer> {
    let policies = written::tenant_policies(&json!({ "limit": limit }), "policy", None).unwrap();
    let alone = Arc::new(Alone(Arc::new(policies)));
    let ports = Ports { provider, queue: alone.clone(), directives: alone, ledger: Arc::new(NoLedger) };
    TenantWorker::new(parts(ports)).enforcer()
}

struct Alone(Arc<TenantPolicies>);

impl Directives for Alone {
    fn current(&self, _: &TenantId, _: &UserId) -> Result<Directive, Stale> {
        let policies = Arc::clone(&self.0);
        Ok(Directive { policies, cap: None, is_braked: false, pins: None, is_contended: false, is_current: true })
    }
}

/// There is none: a step asks for nothing of it.
#[async_trait]
impl Queue for Alone {
    async fn publish(&self, _: &[LoginEvent]) -> Result<Published, QueueError> {
        Err(none())
    }

    async fn subscribe(&self, _: &TenantId, _: Lane, _: usize) -> Result<Arc<dyn Subscription>, QueueError> {
        Err(none())
    }

    async fn check(&self) -> Result<(), QueueError> {
        Err(none())
    }

    async fn stats(&self) -> Result<Vec<LaneStats>, QueueError> {
        Err(none())
    }
}

fn none() -> QueueError {
    QueueError::Unavailable(anyhow::anyhow!("there is no queue"))
}
