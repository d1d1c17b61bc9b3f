//! From a login to its end: webhook, queue, worker and LoginRadius together.

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
