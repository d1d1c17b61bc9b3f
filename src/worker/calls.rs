//! Provider calls as a step makes them: in turn, counted, tried a few times, never past the step's deadline.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::class::CallClass;
use super::health::{Call, Health};
use super::rate::RateGate;
use super::signs::Signs;
use crate::model::{AccessToken, TenantId, UserId, UserTraits, View};
use crate::provider::{ProviderError, Revoked, SessionProvider};
use crate::retry;
use crate::telemetry::{Metrics, labels};

/// How long everybody of a tenant stays away after "too many requests" without a time.
const THROTTLED_WAIT: Duration = Duration::from_secs(1);
/// The longest that a provider may make us stay away.
pub(super) const THROTTLED_WAIT_MAX: Duration = Duration::from_mins(10);

pub(super) struct Calls {
    pub(super) tenant: TenantId,
    pub(super) provider: Arc<dyn SessionProvider>,
    pub(super) gate: RateGate,
    pub(super) health: Health,
    pub(super) signs: Signs,
    pub(super) metrics: Metrics,
    pub(super) chance: fn() -> f64,
}

/// Whom a call is about, how it queues and until when it may be made.
#[derive(Clone, Copy)]
pub(super) struct CallFor<'a> {
    pub(super) user: &'a UserId,
    pub(super) class: CallClass,
    pub(super) deadline: Instant,
    /// It need not queue: its turn has come already.
    pub(super) has_turn: bool,
}

impl<'a> CallFor<'a> {
    pub(super) fn new(user: &'a UserId, class: CallClass, deadline: Instant) -> Self {
        Self { user, class, deadline, has_turn: false }
    }

    pub(super) fn is_started(&self) -> bool {
        self.class == self.class.started()
    }

    /// The same for the calls after the first one.
    pub(super) fn started(self) -> Self {
        Self { class: self.class.started(), has_turn: false, ..self }
    }
}

/// Why a call gave no answer.
#[derive(Debug)]
pub(super) enum CallError {
    Provider(ProviderError),
    /// The step's time was up before the call could be made.
    Deadline,
}

impl Calls {
    /// Waits for the turn of a step's first call. Its time begins with that turn: were the wait counted, too, steps that
    /// share a low rate would each begin with too little time left, and none would end.
    pub(super) async fn begin(&self, call: &mut CallFor<'_>, step_deadline: Duration) -> Result<(), CallError> {
        timeout_at(call.deadline, self.gate.pass(call.class)).await.map_err(|_late| CallError::Deadline)?;
        (call.deadline, call.has_turn) = (Instant::now() + step_deadline, true);
        Ok(())
    }

    pub(super) async fn list(&self, call: CallFor<'_>) -> Result<View, CallError> {
        let view = self.tried("list", call, || self.provider.list(call.user)).await?;
        self.signs.note_listed(call.user, &view);
        Ok(view)
    }

    /// With whether the session may have been ended although the answer says otherwise: the answer of a try did not come.
    ///
    /// A session that is gone after such a try was ended by it, as far as anybody can know: so it counts for the brakes.
    pub(super) async fn revoke(&self, call: CallFor<'_>, token: &AccessToken) -> (Result<Revoked, CallError>, bool) {
        let is_unsure = AtomicBool::new(false);
        let once = async || {
            // A try that is given up in the middle leaves it so.
            let was_unsure = is_unsure.swap(true, Ordering::Relaxed);
            let answer = self.provider.revoke(token).await;
            let is_lost = matches!(answer, Err(ProviderError::Unavailable(_)));
            is_unsure.store(was_unsure || is_lost, Ordering::Relaxed);
            answer
        };
        let answer = self.tried("revoke", call, once).await;
        let is_unsure = is_unsure.into_inner();
        match answer {
            Ok(Revoked::AlreadyGone) if is_unsure => (Ok(Revoked::Done), false),
            Ok(revoked) => (Ok(revoked), false),
            Err(error) => (Err(error), is_unsure),
        }
    }

    pub(super) async fn traits(&self, call: CallFor<'_>) -> Result<UserTraits, CallError> {
        let traits = self.tried("profile", call, || self.provider.traits(call.user)).await?;
        self.signs.note_traits(call.user, &traits);
        Ok(traits)
    }

    /// Whose token it is. What comes of a stranger's token says nothing about the provider.
    pub(super) async fn identify(&self, token: &AccessToken, deadline: Instant) -> Result<UserId, CallError> {
        let passed = timeout_at(deadline, self.gate.pass(CallClass::Asked)).await;
        passed.map_err(|_late| CallError::Deadline)?;
        let answer = timeout_at(deadline, self.provider.identify(token)).await.unwrap_or_else(|_late| Err(too_late()));
        let error = answer.as_ref().err();
        self.heed(error);
        let result = error.map_or("ok", ProviderError::class);
        self.count("identify", result);
        answer.map_err(CallError::Provider)
    }

    /// One listing without further tries, to learn whether the provider answers.
    pub(super) async fn probe(&self, user: &UserId) -> Result<(), ProviderError> {
        self.gate.pass(CallClass::Revocation).await;
        let listed = self.provider.list(user).await;
        self.note("probe", (Call::Look, CallClass::Revocation), user, &listed);
        listed.map(drop)
    }

    async fn tried<T, F>(&self, operation: &str, call: CallFor<'_>, make: impl Fn() -> F) -> Result<T, CallError>
    where
        F: Future<Output = Result<T, ProviderError>>,
    {
        let mut tries = 0;
        loop {
            if tries > 0 || !call.has_turn {
                let turn = timeout_at(call.deadline, self.gate.pass(call.class)).await;
                if turn.is_err() || Instant::now() >= call.deadline {
                    return Err(CallError::Deadline);
                }
            }
            let answer = timeout_at(call.deadline, make()).await.unwrap_or_else(|_late| Err(too_late()));
            let kind = if call.class == CallClass::Revocation { Call::Revoke } else { Call::Look };
            self.note(operation, (kind, call.class), call.user, &answer);
            tries += 1;
            let error = match answer {
                Ok(answer) => return Ok(answer),
                Err(error @ ProviderError::Unavailable(_)) => error,
                Err(final_error) => return Err(CallError::Provider(final_error)),
            };
            match retry::step_delay(tries, (self.chance)()) {
                Some(delay) if Instant::now() + delay < call.deadline => tokio::time::sleep(delay).await,
                _ => return Err(CallError::Provider(error)),
            }
        }
    }

    fn note<T>(
        &self,
        operation: &str,
        (call, class): (Call, CallClass),
        user: &UserId,
        answer: &Result<T, ProviderError>,
    ) {
        let error = answer.as_ref().err();
        self.heed(error);
        // A user whom an app asks about may be any word that somebody typed.
        if !(class == CallClass::Asked && matches!(error, Some(ProviderError::Refused(_)))) {
            self.health.note(user, call, error);
        }
        self.signs.note_answer(user, error);
        self.count(operation, error.map_or("ok", ProviderError::class));
    }

    /// Stays away where that was asked for.
    fn heed(&self, error: Option<&ProviderError>) {
        if let Some(ProviderError::Throttled { retry_after, .. }) = error {
            self.gate.close_for(retry_after.unwrap_or(THROTTLED_WAIT).min(THROTTLED_WAIT_MAX));
        }
    }

    fn count(&self, operation: &str, result: &str) {
        let of = labels([("tenant", self.tenant.as_str()), ("operation", operation), ("result", result)]);
        self.metrics.provider_calls.get_or_create(&of).inc();
    }
}

fn too_late() -> ProviderError {
    ProviderError::Unavailable(anyhow::anyhow!("no answer within the step's deadline"))
}

/// The failure that says most about when to come again: what may work later goes before what never will.
pub(super) fn worst(failures: Vec<CallError>) -> Option<CallError> {
    failures.into_iter().max_by_key(|error| match error {
        CallError::Provider(ProviderError::Refused(_) | ProviderError::UserUnknown(_)) => 0,
        CallError::Provider(ProviderError::Unauthorized(_)) => 1,
        CallError::Provider(ProviderError::Unavailable(_)) => 2,
        CallError::Provider(ProviderError::Throttled { .. }) | CallError::Deadline => 3,
    })
}
