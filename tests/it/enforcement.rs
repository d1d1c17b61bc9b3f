//! From a login to its end: webhook, queue, worker and LoginRadius together.

use std::time::Duration;

use soloist::sandbox::Faults;
use tokio::time::Instant;

use crate::support::service::Service;

#[tokio::test]
async fn racing_logins_come_down_to_the_newest_session() {
    let service = Service::start().await;
    for _ in 0..4 {
        for user in ["ann", "bob", "cleo"] {
            service.sandbox.login(user, None).unwrap();
        }
    }
    let newest = service.sandbox.login("ann", Some("phone")).unwrap();

    service.settled().await;

    let left = service.sandbox.sessions("ann");
    assert_eq!(left.iter().map(|session| &session.session).collect::<Vec<_>>(), [&newest.session]);
    let report = service.sandbox.report(1);
    assert_eq!((report.over_limit.len(), report.emptied.len(), report.wrong_revocations.len()), (0, 0, 0));
    assert_eq!(report.refreshable_after_revocation, 0);
    service.stop().await;
}

#[tokio::test]
async fn a_pause_ends_when_any_call_succeeds_not_at_the_next_probe() {
    let service = Service::start().await;
    service.sandbox.set_faults(Faults { secret_rotated: true, ..Faults::default() });
    service.sandbox.login("ann", None).unwrap();
    service.sandbox.login("ann", None).unwrap();
    let paused = async |service: &Service| {
        let (_, status) = service.admin("GET", "/admin/v1/status").await;
        status["tenants"][0]["state"] == "unauthorized"
    };
    service.until("the pause", paused).await;

    service.sandbox.set_faults(Faults::default());
    let put_right = Instant::now();
    assert_eq!(service.admin("GET", "/admin/v1/users/ann/sessions").await.0, 200);
    service.settled().await;

    assert!(put_right.elapsed() < Duration::from_secs(15), "it waited for the probe");
    assert_eq!(service.sandbox.sessions("ann").len(), 1);
    service.stop().await;
}
