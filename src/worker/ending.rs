//! Ending sessions: paid for out of the budget, with a durable intent first, oldest login first.

use std::collections::HashSet;

use jiff::{SignedDuration, Timestamp};
use tokio::time::{Instant, timeout_at};

use super::calls::{CallError, CallFor, worst};
use super::class::CallClass;
use super::evictions::{device_key, eviction_of};
use super::evidence::Ends;
use super::health::TenantState;
use super::step::{Look, StepError, TenantEnforcer};
use crate::directives::{Eviction, Leave, NoLeave};
use crate::ledger::{Ended, Intent, Outcome};
use crate::model::{Session, SessionId, TokenDigest, UserId, View};
use crate::policy::{Decision, ReasonCode, Verdict};
use crate::provider::{ProviderError, Revoked};
use crate::telemetry::labels;

/// Sessions of one user whose end failed, before a step leaves the rest to the next attempt.
const FAILED_ENDS_MAX: usize = 3;

/// A verdict with its session, which has the token.
pub(super) type Chosen<'a> = (&'a Verdict, &'a Session);

/// What sessions are ended for, and on whose account.
#[derive(Clone, Copy)]
pub(super) struct Cause<'a> {
    pub(super) look: &'a Look,
    pub(super) decision: &'a Decision,
    pub(super) view: &'a View,
    /// False: a person has chosen, which the budget is no brake for.
    pub(super) is_paid: bool,
    pub(super) deadline: Instant,
}

/// How it went.
pub(super) struct Ending {
    /// `None` where no session was tried. To be written by [`TenantEnforcer::close`].
    pub(super) ends: Option<Ends>,
    /// The first failure, after all were tried: a session that cannot be ended does not save the others.
    pub(super) result: Result<(), StepError>,
    pub(super) is_over_budget: bool,
}

impl TenantEnforcer {
    pub(super) async fn end_all(
        &self,
        cause: Cause<'_>,
        batch: &[Chosen<'_>],
        tried: &mut HashSet<TokenDigest>,
    ) -> Result<Ending, StepError> {
        let call = CallFor::new(&cause.look.user, CallClass::Revocation, cause.deadline);
        let mut ending = Ending { ends: None, result: Ok(()), is_over_budget: false };
        let mut failures = Vec::new();
        let mut evicted = None;
        for (verdict, session) in batch {
            let leave = match self.leave(cause, verdict.digest).await {
                Ok(leave) => leave,
                Err(NoLeave::Exhausted) => {
                    ending.is_over_budget = true;
                    break;
                }
                Err(unreachable) => {
                    ending.result = Err(StepError::Budget(unreachable));
                    break;
                }
            };
            if ending.ends.is_none() {
                let intent =
                    Intent { executed: true, ..self.intent(cause.look, cause.decision.clone(), cause.view, None) };
                match self.intend(intent).await {
                    Ok(intent) => ending.ends = Some(Ends { intent, outcomes: Vec::with_capacity(batch.len()) }),
                    Err(error) => {
                        if let Some(leave) = leave {
                            leave.unspent();
                        }
                        return Err(error);
                    }
                }
            }
            let (revoked, is_unsure) = self.calls.revoke(call, &session.token).await;
            settle(leave, &revoked, is_unsure);
            let ended = match revoked {
                Ok(Revoked::Done) => Ended::Revoked,
                Ok(Revoked::AlreadyGone) => Ended::AlreadyGone,
                Err(error) => {
                    failures.push(error);
                    Ended::Failed
                }
            };
            // Where the answer did not come, what the next listing still shows counts once all the same.
            if (ended == Ended::Revoked || is_unsure) && verdict.reason.is_some_and(ReasonCode::is_eviction) {
                evicted = Some((*verdict, *session));
            }
            let (session, reason) = (session.id(), verdict.reason);
            if let Some(ends) = &mut ending.ends {
                let outcome = Outcome { session, ended, reason };
                self.ledger.ended(&ends.intent, &outcome);
                ends.outcomes.push(outcome);
            }
            if ended != Ended::Failed {
                tried.insert(verdict.digest);
                self.note_end(&cause.look.user, session, reason, ended);
            } else if failures.last().is_some_and(|error| self.stops_the_step(error, failures.len())) {
                break;
            }
        }
        if let Some(failure) = worst(failures) {
            ending.result = Err(failure.into());
        }
        if let Some(evicted) = evicted {
            self.guard.note(&self.tenant, &cause.look.user, self.eviction(cause, evicted)).await;
        }
        Ok(ending)
    }

    /// `None`: nobody has to pay.
    async fn leave(&self, cause: Cause<'_>, session: TokenDigest) -> Result<Option<Leave<'_>>, NoLeave> {
        if !cause.is_paid {
            return Ok(None);
        }
        let asked = timeout_at(cause.deadline, self.brakes.purse.take(&self.tenant, session)).await;
        asked
            .unwrap_or_else(|_late| Err(NoLeave::Unreachable(anyhow::anyhow!("no answer within the step's deadline"))))
            .map(Some)
    }

    /// Whether the other sessions are not worth a try now: it is not this session that the failure is about.
    fn stops_the_step(&self, error: &CallError, failures: usize) -> bool {
        let of_all = matches!(error, CallError::Deadline | CallError::Provider(ProviderError::Throttled { .. }));
        of_all || failures >= FAILED_ENDS_MAX || self.state() != TenantState::Running
    }

    fn note_end(&self, user: &UserId, session: SessionId, reason: Option<ReasonCode>, ended: Ended) {
        let tenant = self.tenant.as_str();
        if ended == Ended::AlreadyGone {
            self.metrics.sessions_already_gone.get_or_create(&labels([("tenant", tenant)])).inc();
            return;
        }
        let reason = reason.map_or("none", ReasonCode::as_str);
        let of = labels([("tenant", tenant), ("reason", reason)]);
        self.metrics.sessions_revoked.get_or_create(&of).inc();
        tracing::info!(user.id = %user, session.id = %session, reason, "ended session {session} of user `{user}`: {reason}");
    }

    /// Lets the guard know what happened before this process began.
    pub(super) async fn remember_evictions(&self) {
        let window = SignedDuration::try_from(self.guard.window()).unwrap_or(SignedDuration::MAX);
        let since = self.clock.now().checked_sub(window).unwrap_or(Timestamp::MIN);
        match self.ledger.ends_since(&self.tenant, since).await {
            Ok(ends) => ends
                .iter()
                .filter_map(|(user, decision)| Some((user, eviction_of(decision)?)))
                .for_each(|(user, eviction)| self.guard.remember(user, eviction)),
            Err(error) => {
                tracing::warn!("the guard against ping-pong begins anew: {:#}", anyhow::Error::new(error));
            }
        }
    }

    /// What the guard is to know: which device was displaced, and by which.
    fn eviction(&self, cause: Cause<'_>, (verdict, session): Chosen<'_>) -> Eviction {
        let newest = verdict.witnesses.iter().next();
        let by = newest.and_then(|newest| cause.view.sessions.iter().find(|session| session.digest == *newest));
        let pile = cause.decision.revocations().map(|verdict| verdict.digest.session_id()).collect();
        let (at_ms, evicted) = (self.clock.now_ms(), device_key(session));
        Eviction { at_ms, evicted, by: by.map(device_key), session: session.id(), pile }
    }
}

fn settle(leave: Option<Leave<'_>>, revoked: &Result<Revoked, CallError>, is_unsure: bool) {
    let Some(leave) = leave else { return };
    match revoked {
        Ok(Revoked::Done) => leave.spent(),
        Err(_) if is_unsure => leave.unsure(),
        Ok(Revoked::AlreadyGone) | Err(_) => leave.unspent(),
    }
}
