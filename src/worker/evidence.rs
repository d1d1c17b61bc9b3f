//! What a look leaves in the ledger: intents, what came of them, decisions that were only recorded.

use super::step::{Look, StepError, TenantEnforcer};
use crate::ledger::{Held, Intent, IntentId, Outcome, SeenSession};
use crate::model::View;
use crate::policy::Decision;

/// What came of the sessions that an intent was about.
pub(super) struct Ends {
    pub(super) intent: IntentId,
    pub(super) outcomes: Vec<Outcome>,
}

impl TenantEnforcer {
    /// A decision that nobody has executed.
    pub(super) fn intent(&self, look: &Look, decision: Decision, view: &View, held: Option<Held>) -> Intent {
        Intent {
            tenant: self.tenant.clone(),
            user: look.user.clone(),
            looked: look.reason,
            decision,
            sessions: SeenSession::all(view),
            executed: false,
            held,
        }
    }

    /// Makes an intent durable. A ledger that finds itself damaged begins anew, so a second try is worth it at once.
    pub(super) async fn intend(&self, intent: Intent) -> Result<IntentId, StepError> {
        if let Ok(id) = self.ledger.intend(intent.clone()).await {
            return Ok(id);
        }
        self.ledger.intend(intent).await.map_err(|error| {
            self.metrics.ledger_lost.inc();
            StepError::Ledger(error)
        })
    }

    /// Writes what came of an intent. Evidence only: its loss stops nothing.
    pub(super) async fn close(&self, look: &Look, ends: Option<Ends>) {
        let Some(Ends { intent, outcomes }) = ends else { return };
        if let Err(error) = self.ledger.outcome(intent, &outcomes).await {
            self.metrics.ledger_lost.inc();
            tracing::warn!(user.id = %look.user, "an outcome is not in the ledger: {:#}", anyhow::Error::new(error));
        }
    }

    /// Keeps a decision that would have ended somebody. Evidence only: its loss stops nothing.
    pub(super) async fn record(&self, look: &Look, decision: Decision, view: &View, held: Option<Held>) {
        let intent = self.intent(look, decision, view, held);
        if let Err(error) = self.ledger.intend(intent).await {
            self.metrics.ledger_lost.inc();
            tracing::warn!(user.id = %look.user, "a decision is not in the ledger: {:#}", anyhow::Error::new(error));
        }
    }
}
