//! A ledger that also tells the index of ends what passes through it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use jiff::Timestamp;

use super::endings::{Displacer, Ending, Endings};
use super::{Ended, Intent, IntentId, Ledger, LedgerError, Outcome, Seen};
use crate::clock::Clock;
use crate::model::{SessionId, TenantId, UserId};
use crate::policy::Action;

/// Intents without an outcome yet. There are no more than steps run; a step that was dropped leaves one behind.
const OPEN_MAX: usize = 20_000;

/// Every call goes to the inner ledger.
pub struct Remembering {
    inner: Arc<dyn Ledger>,
    endings: Arc<Endings>,
    clock: Clock,
    open: Mutex<HashMap<IntentId, Open>>,
}

/// What an intent says about those whom it ends.
struct Open {
    tenant: TenantId,
    user: UserId,
    displacers: HashMap<SessionId, Displacer>,
}

impl Remembering {
    pub fn new(inner: Arc<dyn Ledger>, endings: Arc<Endings>, clock: Clock) -> Self {
        Self { inner, endings, clock, open: Mutex::default() }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<IntentId, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, intent: &Intent) {
        let ended = |action| intent.executed && action == Action::Revoke;
        let stay = intent.decision.verdicts.iter().filter(|verdict| !ended(verdict.action));
        let stay = stay.map(|verdict| verdict.digest.session_id());
        self.endings.note_kept(&intent.tenant, stay, self.clock.now());
    }
}

impl Open {
    fn of(intent: &Intent) -> Self {
        let by = |newest: SessionId| {
            let session = intent.sessions.iter().find(|session| session.session == newest);
            session.map(|session| Displacer {
                device_type: session.device_type.clone(),
                city: session.city.clone(),
                country: session.country.clone(),
            })
        };
        let displacers = intent.decision.revocations().map(|verdict| {
            let newest = verdict.witnesses.iter().next();
            (verdict.digest.session_id(), newest.and_then(|newest| by(newest.session_id())).unwrap_or_default())
        });
        Self { tenant: intent.tenant.clone(), user: intent.user.clone(), displacers: displacers.collect() }
    }

    fn ending(&mut self, outcome: &Outcome, at: Timestamp) -> Option<Ending> {
        let (reason, session) = (outcome.reason?, outcome.session);
        let by = self.displacers.remove(&session).unwrap_or_default();
        let is_ours = outcome.ended == Ended::Revoked;
        is_ours.then(|| Ending { tenant: self.tenant.clone(), user: self.user.clone(), session, reason, at, by })
    }
}

#[async_trait]
impl Ledger for Remembering {
    async fn intend(&self, intent: Intent) -> Result<IntentId, LedgerError> {
        self.keep(&intent);
        let known = intent.executed.then(|| Open::of(&intent));
        let id = self.inner.intend(intent).await?;
        if let Some(known) = known {
            let mut open = self.open();
            if open.len() >= OPEN_MAX {
                open.clear();
            }
            open.insert(id.clone(), known);
        }
        Ok(id)
    }

    fn note(&self, intent: Intent) {
        self.keep(&intent);
        self.inner.note(intent);
    }

    fn ended(&self, intent: &IntentId, outcome: &Outcome) {
        let now = self.clock.now();
        let ending = self.open().get_mut(intent).and_then(|known| known.ending(outcome, now));
        if let Some(ending) = ending {
            self.endings.note(ending, now);
        }
    }

    async fn outcome(&self, intent: IntentId, outcomes: &[Outcome]) -> Result<(), LedgerError> {
        let known = self.open().remove(&intent);
        // Whoever waits for it is told now: what was ended is ended, whether or not it can be written down.
        if let Some(mut known) = known {
            let now = self.clock.now();
            let ended: Vec<Ending> = outcomes.iter().filter_map(|outcome| known.ending(outcome, now)).collect();
            for ending in ended {
                self.endings.note(ending, now);
            }
        }
        self.inner.outcome(intent, outcomes).await
    }

    async fn seen(&self, tenant: &TenantId, user: &UserId, seen: Seen) -> Result<(), LedgerError> {
        self.inner.seen(tenant, user, seen).await
    }

    async fn recent(
        &self,
        tenant: &TenantId,
        user: &UserId,
        limit: usize,
    ) -> Result<Vec<serde_json::Value>, LedgerError> {
        self.inner.recent(tenant, user, limit).await
    }

    async fn ends_since(
        &self,
        tenant: &TenantId,
        since: Timestamp,
    ) -> Result<Vec<(UserId, serde_json::Value)>, LedgerError> {
        self.inner.ends_since(tenant, since).await
    }
}
