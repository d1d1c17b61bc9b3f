//! What people and apps ask of one user: who is there, who would have to go, and to end what somebody has chosen.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::calls::CallFor;
use super::class::CallClass;
use super::ending::Cause;
use super::step::{Enforcer as _, Evaluation, Look, Ruling, StepError, TenantEnforcer, with_sessions};
use crate::ledger::{Ended, Held, Outcome};
use crate::model::{AccessToken, Reason, Session, SessionDevice, SessionId, TokenDigest, UserId, UserTraits, View};
use crate::policy::{Action, ReasonCode, Strategy, Verdict, Witnesses, device_count, distinct};
use crate::provider::ProviderError;

/// How much later than every listed login one is taken to be that is not listed yet.
const JUST_AFTER: SignedDuration = SignedDuration::from_millis(1);

type Shared = OnceCell<Result<Arc<Evaluation>, Arc<StepError>>>;

/// The looks that are under way because somebody asked, by user.
#[derive(Default)]
pub(super) struct Views(Mutex<HashMap<UserId, Weak<Shared>>>);

impl Views {
    /// The look under way for this user, or a new one.
    fn join(&self, user: &UserId) -> Arc<Shared> {
        let mut views = self.lock();
        if let Some(under_way) = views.get(user).and_then(Weak::upgrade).filter(|shared| !shared.initialized()) {
            return under_way;
        }
        let shared = Arc::new(Shared::new());
        views.insert(user.clone(), Arc::downgrade(&shared));
        shared
    }

    /// Forgets a look that is over.
    fn leave(&self, user: &UserId, shared: &Arc<Shared>) {
        let mut views = self.lock();
        if views.get(user).is_some_and(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(shared))) {
            views.remove(user);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<UserId, Weak<Shared>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Leaves a look, also when whoever asked goes away in the middle.
struct Joined<'a> {
    views: &'a Views,
    user: &'a UserId,
    shared: Arc<Shared>,
}

impl Drop for Joined<'_> {
    fn drop(&mut self) {
        // The last one who is still asking tidies up.
        if Arc::strong_count(&self.shared) == 1 || self.shared.initialized() {
            self.views.leave(self.user, &self.shared);
        }
    }
}

/// Who asks to come in.
#[derive(Clone, Copy, Debug)]
pub enum Newcomer<'a> {
    /// It has logged in, whether or not that is listed yet.
    Here(&'a AccessToken),
    /// It has not, and would do so on this device.
    Imagined(&'a SessionDevice),
}

/// Whether a newcomer may stay, by the rule and as things are.
#[derive(Clone, Debug)]
pub struct Admission {
    /// The view with the newcomer in it.
    pub evaluation: Evaluation,
    pub newcomer: SessionId,
    /// The newcomer is the one who must go.
    pub is_over: bool,
    /// What keeps the rule's wish from being done.
    pub held: Option<Held>,
    /// The newcomer's session was ended.
    pub ended: Option<Ended>,
}

impl TenantEnforcer {
    /// Whose token it is, within this time.
    ///
    /// # Errors
    /// [`crate::provider::ProviderError::Refused`] where it is nobody's, or no longer.
    pub async fn identify(&self, token: &AccessToken, within: Duration) -> Result<UserId, StepError> {
        Ok(self.calls.identify(token, Instant::now() + within).await?)
    }

    /// Lists a user's sessions with the rule's verdicts, and ends nobody. Those who ask for the same user at the same
    /// moment share one listing.
    pub async fn view(&self, user: &UserId) -> Result<Arc<Evaluation>, Arc<StepError>> {
        let joined = Joined { views: &self.views, user, shared: self.views.join(user) };
        let look = Look { user: user.clone(), reason: Reason::Enforce, at: None, login_at: None, dry_run: true };
        let look = async || {
            let looked = match self.evaluate(&look).await {
                Err(StepError::Provider(ProviderError::UserUnknown(_))) => self.nobody(user),
                looked => looked,
            };
            looked.map(Arc::new).map_err(Arc::new)
        };
        joined.shared.get_or_init(look).await.clone()
    }

    /// Judges a newcomer among those who are listed. Where the newest are turned away and it is one too many, it is ended.
    pub async fn admit(&self, user: &UserId, newcomer: Newcomer<'_>) -> Result<Admission, StepError> {
        let deadline = Instant::now() + self.config.step_deadline;
        let mut call = CallFor::new(user, CallClass::Asked, deadline);
        let (ruling, listed) = match self.listed(&mut call).await {
            Err(StepError::Provider(ProviderError::UserUnknown(_))) => (self.of_stranger(user)?, NOBODY_THERE),
            listed => listed?,
        };
        let view = View { sessions: with_newcomer(&listed.sessions, newcomer), complete: listed.complete };
        let digest = digest_of(newcomer);
        let mut decision = self.decide(&view, &ruling, user);
        let resolved = &ruling.resolution.policy.policy;
        let own = decision.verdicts.iter().find(|verdict| verdict.digest == digest);
        let is_over =
            resolved.strategy == Strategy::RejectNewest && own.is_some_and(|own| own.action == Action::Revoke);
        let look = Look { user: user.clone(), reason: Reason::Login, at: None, login_at: None, dry_run: false };
        let held = self.held(&ruling.directive, &ruling.resolution, &look);
        let seen = distinct(&view);
        let mut admission = Admission {
            newcomer: digest.session_id(),
            is_over,
            held,
            ended: None,
            evaluation: Evaluation {
                decision: Some(decision.clone()),
                devices: device_count(&seen, resolved),
                policy: Arc::clone(resolved),
                view: seen,
                outcomes: Vec::new(),
                again: None,
            },
        };
        if is_over && held.is_none() && matches!(newcomer, Newcomer::Here(_)) {
            for verdict in decision.verdicts.iter_mut().filter(|verdict| verdict.digest != digest) {
                spare(verdict);
            }
            let cause = Cause { look: &look, decision: &decision, view: &view, is_paid: true, deadline: call.deadline };
            let outcomes = self.end_now(cause).await?;
            admission.ended = outcomes.first().map(|outcome| outcome.ended);
            admission.held = if outcomes.is_empty() { Some(Held::Budget) } else { None };
            admission.evaluation.outcomes = outcomes;
        }
        Ok(admission)
    }

    async fn listed(&self, call: &mut CallFor<'_>) -> Result<(Ruling, View), StepError> {
        let ruling = self.resolve(call).await?;
        Ok((ruling, self.calls.list(*call).await?))
    }

    /// What holds for a user whom the provider does not know: nobody else learns that it does not.
    fn of_stranger(&self, user: &UserId) -> Result<Ruling, StepError> {
        let directive = self.directives.current(&self.tenant, user).map_err(StepError::Directives)?;
        let resolved = directive.policies.resolve(user, Some(&UserTraits::default()), self.clock.now());
        let resolution = resolved.map_err(|needed| StepError::Provider(ProviderError::Unavailable(needed.into())))?;
        Ok(Ruling::new(resolution, directive))
    }

    fn nobody(&self, user: &UserId) -> Result<Evaluation, StepError> {
        let ruling = self.of_stranger(user)?;
        Ok(Evaluation {
            decision: Some(self.decide(&NOBODY_THERE, &ruling, user)),
            view: NOBODY_THERE,
            devices: 0,
            policy: Arc::clone(&ruling.resolution.policy.policy),
            outcomes: Vec::new(),
            again: None,
        })
    }

    /// Ends the sessions of a user that somebody has chosen, whatever the rule says; those that are not listed are left
    /// out.
    ///
    /// # Errors
    /// The first failure, after all were tried.
    pub async fn end_chosen(
        &self,
        user: &UserId,
        is_chosen: impl Fn(SessionId) -> bool + Send,
        reason: ReasonCode,
    ) -> Result<Vec<Outcome>, StepError> {
        let deadline = Instant::now() + self.config.step_deadline;
        let mut call = CallFor::new(user, CallClass::Logins, deadline);
        let ruling = self.resolve(&mut call).await?;
        let view = self.calls.list(call).await?;
        let mut decision = self.decide(&view, &ruling, user);
        for verdict in &mut decision.verdicts {
            if is_chosen(verdict.digest.session_id()) {
                (verdict.action, verdict.reason) = (Action::Revoke, Some(reason));
                verdict.witnesses = Witnesses::default();
            } else {
                spare(verdict);
            }
        }
        let look = Look { user: user.clone(), reason: Reason::Enforce, at: None, login_at: None, dry_run: false };
        self.end_now(Cause { look: &look, decision: &decision, view: &view, is_paid: false, deadline: call.deadline })
            .await
    }

    /// Ends what the decision says, and writes down what came of it.
    async fn end_now(&self, cause: Cause<'_>) -> Result<Vec<Outcome>, StepError> {
        let chosen = with_sessions(cause.decision.revocations(), cause.view);
        if chosen.is_empty() {
            return Ok(Vec::new());
        }
        let ending = self.end_all(cause, &chosen, &mut HashSet::new()).await?;
        let outcomes = ending.ends.as_ref().map(|ends| ends.outcomes.clone()).unwrap_or_default();
        self.close(cause.look, ending.ends).await;
        ending.result.map(|()| outcomes)
    }
}

/// Whatever the rule says: nobody has chosen it.
fn spare(verdict: &mut Verdict) {
    if verdict.action == Action::Revoke {
        (verdict.action, verdict.reason) = (Action::Keep, None);
    }
    verdict.witnesses = Witnesses::default();
}

const NOBODY_THERE: View = View { sessions: Vec::new(), complete: true };

/// No token has this digest.
const NOBODY: TokenDigest = TokenDigest([0xff; 32]);

fn digest_of(newcomer: Newcomer<'_>) -> TokenDigest {
    match newcomer {
        Newcomer::Here(token) => token.digest(),
        Newcomer::Imagined(_) => NOBODY,
    }
}

/// The sessions with the newcomer among them, as the newest where it is not listed.
fn with_newcomer(listed: &[Session], newcomer: Newcomer<'_>) -> Vec<Session> {
    let mut sessions = listed.to_vec();
    let digest = digest_of(newcomer);
    if sessions.iter().any(|session| session.digest == digest) {
        return sessions;
    }
    let newest = listed.iter().filter_map(|session| session.login_at).max().unwrap_or(Timestamp::UNIX_EPOCH);
    let login_at = Some(newest.checked_add(JUST_AFTER).unwrap_or(Timestamp::MAX));
    sessions.push(match newcomer {
        Newcomer::Here(token) => Session::new(token.expose(), login_at, SessionDevice::default()),
        Newcomer::Imagined(device) => Session { digest, ..Session::new("", login_at, device.clone()) },
    });
    sessions
}
