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
use super::step::{Enforcer as _, Evaluation, Look, REJECT_WINDOW, Ruling, StepError, TenantEnforcer, with_sessions};
use crate::ledger::{Ended, Outcome};
use crate::model::{AccessToken, Reason, Session, SessionDevice, SessionId, TokenDigest, UserId, UserTraits, View};
use crate::policy::{Action, Decision, ReasonCode, Witnesses, device_count, distinct};
use crate::provider::ProviderError;

/// How much later than every listed login one is taken to be that is not listed yet.
const JUST_AFTER: SignedDuration = SignedDuration::from_millis(1);

/// Looks under way that are remembered before those that are over are cleared away.
const VIEWS_KEPT: usize = 10_000;

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
        if views.len() >= VIEWS_KEPT {
            views.retain(|_, view| view.strong_count() > 0);
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
    /// The view with the newcomer in it. Nobody was ended.
    pub evaluation: Evaluation,
    pub newcomer: SessionId,
    /// The rule says that it must go.
    pub is_over: bool,
    /// Whether it is listed, so that its login and its device are known.
    pub is_listed: bool,
    /// It logged in so long ago that it is turned away no more.
    pub is_settled: bool,
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
                Err(StepError::Provider(ProviderError::UserUnknown(_) | ProviderError::Refused(_))) => {
                    self.nobody(user)
                }
                looked => looked,
            };
            looked.map(Arc::new).map_err(Arc::new)
        };
        joined.shared.get_or_init(look).await.clone()
    }

    /// Judges a newcomer among those who are listed, and ends nobody.
    pub async fn admit(&self, user: &UserId, newcomer: Newcomer<'_>) -> Result<Admission, StepError> {
        let deadline = Instant::now() + self.config.step_deadline;
        let mut call = CallFor::new(user, CallClass::Asked, deadline);
        let (ruling, listed) = match self.listed(&mut call).await {
            Err(StepError::Provider(ProviderError::UserUnknown(_) | ProviderError::Refused(_))) => {
                (self.of_stranger(user)?, NOBODY_THERE)
            }
            listed => listed?,
        };
        let (digest, now) = (digest_of(newcomer), self.clock.now());
        let known = listed.sessions.iter().find(|session| session.digest == digest);
        let login_at = known.and_then(|session| session.login_at);
        let is_listed = known.is_some();
        let sessions = if is_listed { listed.sessions } else { with_newcomer(listed.sessions, newcomer, now) };
        let view = View { sessions, complete: listed.complete };
        let decision = self.decide(&view, &ruling, user);
        let own = decision.verdicts.iter().find(|verdict| verdict.digest == digest);
        let is_over = own.is_some_and(|own| own.action == Action::Revoke);
        let evaluation = self.shown(decision, &view, &ruling, user);
        let is_settled = login_at.is_some_and(|at| now.duration_since(at) > REJECT_WINDOW);
        Ok(Admission { evaluation, newcomer: digest.session_id(), is_over, is_listed, is_settled })
    }

    /// What an app is to know of a view.
    fn shown(&self, decision: Decision, view: &View, ruling: &Ruling, user: &UserId) -> Evaluation {
        let policy = Arc::clone(&ruling.resolution.policy.policy);
        let view = distinct(view);
        Evaluation {
            decision: Some(decision),
            devices: device_count(&view, &policy),
            view,
            policy,
            held: self.held(ruling, user, Reason::Login),
            outcomes: Vec::new(),
            again: None,
        }
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
        Ok(self.shown(self.decide(&NOBODY_THERE, &ruling, user), &NOBODY_THERE, &ruling, user))
    }

    /// Ends the sessions of a user that somebody has chosen, whatever the rule says; those that are not listed are left
    /// out. What comes of each is told, also where some could not be ended.
    ///
    /// # Errors
    /// When none could be ended that was chosen.
    pub async fn end_chosen(
        &self,
        user: &UserId,
        is_chosen: impl Fn(SessionId) -> bool + Send,
        reason: ReasonCode,
    ) -> Result<Vec<Outcome>, StepError> {
        let deadline = Instant::now() + self.config.step_deadline;
        // What users ask goes behind the logins that are enforced.
        let class = if reason == ReasonCode::Admin { CallClass::Logins } else { CallClass::Asked };
        let mut call = CallFor::new(user, class, deadline);
        let (ruling, view) = self.listed(&mut call).await?;
        let mut decision = self.decide(&view, &ruling, user);
        for verdict in &mut decision.verdicts {
            if is_chosen(verdict.digest.session_id()) {
                (verdict.action, verdict.reason) = (Action::Revoke, Some(reason));
            } else if verdict.action == Action::Revoke {
                (verdict.action, verdict.reason) = (Action::Keep, None);
            }
            verdict.witnesses = Witnesses::default();
        }
        let chosen = with_sessions(decision.revocations(), &view);
        if chosen.is_empty() {
            return Ok(Vec::new());
        }
        let look = Look { user: user.clone(), reason: Reason::Enforce, at: None, login_at: None, dry_run: false };
        let cause = Cause { look: &look, decision: &decision, view: &view, is_paid: false, deadline };
        let ending = self.end_all(cause, &chosen, &mut HashSet::new()).await?;
        let outcomes = ending.ends.as_ref().map(|ends| ends.outcomes.clone()).unwrap_or_default();
        self.close(&look, ending.ends).await;
        let any_ended = outcomes.iter().any(|outcome| outcome.ended != Ended::Failed);
        if any_ended { Ok(outcomes) } else { ending.result.map(|()| outcomes) }
    }
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

/// The sessions with the newcomer, who is not listed, as the newest among them.
fn with_newcomer(mut sessions: Vec<Session>, newcomer: Newcomer<'_>, now: Timestamp) -> Vec<Session> {
    let newest = sessions.iter().filter_map(|session| session.login_at).max();
    let just_after = newest.map(|newest| newest.checked_add(JUST_AFTER).unwrap_or(Timestamp::MAX));
    let login_at = Some(just_after.map_or(now, |after| after.max(now)));
    sessions.push(match newcomer {
        Newcomer::Here(token) => Session::new(token.expose(), login_at, SessionDevice::default()),
        Newcomer::Imagined(device) => {
            let nobodys = Session::new("", login_at, device.clone());
            Session { digest: digest_of(newcomer), ..nobodys }
        }
    });
    sessions
}
