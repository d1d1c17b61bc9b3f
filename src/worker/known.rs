//! Whom the sweep is to look at: everybody of whom an event came, and when they logged in last.

use super::step::{Enforcer as _, Evaluation, Look, StepError, TenantEnforcer};
use crate::ledger::Seen;
use crate::model::{Reason, View};

impl TenantEnforcer {
    /// Looks at a user, and returns only when the sweep knows of them: their message is settled after it, so that a
    /// user of whom one event was ever accepted is found even if every later one is lost.
    pub(super) async fn evaluate_and_know(&self, look: &Look) -> Result<Evaluation, StepError> {
        // The disk has the user before the provider has listed their sessions, as a rule.
        let (known, evaluated) = tokio::join!(self.know(look), self.evaluate(look));
        known?;
        let evaluation = evaluated?;
        self.know_listed(look, &evaluation.view).await?;
        Ok(evaluation)
    }

    async fn know(&self, look: &Look) -> Result<(), StepError> {
        match look.reason {
            Reason::Login | Reason::Redrive => self.seen(look, Seen::Event).await,
            // The event before them made the user known, or none did.
            Reason::Recheck { .. } | Reason::Sweep | Reason::Enforce => Ok(()),
        }
    }

    /// A login whose event was lost keeps its user in the sweep for as long as its session may live.
    async fn know_listed(&self, look: &Look, view: &View) -> Result<(), StepError> {
        let newest = view.sessions.iter().filter_map(|session| session.login_at).max();
        match newest.filter(|_| look.reason == Reason::Sweep) {
            Some(login_at) => self.seen(look, Seen::Listed(login_at)).await,
            None => Ok(()),
        }
    }

    /// A ledger that finds itself damaged begins anew, so a second try is worth it at once.
    async fn seen(&self, look: &Look, seen: Seen) -> Result<(), StepError> {
        if self.ledger.seen(&self.tenant, &look.user, seen).await.is_ok() {
            return Ok(());
        }
        self.ledger.seen(&self.tenant, &look.user, seen).await.map_err(StepError::Ledger)
    }
}
