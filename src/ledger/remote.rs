//! The ledger of a process that keeps none: each record goes to where the control process takes it from.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::last::LastRecorded;
use super::users::{SeenCache, SeenUser, is_due};
use super::{Intent, IntentId, Ledger, LedgerError, Outcome, Seen, record};
use crate::clock::Clock;
use crate::model::{TenantId, UserId};
use crate::telemetry::Metrics;

/// How long a record may take to be durable elsewhere. One that is late may still get there, which is harmless.
const DELIVER_TIMEOUT: Duration = Duration::from_secs(5);
/// The same while none gets through: a look must not wait for the ledger at each of its records.
const LOSING_TIMEOUT: Duration = Duration::from_millis(200);

/// Decisions that end nobody and wait to be sent; further ones are not recorded.
const NOTES_WAITING_MAX: usize = 1_024;

/// Takes records to the control process.
#[async_trait]
pub trait Courier: Send + Sync {
    /// Returns only when the record is durable elsewhere. It may then arrive more than once, and in any order.
    async fn deliver(&self, tenant: &TenantId, record: Vec<u8>) -> anyhow::Result<()>;
}

/// Sends what [`SqliteLedger::record`](super::SqliteLedger::record) takes in.
pub struct RemoteLedger {
    courier: Arc<dyn Courier>,
    required: bool,
    clock: Clock,
    metrics: Metrics,
    /// So that the log tells of an outage once.
    losing: AtomicBool,
    last: LastRecorded,
    notes: mpsc::Sender<Note>,
    notes_to_carry: Mutex<Option<mpsc::Receiver<Note>>>,
    seen: SeenCache,
}

/// A record that nobody waits for.
type Note = (TenantId, Vec<u8>);

impl RemoteLedger {
    /// With `required` a record that cannot be delivered is an error, so that nobody is ended; otherwise it is counted
    /// and its history is lost.
    pub fn new(courier: Arc<dyn Courier>, required: bool, clock: Clock, metrics: Metrics) -> Self {
        let (notes, to_carry) = mpsc::channel(NOTES_WAITING_MAX);
        Self {
            courier,
            required,
            clock,
            metrics,
            losing: AtomicBool::new(false),
            last: LastRecorded::new(),
            notes,
            seen: SeenCache::new(),
            notes_to_carry: Mutex::new(Some(to_carry)),
        }
    }

    /// Carries the decisions that end nobody, until it is told to stop. One that does not get through is left out: the
    /// next look at that user is recorded anew.
    pub async fn carry_notes(self: Arc<Self>, stop: CancellationToken) -> anyhow::Result<()> {
        let to_carry = self.notes_to_carry.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut to_carry = to_carry.ok_or_else(|| anyhow::anyhow!("somebody else carries them"))?;
        while let Some(Some((tenant, record))) = stop.run_until_cancelled(to_carry.recv()).await {
            let delivered = timeout(DELIVER_TIMEOUT, self.courier.deliver(&tenant, record)).await;
            if !matches!(delivered, Ok(Ok(()))) {
                tracing::debug!("a decision that ends nobody does not reach the ledger and is left out");
            }
        }
        Ok(())
    }

    /// Whether it was delivered; otherwise it is lost.
    async fn send(&self, tenant: &TenantId, record: serde_json::Result<Vec<u8>>) -> Result<bool, LedgerError> {
        let limit = if self.losing.load(Ordering::Relaxed) { LOSING_TIMEOUT } else { DELIVER_TIMEOUT };
        let delivered = match record {
            Err(error) => Err(error.into()),
            Ok(record) => timeout(limit, self.courier.deliver(tenant, record))
                .await
                .unwrap_or_else(|_late| Err(anyhow::anyhow!("no confirmation within {limit:?}"))),
        };
        match delivered {
            Ok(()) => {
                if self.losing.swap(false, Ordering::Relaxed) {
                    tracing::info!("records reach the ledger again");
                }
                Ok(true)
            }
            Err(error) if self.required => {
                self.losing.store(true, Ordering::Relaxed);
                Err(LedgerError(error))
            }
            Err(error) => {
                self.metrics.ledger_lost.inc();
                if !self.losing.swap(true, Ordering::Relaxed) {
                    tracing::error!(alarm = "ledger_lost", "records do not reach the ledger and are lost: {error:#}");
                }
                Ok(false)
            }
        }
    }
}

#[async_trait]
impl Ledger for RemoteLedger {
    async fn intend(&self, intent: Intent) -> Result<IntentId, LedgerError> {
        let id = Uuid::new_v4();
        self.last.is_repeated(&intent);
        self.send(&intent.tenant, record::intent(id, &intent, self.clock.now())).await?;
        Ok(IntentId::Record { id, tenant: intent.tenant, user: intent.user })
    }

    fn note(&self, intent: Intent) {
        if self.last.is_repeated(&intent) {
            return;
        }
        if let Ok(record) = record::intent(Uuid::new_v4(), &intent, self.clock.now()) {
            // Where too many wait it is not recorded.
            self.notes.try_send((intent.tenant, record)).ok();
        }
    }

    async fn outcome(&self, intent: IntentId, outcomes: &[Outcome]) -> Result<(), LedgerError> {
        let IntentId::Record { id, tenant, user } = intent else {
            return Err(LedgerError(anyhow::anyhow!("the intent is of another ledger")));
        };
        self.send(&tenant, record::outcome(id, &tenant, &user, outcomes, self.clock.now())).await.map(drop)
    }

    async fn seen(&self, tenant: &TenantId, user: &UserId, seen: Seen) -> Result<(), LedgerError> {
        let seen = SeenUser::of(tenant, user, seen, self.clock);
        if is_due(&self.seen, &seen) && self.send(tenant, record::seen(&seen)).await? {
            self.seen.note(tenant, user, seen.at_ms);
        }
        Ok(())
    }

    async fn recent(
        &self,
        _tenant: &TenantId,
        _user: &UserId,
        _limit: usize,
    ) -> Result<Vec<serde_json::Value>, LedgerError> {
        Err(LedgerError(anyhow::anyhow!("this process keeps no ledger: ask the control process")))
    }

    async fn ends_since(
        &self,
        _tenant: &TenantId,
        _since: Timestamp,
    ) -> Result<Vec<(UserId, serde_json::Value)>, LedgerError> {
        Ok(Vec::new())
    }
}
