//! One look at one user: list, decide, write the intent, revoke, list again, write the outcome.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use super::asking::Views;
use super::calls::{CallError, CallFor, Calls};
use super::class::CallClass;
use super::ending::{Cause, Chosen};
use super::fleet::Share;
use super::guard::{Brakes, Guard};
use super::health::TenantState;
use crate::clock::Clock;
use crate::config::WorkerConfig;
use crate::directives::{Directive, Directives, NoLeave, Stale};
use crate::ledger::{Ended, Held, Ledger, LedgerError, Outcome};
use crate::model::{Lane, Reason, Session, SessionId, TenantId, TokenDigest, UserId, View};
use crate::policy::{
    Decision, Marks, Mode, Policy, ReasonCode, Resolution, ResolvedPolicy, Strategy, Subject, Verdict, decide,
    device_count, distinct,
};
use crate::provider::ProviderError;
use crate::queue::Why;
use crate::retry;
use crate::telemetry::{Metrics, labels};

/// Listings of one step, the last look included. A user with more surplus than they can end is looked at again.
const LISTINGS_PER_STEP_MAX: usize = 24;
/// Under `reject_newest` only sessions this recent, seen from the login event, are ended.
pub(super) const REJECT_WINDOW: SignedDuration = SignedDuration::from_secs(60);

/// Whom to look at, and what is known of the login that is the reason.
#[derive(Clone, Debug)]
pub struct Look {
    pub user: UserId,
    pub reason: Reason,
    /// The first of the logins that it is for.
    pub at: Option<Timestamp>,
    /// The last of them, which a listed session must reach.
    pub login_at: Option<Timestamp>,
    /// Decide and record nothing, end nothing.
    pub dry_run: bool,
}

/// What a look found and did.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// The first decision of the step, or `None` in mode `off`.
    pub decision: Option<Decision>,
    /// The view that it was made from, each session once, newest login first.
    pub view: View,
    /// How many devices the view's sessions are on, by the device fields of the user's policy.
    pub devices: usize,
    /// That policy.
    pub policy: Arc<Policy>,
    /// What would keep the rule's wish from being done for somebody who logs in.
    pub held: Option<Held>,
    pub outcomes: Vec<Outcome>,
    /// When and why to look again.
    pub again: Option<LookAgain>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LookAgain {
    pub after: Duration,
    pub rung: u8,
    pub why: Why,
}

/// Why a look could not be finished. Nothing that it ended is undone by that; the next look starts afresh.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    #[error("a call to the identity provider failed")]
    Provider(#[source] ProviderError),
    #[error("nobody is ended without current directives")]
    Directives(#[source] Stale),
    #[error("nobody is ended without a part of the revocation budget")]
    Budget(#[source] NoLeave),
    #[error("nobody is ended without a durable intent")]
    Ledger(#[source] LedgerError),
    #[error("the step's deadline passed")]
    Deadline,
}

impl From<CallError> for StepError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Provider(error) => Self::Provider(error),
            CallError::Deadline => Self::Deadline,
        }
    }
}

/// Looks at users of one tenant. Any number of looks at the same user may run at once, anywhere.
#[async_trait]
pub trait Enforcer: Send + Sync {
    async fn evaluate(&self, look: &Look) -> Result<Evaluation, StepError>;

    /// Ends one session of a user because somebody chose it; `None` when the user has no such session.
    async fn end(&self, user: &UserId, session: SessionId) -> Result<Option<Ended>, StepError>;
}

/// The worker's step for one tenant.
pub struct TenantEnforcer {
    pub(super) tenant: TenantId,
    pub(super) calls: Calls,
    pub(super) directives: Arc<dyn Directives>,
    pub(super) ledger: Arc<dyn Ledger>,
    pub(super) brakes: Brakes,
    pub(super) guard: Guard,
    pub(super) config: WorkerConfig,
    pub(super) clock: Clock,
    pub(super) metrics: Metrics,
    pub(super) views: Views,
}

#[async_trait]
impl Enforcer for TenantEnforcer {
    async fn evaluate(&self, look: &Look) -> Result<Evaluation, StepError> {
        self.look(look).await
    }

    async fn end(&self, user: &UserId, session: SessionId) -> Result<Option<Ended>, StepError> {
        let ended = self.end_chosen(user, |of| of == session, ReasonCode::Admin).await?;
        Ok(ended.first().map(|outcome| outcome.ended))
    }
}

impl TenantEnforcer {
    async fn look(&self, look: &Look) -> Result<Evaluation, StepError> {
        let begins_before = Instant::now() + self.config.step_deadline;
        let class = if look.dry_run { CallClass::Asked } else { CallClass::of(look.reason.lane()) };
        let mut call = CallFor::new(&look.user, class, begins_before);
        let ruling = self.resolve(&mut call).await?;
        let resolution = &ruling.resolution;
        let mut evaluation = Evaluation {
            decision: None,
            view: View::default(),
            devices: 0,
            policy: Arc::clone(&resolution.policy.policy),
            held: self.held(&ruling, &look.user, Reason::Login),
            outcomes: Vec::new(),
            again: None,
        };
        if resolution.policy.policy.mode == Mode::Off && !look.dry_run {
            return Ok(evaluation);
        }
        if !call.is_started() {
            self.calls.begin(&mut call, self.config.step_deadline).await?;
        }
        let (mut tried, mut ends) = (HashSet::new(), None);
        for listing in 1..=LISTINGS_PER_STEP_MAX {
            // The disk has written what came of the last revocations before the provider has listed what is left.
            let (view, ()) = tokio::join!(self.calls.list(call), self.close(look, ends.take()));
            let view = view?;
            call = call.started();
            let decision = self.decide(&view, &ruling, &look.user);
            let held = self.held(&ruling, &look.user, look.reason);
            let executed = held.is_none() && !look.dry_run;
            let chosen = chosen(&decision, &view, resolution, look);
            if listing == 1 {
                evaluation.decision = Some(decision.clone());
                evaluation.view = distinct(&view);
                evaluation.devices = device_count(&evaluation.view, &resolution.policy.policy);
                if !look.dry_run {
                    self.count(&decision, executed);
                    if chosen.is_empty() && look.reason.lane() == Lane::Logins {
                        self.ledger.note(self.intent(look, decision.clone(), &view, None));
                    }
                }
            }
            if !executed {
                if !look.dry_run && !chosen.is_empty() {
                    self.record_held(look, decision, &view, held).await?;
                } else if held == Some(Held::StaleDirectives) {
                    // They will be current again, and then the login must have been looked for.
                    evaluation.again = look_again(look, &view, &decision, false);
                }
                return Ok(evaluation);
            }
            let fresh: Vec<_> = chosen.iter().filter(|(verdict, _)| !tried.contains(&verdict.digest)).collect();
            if fresh.is_empty() || listing == LISTINGS_PER_STEP_MAX {
                evaluation.again = look_again(look, &view, &decision, !chosen.is_empty());
                return Ok(evaluation);
            }
            let batch: Vec<_> = fresh.into_iter().take(self.config.revokes_per_step_max).copied().collect();
            let cause = Cause { look, decision: &decision, view: &view, is_paid: true, deadline: call.deadline };
            let ending = self.end_all(cause, &batch, &mut tried).await?;
            evaluation.outcomes.extend(ending.ends.iter().flat_map(|ends| ends.outcomes.iter().cloned()));
            ends = ending.ends;
            if ending.result.is_err() || ending.is_over_budget {
                self.close(look, ends).await;
                if ending.is_over_budget {
                    self.record_held(look, decision, &view, Some(Held::Budget)).await?;
                }
                return ending.result.map(|()| evaluation);
            }
        }
        Ok(evaluation)
    }

    /// Whether this tenant's messages are worked on.
    pub fn state(&self) -> TenantState {
        self.calls.health.state()
    }

    /// From now on only this much of the tenant's rate is for this process.
    pub fn set_share(&self, share: Share) {
        self.calls.gate.set_share(share);
    }

    /// What apps ask gets this much of the tenant's calls while others wait, in percent.
    pub fn set_asked_percent(&self, percent: u32) {
        self.calls.gate.set_asked_percent(percent);
    }

    /// Lets the guard's hold on a user go, as the directives already have.
    pub fn release(&self, user: &UserId) {
        self.guard.release(user);
    }

    /// Where that takes a call, the step has begun with it.
    pub(super) async fn resolve(&self, call: &mut CallFor<'_>) -> Result<Ruling, StepError> {
        let directive = self.directives.current(&self.tenant, call.user);
        let is_stale = !directive.as_ref().is_ok_and(|directive| directive.is_current);
        let of_tenant = labels([("tenant", self.tenant.as_str())]);
        let was_stale = self.metrics.directives_stale.get_or_create(&of_tenant).set(i64::from(is_stale)) != 0;
        if is_stale && !was_stale {
            tracing::error!(
                alarm = "directives_stale",
                tenant = %self.tenant,
                "what was decided at run time is too old to end a session of tenant `{}` by: see whether the control \
                 process runs and can be heard",
                self.tenant
            );
        }
        let directive = directive.map_err(StepError::Directives)?;
        let now = self.clock.now();
        let resolution = match directive.policies.resolve(call.user, None, now) {
            Ok(resolution) => resolution,
            Err(_needed) => {
                self.calls.begin(call, self.config.step_deadline).await?;
                let traits = self.calls.traits(*call).await?;
                *call = call.started();
                let resolved = directive.policies.resolve(call.user, Some(&traits), now);
                resolved.map_err(|needed| StepError::Provider(ProviderError::Unavailable(needed.into())))?
            }
        };
        Ok(Ruling::new(resolution, directive))
    }

    pub(super) fn decide(&self, view: &View, ruling: &Ruling, user: &UserId) -> Decision {
        let Ruling { resolution, directive } = ruling;
        let mut marks = Marks::default();
        marks.pinned.extend(directive.pins.iter().flat_map(|pins| pins.iter().copied()));
        if let Some(exemption) = &resolution.exemption {
            marks.exempt_all(view, exemption.effect);
        }
        decide(view, &resolution.policy, &marks, Subject { tenant: Some(&self.tenant), user: Some(user) })
    }

    /// What keeps the rule's wish from being done.
    pub(super) fn held(&self, ruling: &Ruling, user: &UserId, reason: Reason) -> Option<Held> {
        let Ruling { resolution, directive } = ruling;
        let policy = &resolution.policy.policy;
        let in_time = policy.strategy == Strategy::EvictOldest || reason == Reason::Login;
        let brakes = [
            (policy.mode != Mode::Enforce, Held::Observe),
            (!policy.in_canary(&self.tenant, user), Held::Canary),
            (!in_time, Held::NotALogin),
            (!directive.is_current, Held::StaleDirectives),
            (directive.is_braked, Held::Budget),
            (self.guard.holds(user, directive.is_contended), Held::Contended),
        ];
        brakes.into_iter().find(|(holds, _)| *holds).map(|(_, held)| held)
    }

    /// Keeps a decision that something holds back. One that waits for current directives comes again by itself.
    async fn record_held(
        &self,
        look: &Look,
        decision: Decision,
        view: &View,
        held: Option<Held>,
    ) -> Result<(), StepError> {
        let why = held.map_or("", Held::as_str);
        let of = labels([("tenant", self.tenant.as_str()), ("why", why)]);
        self.metrics.decisions_held.get_or_create(&of).inc();
        if held == Some(Held::StaleDirectives) {
            self.ledger.note(self.intent(look, decision, view, held));
            return Err(StepError::Directives(Stale));
        }
        self.record(look, decision, view, held).await;
        Ok(())
    }

    fn count(&self, decision: &Decision, executed: bool) {
        let tenant = self.tenant.as_str();
        let outcome = match (decision.revocations().next(), executed) {
            (None, _) => "keep",
            (Some(_), true) => "revoke",
            (Some(_), false) => "would_revoke",
        };
        let of = labels([("tenant", tenant), ("mode", decision.mode.as_str()), ("outcome", outcome)]);
        self.metrics.decisions.get_or_create(&of).inc();
        let unresolved = decision.surplus_unresolved as u64;
        self.metrics.surplus_unresolved.get_or_create(&labels([("tenant", tenant)])).inc_by(unresolved);
    }
}

/// What holds for the user of a look.
pub(super) struct Ruling {
    pub(super) resolution: Resolution,
    pub(super) directive: Directive,
}

impl Ruling {
    pub(super) fn new(resolution: Resolution, directive: Directive) -> Self {
        let policy = directive.cap.into_iter().fold(resolution.policy, ResolvedPolicy::capped);
        Self { resolution: Resolution { policy, ..resolution }, directive }
    }
}

/// The sessions to end, oldest first, each with its token.
fn chosen<'a>(decision: &'a Decision, view: &'a View, resolution: &Resolution, look: &Look) -> Vec<Chosen<'a>> {
    let not_before = match resolution.policy.policy.strategy {
        Strategy::EvictOldest => None,
        Strategy::RejectNewest => Some(reject_from(look)),
    };
    let due = decision.revocations().filter(|verdict| not_before.is_none_or(|from| verdict.login_at >= Some(from)));
    with_sessions(due, view)
}

pub(super) fn with_sessions<'a>(verdicts: impl Iterator<Item = &'a Verdict>, view: &'a View) -> Vec<Chosen<'a>> {
    let by_digest: HashMap<TokenDigest, &Session> =
        view.sessions.iter().map(|session| (session.digest, session)).collect();
    verdicts.filter_map(|verdict| Some((verdict, *by_digest.get(&verdict.digest)?))).collect()
}

/// The earliest login that a `reject_newest` decision may end: without the event's time, none.
fn reject_from(look: &Look) -> Timestamp {
    let event_at = look.at.or(look.login_at).unwrap_or(Timestamp::MAX);
    event_at.checked_sub(REJECT_WINDOW).unwrap_or(Timestamp::MAX)
}

/// Whether another look must follow: the login that woke us is not listed yet, rows may be missing, or surplus is left.
fn look_again(look: &Look, view: &View, decision: &Decision, surplus_left: bool) -> Option<LookAgain> {
    let next_rung = match look.reason {
        Reason::Recheck { rung } => rung.saturating_add(1),
        _ => 0,
    };
    let on_ladder = |why| retry::recheck_delay(next_rung).map(|after| LookAgain { after, rung: next_rung, why });
    if surplus_left || decision.recheck_after.is_some() {
        return on_ladder(Why::SurplusLeft);
    }
    match (look.login_at, look.reason) {
        (Some(login_at), _) if !is_visible(login_at, view) => on_ladder(Why::LoginNotVisible),
        // Of whom it is not known when they logged in, there is one look after the time that a listing may lag; also where
        // surplus has called for an earlier one.
        (None, Reason::Login | Reason::Recheck { rung: ..retry::RECHECK_ONCE }) => {
            let rung = retry::RECHECK_ONCE;
            retry::recheck_delay(rung).map(|after| LookAgain { after, rung, why: Why::LoginNotVisible })
        }
        _ => None,
    }
}

/// A login is visible when some listed time reaches it; listings may cut its time to milliseconds.
fn is_visible(login_at: Timestamp, view: &View) -> bool {
    let reached = |listed: Timestamp| listed.as_millisecond() >= login_at.as_millisecond();
    view.sessions.iter().filter_map(|session| session.login_at).any(reached)
}
