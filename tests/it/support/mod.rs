//! What several tests share: events, clocks, bounded waiting.

pub(crate) mod amqp;
pub(crate) mod broker;
pub(crate) mod process;
pub(crate) mod programs;
pub(crate) mod proxy;
pub(crate) mod report;
pub(crate) mod service;

use std::future::Future;
use std::time::Duration;

use soloist::model::{EventId, LoginEvent, Reason, TenantId, UserId};

/// The longest that any single wait in a test may take; reaching it is a failure, never a pass.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for `future`, but not for ever.
pub(crate) async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited {PATIENCE:?} for {what}"))
}

/// The same for what takes its time on purpose.
pub(crate) async fn soon_within<F: Future>(patience: Duration, what: &str, future: F) -> F::Output {
    tokio::time::timeout(patience, future).await.unwrap_or_else(|_| panic!("waited {patience:?} for {what}"))
}

pub(crate) fn tenant(name: &str) -> TenantId {
    TenantId::parse(name).unwrap()
}

/// A login of `user`, named by `id`.
pub(crate) fn login(user: &str, id: &str) -> LoginEvent {
    LoginEvent {
        tenant: TenantId::default_tenant(),
        user: UserId::parse(user).unwrap(),
        id: EventId::parse(id).unwrap(),
        at: Some("2026-01-02T03:04:05Z".parse().unwrap()),
        login_at: Some("2026-01-02T03:04:05.678Z".parse().unwrap()),
        reason: Reason::Login,
        accepted_at: Some("2026-01-02T03:04:06Z".parse().unwrap()),
    }
}
