//! What a look notices beside its work: signs of trouble at the provider. Evidence only, no decision reads them.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};
use tokio::time::{Duration, Instant};

use super::step::TenantEnforcer;
use crate::clock::Clock;
use crate::model::{Session, SessionId, TenantId, UserId, UserTraits, View};
use crate::provider::ProviderError;
use crate::telemetry::{Metrics, labels};

/// How far ahead of our clock a login may be without being odd: two machines' clocks seldom differ by more.
pub(super) const AHEAD_MAX: SignedDuration = SignedDuration::from_mins(5);
/// Sessions from the future that are told apart. When there are more, they are counted anew.
const SESSIONS_REMEMBERED_MAX: usize = 10_000;
/// One line in the log stands for all such sessions of so long a time.
const LOG_EVERY: Duration = Duration::from_mins(10);

/// The signs of one tenant.
pub(super) struct Signs {
    tenant: TenantId,
    clock: Clock,
    metrics: Metrics,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    limiter: Option<LimiterSign>,
    from_the_future: HashSet<SessionId>,
    logged_at: Option<Instant>,
}

/// What told of the provider's own session limiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimiterSign {
    /// A call was answered with code 1338. The vendor documents it for logins, which it refuses; whether a listing, an
    /// ending or a refresh can meet it is not known, so every call of ours is watched.
    Refused,
    /// A profile has a `SessionsLimit`. Profiles are read only where a rule or an exemption needs them.
    Profile,
}

impl LimiterSign {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "error_1338",
            Self::Profile => "sessions_limit",
        }
    }
}

impl Signs {
    pub(super) fn new(tenant: TenantId, clock: Clock, metrics: Metrics) -> Self {
        Self { tenant, clock, metrics, seen: Mutex::default() }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of how any call ended.
    pub(super) fn note_answer(&self, user: &UserId, error: Option<&ProviderError>) {
        if error.is_some_and(ProviderError::is_login_limit) {
            self.note_limiter(user, LimiterSign::Refused);
        }
    }

    pub(super) fn note_traits(&self, user: &UserId, traits: &UserTraits) {
        if traits.sessions_limit.is_some() {
            self.note_limiter(user, LimiterSign::Profile);
        }
    }

    /// Counts each sign, and says once what it means.
    fn note_limiter(&self, user: &UserId, sign: LimiterSign) {
        let tenant = self.tenant.as_str();
        self.metrics.vendor_limiter.get_or_create(&labels([("tenant", tenant), ("sign", sign.as_str())])).inc();
        if self.seen().limiter.replace(sign).is_none() {
            tracing::error!(
                tenant,
                user.id = %user,
                sign = sign.as_str(),
                alarm = "vendor_limiter",
                "tenant `{tenant}` limits sessions at LoginRadius, too ({}): it refuses a new login where Soloist would end the oldest session, so users with full lists stay outside; turn Restrict Login Sharing off there, or set mode = \"off\" here",
                sign.as_str()
            );
        }
    }

    /// Looks for logins that have not happened yet: the order goes by the provider's times alone, so such a session is
    /// the newest until its time has come, and every real login is ended in its favour.
    pub(super) fn note_listed(&self, user: &UserId, view: &View) {
        let now = self.clock.now();
        let ahead: Vec<SessionId> =
            view.sessions.iter().filter(|session| is_ahead(session, now)).map(Session::id).collect();
        if ahead.is_empty() {
            return;
        }
        let mut seen = self.seen();
        if seen.from_the_future.len() >= SESSIONS_REMEMBERED_MAX {
            seen.from_the_future.clear();
        }
        let fresh: Vec<SessionId> = ahead.into_iter().filter(|id| seen.from_the_future.insert(*id)).collect();
        let Some(session) = fresh.first() else { return };
        let is_told = seen.logged_at.is_some_and(|at| at.elapsed() < LOG_EVERY);
        if !is_told {
            seen.logged_at = Some(Instant::now());
        }
        drop(seen);
        let tenant = self.tenant.as_str();
        let count = u64::try_from(fresh.len()).unwrap_or(u64::MAX);
        self.metrics.sessions_from_the_future.get_or_create(&labels([("tenant", tenant)])).inc_by(count);
        if !is_told {
            tracing::error!(
                tenant,
                user.id = %user,
                session.id = %session,
                alarm = "session_from_the_future",
                "session {session} of user `{user}` has a login time that is still to come: it counts as the newest until then, and newer logins are ended in its favour; compare the clocks with `soloist check`, and end it with `soloist revoke {user} {session}` if its time is wrong"
            );
        }
    }
}

fn is_ahead(session: &Session, now: Timestamp) -> bool {
    session.login_at.is_some_and(|login_at| login_at.duration_since(now) > AHEAD_MAX)
}

impl TenantEnforcer {
    /// What told of the provider's own session limiter since the start, if anything did.
    pub fn vendor_limiter(&self) -> Option<LimiterSign> {
        self.calls.signs.seen().limiter
    }

    /// Whether a session claims to begin later than now, by our clock. No decision depends on that.
    pub fn is_from_the_future(&self, session: &Session) -> bool {
        is_ahead(session, self.clock.now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SessionDevice;

    fn signs(now: &str) -> Signs {
        Signs::new(TenantId::default_tenant(), Clock::starting_at(now.parse().unwrap()), Metrics::new())
    }

    fn listed(signs: &Signs, tokens: &[&str], login_at: &str) {
        let session = |token: &&str| Session::new(token, login_at.parse().ok(), SessionDevice::default());
        let view = View { sessions: tokens.iter().map(session).collect(), complete: true };
        signs.note_listed(&UserId::parse("ann").unwrap(), &view);
    }

    fn counted(signs: &Signs) -> u64 {
        signs.metrics.sessions_from_the_future.get_or_create(&labels([("tenant", "default")])).get()
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_from_the_future_is_counted_once_however_often_it_is_listed() {
        let signs = signs("2026-01-01T00:00:00Z");
        listed(&signs, &["a"], "2099-01-01T00:00:00Z");
        listed(&signs, &["a", "b"], "2099-01-01T00:00:00Z");
        assert_eq!(counted(&signs), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn clocks_may_differ_by_a_few_minutes() {
        let signs = signs("2026-01-01T00:00:00Z");
        listed(&signs, &["a"], "2026-01-01T00:05:00Z");
        assert_eq!(counted(&signs), 0);
        listed(&signs, &["a"], "2026-01-01T00:05:00.001Z");
        assert_eq!(counted(&signs), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn any_number_of_them_is_remembered_within_bounds() {
        let signs = signs("2026-01-01T00:00:00Z");
        let tokens: Vec<String> = (0..=SESSIONS_REMEMBERED_MAX).map(|n| n.to_string()).collect();
        for token in &tokens {
            listed(&signs, &[token], "2099-01-01T00:00:00Z");
        }
        assert_eq!(signs.seen().from_the_future.len(), 1);
    }
}
