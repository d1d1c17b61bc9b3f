//! What the calls of one tenant say about its provider: running, out, or refusing our credentials.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::model::{TenantId, UserId};
use crate::provider::ProviderError;
use crate::telemetry::{Metrics, causes, labels};

/// Unavailable calls in a row that make an outage: over at least [`OUTAGE_USERS`] users, or of one user while no other
/// call has succeeded for [`OTHERS_WITHIN`].
const OUTAGE_AFTER: u32 = 10;
const OUTAGE_USERS: usize = 2;
/// Users in a row whose sessions we may not end, before it is our credentials and not their tokens.
const FORBIDDEN_USERS: usize = 3;
/// Refused calls in a row, over at least [`REFUSED_USERS`] users, that make an outage: the vendor changed something.
const REFUSED_AFTER: u32 = 20;
const REFUSED_USERS: usize = 5;
/// How recent another user's success must be to call a failure that user's own.
const OTHERS_WITHIN: Duration = Duration::from_mins(1);

/// Whether a tenant's messages are worked on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TenantState {
    Running,
    /// The provider does not answer: probe and wait; nothing is spent.
    Outage,
    /// The provider refuses our credentials: an operator must act.
    Unauthorized,
}

impl TenantState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Outage => "outage",
            Self::Unauthorized => "unauthorized",
        }
    }
}

pub(super) struct Health {
    tenant: TenantId,
    metrics: Metrics,
    state: watch::Sender<TenantState>,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    unavailable: u32,
    unavailable_users: HashSet<UserId>,
    refused: u32,
    refused_users: HashSet<UserId>,
    /// Users whose revocations were refused for want of rights since the last one that was not.
    forbidden_users: HashSet<UserId>,
    /// The last success and the last one of another user.
    successes: [Option<(UserId, Instant)>; 2],
    last_failed: Option<UserId>,
}

impl Health {
    pub(super) fn new(tenant: TenantId, metrics: Metrics) -> Self {
        Self { tenant, metrics, state: watch::Sender::new(TenantState::Running), counts: Mutex::default() }
    }

    pub(super) fn state(&self) -> TenantState {
        *self.state.borrow()
    }

    pub(super) fn watch(&self) -> watch::Receiver<TenantState> {
        self.state.subscribe()
    }

    /// The user of the last call that failed, for a probe when nobody waits.
    pub(super) fn last_failed(&self) -> Option<UserId> {
        self.lock().last_failed.clone()
    }

    /// Whether a call for another user succeeded in the last minute.
    pub(super) fn others_succeed(&self, user: &UserId) -> bool {
        self.lock().others_succeed(user)
    }

    /// Takes note of how a call ended. An answer that says no is an answer, too: the provider is there.
    pub(super) fn note(&self, user: &UserId, call: Call, error: Option<&ProviderError>) {
        let state = {
            let mut counts = self.lock();
            match error {
                None | Some(ProviderError::UserUnknown(_)) => {
                    counts.succeeded(user, call);
                    Some(TenantState::Running)
                }
                Some(error) => {
                    counts.last_failed = Some(user.clone());
                    counts.failed(user, call, error)
                }
            }
        };
        if let Some(state) = state {
            self.enter(state, error);
        }
    }

    /// Changes the state and says so, once.
    fn enter(&self, state: TenantState, cause: Option<&ProviderError>) {
        let changed = self.state.send_if_modified(|now| std::mem::replace(now, state) != state);
        if !changed {
            return;
        }
        let tenant = self.tenant.as_str();
        for cause in [TenantState::Outage, TenantState::Unauthorized] {
            let of = labels([("tenant", tenant), ("cause", cause.as_str())]);
            self.metrics.tenant_paused.get_or_create(&of).set(i64::from(cause == state));
        }
        let cause = cause.map(|error| causes(error)).unwrap_or_default();
        match state {
            TenantState::Running => tracing::info!(tenant, "tenant `{tenant}`: the identity provider answers again"),
            TenantState::Outage => tracing::error!(
                tenant,
                alarm = "outage",
                "tenant `{tenant}` is paused: the identity provider does not answer ({cause}); nothing is lost, probing until it does"
            ),
            TenantState::Unauthorized => tracing::error!(
                tenant,
                alarm = "unauthorized",
                "tenant `{tenant}` is paused: the identity provider refuses our credentials ({cause}); check api_key, api_secret and the allowed addresses; nothing is lost"
            ),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a call was for, as far as its failure means something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// With our credentials alone.
    Look,
    /// With a session's token: a refusal may be that token's.
    Revoke,
}

impl Counts {
    fn succeeded(&mut self, user: &UserId, call: Call) {
        self.answered();
        self.refused = 0;
        self.refused_users.clear();
        if call == Call::Revoke {
            self.forbidden_users.clear();
        }
        let now = Some((user.clone(), Instant::now()));
        let [last, other] = &mut self.successes;
        if last.as_ref().is_some_and(|(before, _)| before != user) {
            *other = last.take();
        }
        *last = now;
    }

    fn others_succeed(&self, user: &UserId) -> bool {
        self.successes.iter().flatten().any(|(other, at)| other != user && at.elapsed() < OTHERS_WITHIN)
    }

    fn answered(&mut self) {
        self.unavailable = 0;
        self.unavailable_users.clear();
    }

    /// The state that this failure puts the tenant into, if any.
    fn failed(&mut self, user: &UserId, call: Call, error: &ProviderError) -> Option<TenantState> {
        match error {
            ProviderError::Unauthorized(_) if call == Call::Revoke => {
                remember(&mut self.forbidden_users, user, FORBIDDEN_USERS);
                (self.forbidden_users.len() >= FORBIDDEN_USERS).then_some(TenantState::Unauthorized)
            }
            ProviderError::Unauthorized(_) => Some(TenantState::Unauthorized),
            ProviderError::Unavailable(_) => {
                self.unavailable = self.unavailable.saturating_add(1);
                remember(&mut self.unavailable_users, user, OUTAGE_USERS);
                let of_all = self.unavailable_users.len() >= OUTAGE_USERS || !self.others_succeed(user);
                (self.unavailable >= OUTAGE_AFTER && of_all).then_some(TenantState::Outage)
            }
            ProviderError::Refused(_) => {
                self.answered();
                self.refused = self.refused.saturating_add(1);
                remember(&mut self.refused_users, user, REFUSED_USERS);
                let enough = self.refused >= REFUSED_AFTER && self.refused_users.len() >= REFUSED_USERS;
                Some(if enough { TenantState::Outage } else { TenantState::Running })
            }
            ProviderError::Throttled { .. } | ProviderError::UserUnknown(_) => None,
        }
    }
}

/// Distinct users, as many as matter.
fn remember(users: &mut HashSet<UserId>, user: &UserId, most: usize) {
    if users.len() < most {
        users.insert(user.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health() -> Health {
        Health::new(TenantId::default_tenant(), Metrics::new())
    }

    fn user(name: &str) -> UserId {
        UserId::parse(name).unwrap()
    }

    fn unavailable() -> ProviderError {
        ProviderError::Unavailable(anyhow::anyhow!("timed out"))
    }

    #[test]
    fn ten_unavailable_calls_in_a_row_make_an_outage_and_one_answer_ends_it() {
        let health = health();
        let fail = |times: u32| {
            for n in 0..times {
                health.note(&user(if n % 2 == 0 { "ann" } else { "bob" }), Call::Look, Some(&unavailable()));
            }
        };
        fail(9);
        health.note(&user("bob"), Call::Look, None);
        fail(9);
        assert_eq!(health.state(), TenantState::Running);
        fail(1);
        assert_eq!(health.state(), TenantState::Outage);
        let unknown = ProviderError::UserUnknown(anyhow::anyhow!("code 938"));
        health.note(&user("gone"), Call::Look, Some(&unknown));
        assert_eq!(health.state(), TenantState::Running, "an answer that says no is an answer");
    }

    #[tokio::test(start_paused = true)]
    async fn one_users_own_failures_are_no_outage_while_others_are_answered() {
        let health = health();
        health.note(&user("bob"), Call::Look, None);
        for _ in 0..100 {
            health.note(&user("ann"), Call::Look, Some(&unavailable()));
        }
        assert_eq!(health.state(), TenantState::Running);
        tokio::time::advance(Duration::from_secs(61)).await;
        health.note(&user("ann"), Call::Look, Some(&unavailable()));
        assert_eq!(health.state(), TenantState::Outage, "nobody has been answered for a minute");
    }

    #[test]
    fn one_session_that_may_not_be_ended_pauses_nobody_else() {
        let health = health();
        let forbidden = ProviderError::Unauthorized(anyhow::anyhow!("403 without a code"));
        for _ in 0..20 {
            health.note(&user("ann"), Call::Revoke, Some(&forbidden));
        }
        assert_eq!(health.state(), TenantState::Running);
        health.note(&user("bob"), Call::Revoke, Some(&forbidden));
        health.note(&user("cleo"), Call::Revoke, Some(&forbidden));
        assert_eq!(health.state(), TenantState::Unauthorized);
    }

    #[test]
    fn refused_credentials_pause_at_once() {
        let health = health();
        health.note(&user("ann"), Call::Look, Some(&ProviderError::Unauthorized(anyhow::anyhow!("code 902"))));
        assert_eq!(health.state(), TenantState::Unauthorized);
    }

    #[test]
    fn refusals_make_an_outage_only_over_several_users() {
        let refused = ProviderError::Refused(anyhow::anyhow!("code 971"));
        let (one, many) = (health(), health());
        for n in 0..40 {
            one.note(&user("ann"), Call::Look, Some(&refused));
            many.note(&user(&format!("u{}", n % 5)), Call::Look, Some(&refused));
        }
        assert_eq!((one.state(), many.state()), (TenantState::Running, TenantState::Outage));
    }

    #[tokio::test(start_paused = true)]
    async fn another_users_success_counts_for_a_minute_and_ones_own_does_not() {
        let health = health();
        health.note(&user("ann"), Call::Look, None);
        assert!(!health.others_succeed(&user("ann")));
        assert!(health.others_succeed(&user("bob")));
        health.note(&user("bob"), Call::Look, None);
        assert!(health.others_succeed(&user("bob")), "ann's success is remembered behind bob's");
        tokio::time::advance(Duration::from_secs(61)).await;
        assert!(!health.others_succeed(&user("bob")));
    }
}
