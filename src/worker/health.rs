//! What the calls of one tenant say about its provider: running, out, or refusing our credentials.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::model::{TenantId, UserId};
use crate::provider::ProviderError;
use crate::telemetry::{Metrics, labels};

/// Unavailable calls in a row that make an outage.
const OUTAGE_AFTER: u32 = 10;
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
    refused: u32,
    refused_users: HashSet<UserId>,
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
        let successes = &self.lock().successes;
        successes.iter().flatten().any(|(other, at)| other != user && at.elapsed() < OTHERS_WITHIN)
    }

    /// Takes note of how a call ended. An answer that says no is an answer: the provider is there.
    pub(super) fn note(&self, user: &UserId, error: Option<&ProviderError>) {
        let entered = {
            let mut counts = self.lock();
            match error {
                None | Some(ProviderError::UserUnknown(_)) => {
                    counts.succeeded(user);
                    None
                }
                Some(ProviderError::Throttled { .. }) => None,
                Some(error) => {
                    counts.last_failed = Some(user.clone());
                    counts.failed(user, error)
                }
            }
        };
        match entered {
            Some(state) => self.enter(state, error),
            None if error.is_none() => self.enter(TenantState::Running, None),
            None => {}
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
        let cause = cause.map(chain).unwrap_or_default();
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

impl Counts {
    fn succeeded(&mut self, user: &UserId) {
        self.unavailable = 0;
        self.refused = 0;
        self.refused_users.clear();
        let now = Some((user.clone(), Instant::now()));
        let [last, other] = &mut self.successes;
        if last.as_ref().is_some_and(|(before, _)| before != user) {
            *other = last.take();
        }
        *last = now;
    }

    fn failed(&mut self, user: &UserId, error: &ProviderError) -> Option<TenantState> {
        match error {
            ProviderError::Unauthorized(_) => Some(TenantState::Unauthorized),
            ProviderError::Unavailable(_) => {
                self.unavailable = self.unavailable.saturating_add(1);
                (self.unavailable >= OUTAGE_AFTER).then_some(TenantState::Outage)
            }
            ProviderError::Refused(_) => {
                self.refused = self.refused.saturating_add(1);
                if self.refused_users.len() < REFUSED_USERS {
                    self.refused_users.insert(user.clone());
                }
                let enough = self.refused >= REFUSED_AFTER && self.refused_users.len() >= REFUSED_USERS;
                enough.then_some(TenantState::Outage)
            }
            ProviderError::Throttled { .. } | ProviderError::UserUnknown(_) => None,
        }
    }
}

/// An error with its causes, on one line.
pub(super) fn chain(error: &ProviderError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(source) = cause {
        text.push_str(": ");
        text.push_str(&source.to_string());
        cause = source.source();
    }
    text
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
        for _ in 0..9 {
            health.note(&user("ann"), Some(&unavailable()));
        }
        health.note(&user("bob"), None);
        for _ in 0..9 {
            health.note(&user("ann"), Some(&unavailable()));
        }
        assert_eq!(health.state(), TenantState::Running);
        health.note(&user("ann"), Some(&unavailable()));
        assert_eq!(health.state(), TenantState::Outage);
        health.note(&user("bob"), None);
        assert_eq!(health.state(), TenantState::Running);
    }

    #[test]
    fn refused_credentials_pause_at_once() {
        let health = health();
        health.note(&user("ann"), Some(&ProviderError::Unauthorized(anyhow::anyhow!("code 902"))));
        assert_eq!(health.state(), TenantState::Unauthorized);
    }

    #[test]
    fn refusals_make_an_outage_only_over_several_users() {
        let refused = ProviderError::Refused(anyhow::anyhow!("code 971"));
        let (one, many) = (health(), health());
        for n in 0..40 {
            one.note(&user("ann"), Some(&refused));
            many.note(&user(&format!("u{}", n % 5)), Some(&refused));
        }
        assert_eq!((one.state(), many.state()), (TenantState::Running, TenantState::Outage));
    }

    #[tokio::test(start_paused = true)]
    async fn another_users_success_counts_for_a_minute_and_ones_own_does_not() {
        let health = health();
        health.note(&user("ann"), None);
        assert!(!health.others_succeed(&user("ann")));
        assert!(health.others_succeed(&user("bob")));
        health.note(&user("bob"), None);
        assert!(health.others_succeed(&user("bob")), "ann's success is remembered behind bob's");
        tokio::time::advance(Duration::from_secs(61)).await;
        assert!(!health.others_succeed(&user("bob")));
    }
}
