//! The records of workers on their way to the ledger of the control process, which watches them for ping-pong.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use serde::Deserialize;

use crate::clock::Clock;
use crate::config::{GuardAction, GuardConfig};
use crate::directives::{Control, PingPong};
use crate::ledger::{Courier, Endings, Ledger as _, SqliteLedger, endings_of, kept_of};
use crate::model::{TenantId, UserId};
use crate::queue::rabbitmq::{RabbitQueue, Records};
use crate::worker::eviction_of;

/// Decisions of a user that are looked through for evictions.
const DECISIONS_MAX: usize = 64;
/// Users that were found contended, and since when their evictions count anew.
const FOUND_MAX: usize = 100_000;

/// Takes the records of a worker to the control process.
pub(super) struct BrokerCourier(pub(super) RabbitQueue);

#[async_trait]
impl Courier for BrokerCourier {
    async fn deliver(&self, tenant: &TenantId, record: Vec<u8>) -> anyhow::Result<()> {
        self.0.deliver_record(tenant, record).await
    }
}

/// Writes the records of all workers into the ledger of the control process.
pub(super) struct LedgerRecords {
    pub(super) ledger: SqliteLedger,
    pub(super) watch: Option<Watch>,
    pub(super) endings: Arc<Endings>,
    pub(super) clock: Clock,
}

#[async_trait]
impl Records for LedgerRecords {
    async fn take(&self, records: Vec<Vec<u8>>) -> anyhow::Result<()> {
        for unreadable in self.ledger.record(&records).await?.into_iter().filter_map(Result::err) {
            tracing::warn!("a record for the ledger cannot be read and is left out: {unreadable}");
        }
        self.note_kept(&records);
        let ended: BTreeSet<(TenantId, UserId)> = records.iter().filter_map(|record| whose(record)).collect();
        for (tenant, user) in ended {
            let Ok(decisions) = self.ledger.recent(&tenant, &user, DECISIONS_MAX).await else { continue };
            let oldest_first = decisions.iter().rev();
            for ending in oldest_first.flat_map(|decision| endings_of(&tenant, &user, decision)) {
                self.endings.note(ending, self.clock.now());
            }
            if let Some(watch) = &self.watch {
                watch.look_at(tenant, user, &decisions).await;
            }
        }
        Ok(())
    }
}

impl LedgerRecords {
    fn note_kept(&self, records: &[Vec<u8>]) {
        for looked in records.iter().filter_map(|record| serde_json::from_slice::<Looked>(record).ok()) {
            if let (true, Ok(tenant)) = (looked.record == "intent", TenantId::parse(&looked.tenant)) {
                self.endings.note_kept(&tenant, kept_of(&looked.decision), self.clock.now());
            }
        }
    }
}

/// As much of a record as says whom a look kept.
#[derive(Deserialize)]
struct Looked {
    record: String,
    tenant: String,
    #[serde(default)]
    decision: serde_json::Value,
}

/// Finds users whose devices end each other for ever, whichever workers end them.
pub(super) struct Watch {
    control: Arc<Control>,
    guard: GuardConfig,
    clock: Clock,
    found: Mutex<BTreeMap<(TenantId, UserId), i64>>,
}

/// As much of a record as says that sessions of somebody were ended.
#[derive(Deserialize)]
struct Ends {
    record: String,
    tenant: String,
    uid: String,
    #[serde(default)]
    outcomes: Vec<End>,
}

#[derive(Deserialize)]
struct End {
    ended: String,
}

impl Watch {
    pub(super) fn new(control: Arc<Control>, guard: GuardConfig, clock: Clock) -> Self {
        Self { control, guard, clock, found: Mutex::default() }
    }

    /// Looks at a user of whom something was ended; the decisions are the newest first.
    async fn look_at(&self, tenant: TenantId, user: UserId, decisions: &[serde_json::Value]) {
        if self.guard.action == GuardAction::Continue || self.control.is_contended(&tenant, &user) {
            return;
        }
        let now_ms = self.clock.now_ms();
        let since = self.found().get(&(tenant.clone(), user.clone())).copied().unwrap_or(i64::MIN);
        let mut evictions = PingPong::new(self.guard.evictions, self.guard.window);
        for eviction in decisions.iter().rev().filter_map(eviction_of).filter(|eviction| eviction.at_ms > since) {
            evictions.note(&user, eviction);
        }
        if evictions.is_contended(&user, now_ms) {
            self.contend(tenant, user, now_ms).await;
        }
    }

    async fn contend(&self, tenant: TenantId, user: UserId, now_ms: i64) {
        tracing::error!(
            alarm = "contended",
            tenant = %tenant,
            user.id = %user,
            "the devices of user `{user}` end each other for ever; see `soloist why {user}`"
        );
        match self.control.contend(&tenant, &user, self.guard.hold_for).await {
            Ok(()) => {
                let mut found = self.found();
                if found.len() < FOUND_MAX {
                    found.insert((tenant, user), now_ms);
                }
            }
            Err(error) => tracing::error!("the workers cannot be told: {:#}", anyhow::Error::new(error)),
        }
    }

    fn found(&self) -> std::sync::MutexGuard<'_, BTreeMap<(TenantId, UserId), i64>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The user of whom a record says that sessions were ended.
fn whose(record: &[u8]) -> Option<(TenantId, UserId)> {
    let ends: Ends = serde_json::from_slice(record).ok()?;
    let has_ended = ends.record == "outcome" && ends.outcomes.iter().any(|end| end.ended == "revoked");
    if has_ended { Some((TenantId::parse(&ends.tenant).ok()?, UserId::parse(&ends.uid).ok()?)) } else { None }
}
