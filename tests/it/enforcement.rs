//! From a login to its end: webhook, queue, worker and LoginRadius together.

use std::time::Duration;

use serde_json::json;
use soloist::sandbox::{Faults, LoginMade, SandboxConfig, Traits};

use crate::support::service::Service;

/// Everybody is at the limit, nobody was ended by mistake, nothing waits and nothing died.
async fn all_well(service: &Service, limit: usize) {
    service.settled().await;
    let report = service.sandbox.report(limit);
    assert_eq!(report.over_limit, Vec::<String>::new());
    assert_eq!(report.emptied, Vec::<String>::new());
    assert!(report.wrong_revocations.is_empty(), "{:?}", report.wrong_revocations);
    assert_eq!(service.queued().await, (0, 0, 0));
}

fn left(service: &Service, user: &str) -> Vec<String> {
    service.sandbox.sessions(user).into_iter().map(|session| session.session).collect()
}

fn race(service: &Service, users: usize, logins: usize) {
    for _ in 0..logins {
        for user in 0..users {
            service.sandbox.login(&format!("user-{user}"), None).unwrap();
        }
    }
}

/// A login that is the newest to the millisecond, too: listings show no more, and ties are broken by token.
fn login_later(service: &Service, user: &str) -> LoginMade {
    service.sandbox.advance(Duration::from_millis(2));
    service.sandbox.login(user, None).unwrap()
}

fn ids(logins: &[LoginMade]) -> Vec<String> {
    logins.iter().map(|login| login.session.clone()).collect()
}

#[tokio::test]
async fn racing_logins_come_down_to_the_newest_session() {
    let service = Service::start().await;
    race(&service, 5, 4);
    let newest = login_later(&service, "ann");
    all_well(&service, 1).await;
    assert_eq!(left(&service, "ann"), [newest.session]);
    assert_eq!(service.sandbox.report(1).refreshable_after_revocation, 0);
    service.stop().await;
}

#[tokio::test]
async fn logins_at_the_very_same_instant_leave_exactly_one() {
    let service = Service::start().await;
    service.sandbox.login_at_once("ann", &["phone", "laptop", "tablet", "tv"]).unwrap();
    all_well(&service, 1).await;
    assert_eq!(left(&service, "ann").len(), 1);
    service.stop().await;
}

#[tokio::test]
async fn more_surplus_than_one_page_and_one_batch_is_ended_in_one_go() {
    let sandbox = SandboxConfig { page_size: 30, ..SandboxConfig::default() };
    let service = Service::start_with(sandbox, &[]).await;
    for _ in 0..130 {
        service.sandbox.login_in_silence("ann", None).unwrap();
    }
    let newest = login_later(&service, "ann");
    all_well(&service, 1).await;
    assert_eq!(left(&service, "ann"), [newest.session]);
    service.stop().await;
}

#[tokio::test]
async fn a_login_that_is_not_listed_yet_is_looked_for_again() {
    let sandbox = SandboxConfig { list_lag: Duration::from_millis(600), ..SandboxConfig::default() };
    let service = Service::start_with(sandbox, &[]).await;
    let first = service.sandbox.login("ann", None).unwrap();
    let second = login_later(&service, "ann");
    all_well(&service, 1).await;
    assert_eq!(left(&service, "ann"), [second.session]);
    assert_ne!(first.session, left(&service, "ann")[0]);
    assert!(service.metric("soloist_rechecks_total{tenant=\"default\",why=\"login_not_visible\"}") >= 1);
    service.stop().await;
}

#[tokio::test]
async fn a_burst_for_one_user_costs_few_listings() {
    let service = Service::start().await;
    service.sandbox.set_faults(Faults { latency_ms: 100, ..Faults::default() });
    for _ in 0..50 {
        service.sandbox.login("ann", None).unwrap();
    }
    all_well(&service, 1).await;
    let listings = service.sandbox.report(1).calls["list"];
    assert!(listings <= 12, "{listings} listings for 50 logins");
    service.stop().await;
}

#[tokio::test]
async fn errors_garbage_and_lost_answers_end_nobody_by_mistake() {
    let service = Service::start().await;
    service.sandbox.set_faults(Faults {
        seed: 7,
        jitter_ms: 20,
        server_error_percent: 10.0,
        unknown_error_percent: 5.0,
        garbage_percent: 5.0,
        disguised_percent: 5.0,
        reset_percent: 5.0,
        answer_lost_percent: 5.0,
        hidden_rows_percent: 10.0,
        webhooks_duplicated_percent: 20.0,
        webhooks_delayed_percent: 20.0,
        ..Faults::default()
    });
    race(&service, 20, 4);
    service.until("half of it", async |service| service.sandbox.report(1).over_limit.len() < 10).await;
    service.sandbox.set_faults(Faults::default());
    service.settled().await;
    let report = service.sandbox.report(1);
    assert!(report.wrong_revocations.is_empty() && report.emptied.is_empty(), "{:?}", report.wrong_revocations);
    assert_eq!(service.queued().await.2, 0);
    service.stop().await;
}

#[tokio::test]
async fn throttling_delays_but_spends_nothing() {
    let service = Service::start().await;
    service.sandbox.set_faults(Faults { throttled_percent: 50.0, retry_after_seconds: Some(1), ..Faults::default() });
    race(&service, 3, 2);
    service.until("a refused call", async |s| s.metric(&calls("list", "throttled")) >= 1).await;
    service.sandbox.set_faults(Faults::default());
    all_well(&service, 1).await;
    service.stop().await;
}

fn calls(operation: &str, result: &str) -> String {
    format!("soloist_provider_calls_total{{tenant=\"default\",operation=\"{operation}\",result=\"{result}\"}}")
}

#[tokio::test]
async fn the_configured_rate_is_kept_under_a_burst() {
    let service =
        Service::start_with(SandboxConfig::default(), &[("SOLOIST_LOGINRADIUS__REQUESTS_PER_SECOND", "20")]).await;
    let begun = tokio::time::Instant::now();
    race(&service, 20, 2);
    all_well(&service, 1).await;
    // Over the whole run: a machine that is busy may let some calls arrive together that were made apart.
    let (calls, seconds) = (service.sandbox.report(1).calls.values().sum::<u64>(), begun.elapsed().as_secs_f64());
    assert!(f64::from(u32::try_from(calls).unwrap()) <= seconds * 20.0 + 3.0, "{calls} calls in {seconds} s");
    service.stop().await;
}

#[tokio::test]
async fn observe_mode_ends_nobody_and_records_what_enforce_would_do() {
    let service = Service::start_with(SandboxConfig::default(), &[("SOLOIST_POLICY__MODE", "observe")]).await;
    let logins = [login_later(&service, "ann"), login_later(&service, "ann")];
    service.settled().await;

    assert_eq!(left(&service, "ann").len(), 2);
    assert_eq!(service.sandbox.report(1).calls.get("auth_invalidate"), None);
    let (_, answer) = service.admin("GET", "/admin/v1/users/ann/decisions").await;
    let last = &answer["decisions"][0];
    assert_eq!(last["executed"], json!(false));
    let verdicts = last["decision"]["verdicts"].as_array().unwrap();
    let would_end: Vec<_> = verdicts.iter().filter(|v| v["action"] == "revoke").map(|v| &v["session"]).collect();
    assert_eq!(would_end, [&ids(&logins)[0]]);
    service.stop().await;
}

#[tokio::test]
async fn mode_off_and_an_empty_canary_end_nobody() {
    for option in [("SOLOIST_POLICY__MODE", "off"), ("SOLOIST_POLICY__CANARY_PERCENT", "0")] {
        let service = Service::start_with(SandboxConfig::default(), &[option]).await;
        race(&service, 2, 3);
        service.settled().await;
        assert_eq!(service.sandbox.report(1).live_sessions, 6, "{option:?}");
        service.stop().await;
    }
}

const LAYERS: &str = r#"
[policy]
limit = 1
[[policy.rules]]
role = "family"
limit = 3
[[policy.overrides]]
uid = "vip"
limit = 2
[[policy.exemptions]]
email_domain = "exempt.example"
reason = "load test"
owner = "operations"
expires = "2099-01-01"
"#;

#[tokio::test]
async fn override_rule_and_exemption_decide_how_many_stay() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), LAYERS).unwrap();
    let service =
        Service::start_with(SandboxConfig::default(), &[("SOLOIST_CONFIG", file.path().to_str().unwrap())]).await;
    let traits = |roles: &[&str], email: &str| Traits {
        roles: roles.iter().map(|role| (*role).to_owned()).collect(),
        email: Some(email.to_owned()),
        ..Traits::default()
    };
    for (user, roles, email) in [
        ("parent", vec!["family"], "parent@example.com"),
        ("tester", vec![], "tester@exempt.example"),
        ("vip", vec!["family"], "vip@example.com"),
        ("plain", vec![], "plain@example.com"),
    ] {
        service.sandbox.set_traits(user, traits(&roles, email)).unwrap();
        for _ in 0..5 {
            service.sandbox.login(user, None).unwrap();
        }
    }
    service.settled().await;
    let count = |user| left(&service, user).len();
    assert_eq!((count("parent"), count("tester"), count("vip"), count("plain")), (3, 5, 2, 1));
    service.stop().await;
}

#[tokio::test]
async fn nobody_is_ended_without_the_profile_that_a_rule_needs() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), LAYERS).unwrap();
    let service =
        Service::start_with(SandboxConfig::default(), &[("SOLOIST_CONFIG", file.path().to_str().unwrap())]).await;
    let no_profile =
        Faults { operations: vec!["profile".to_owned()], server_error_percent: 100.0, ..Faults::default() };
    service.sandbox.set_faults(no_profile);
    race(&service, 1, 4);
    service.until("a failed look", async |s| s.metric(&calls("profile", "unavailable")) >= 3).await;
    assert_eq!(service.sandbox.report(1).live_sessions, 4);
    service.sandbox.set_faults(Faults::default());
    all_well(&service, 1).await;
    service.stop().await;
}

#[tokio::test]
async fn a_session_that_cannot_be_ended_does_not_save_the_others() {
    let service = Service::start().await;
    let stubborn = service.sandbox.login("ann", None).unwrap().session;
    service.sandbox.set_faults(Faults { stubborn_sessions: vec![stubborn.clone()], ..Faults::default() });
    for _ in 0..4 {
        login_later(&service, "ann");
    }
    let newest = login_later(&service, "ann").session;
    service.until("all others to be ended", async |s| left(s, "ann").len() == 2).await;
    let mut expected = vec![stubborn, newest];
    expected.sort();
    let mut left = left(&service, "ann");
    left.sort();
    assert_eq!(left, expected);
    service.until("a dead letter that says why", async |s| s.queued().await.2 > 0).await;
    service.stop().await;
}

#[tokio::test]
async fn messages_that_wait_are_worked_on_after_a_restart() {
    let service = Service::start().await;
    service.sandbox.set_faults(Faults { server_error_percent: 100.0, ..Faults::default() });
    race(&service, 3, 3);
    service.sandbox.webhooks_settled().await;
    let (sandbox, data_dir) = service.stop().await;
    sandbox.set_faults(Faults::default());

    let service = Service::start_on(sandbox, data_dir, &[]).await;

    all_well(&service, 1).await;
    service.stop().await;
}

#[tokio::test]
async fn an_operator_sees_and_ends_sessions_and_can_look_again() {
    let service = Service::start().await;
    let [first, second, third] = ["phone", "laptop", "tv"].map(|device| {
        service.sandbox.advance(Duration::from_millis(2));
        service.sandbox.login_in_silence("ann", Some(device)).unwrap()
    });

    let (status, shown) = service.admin("GET", "/admin/v1/users/ann/sessions").await;
    assert_eq!((status, &shown["session_count"], &shown["device_count"]), (200, &json!(3), &json!(3)));
    assert_eq!(shown["sessions"][0]["session"], json!(third.session));
    assert_eq!(shown["sessions"][0]["action"], json!("keep"));

    let (status, _) = service.admin("DELETE", &format!("/admin/v1/users/ann/sessions/{}", second.session)).await;
    assert_eq!((status, left(&service, "ann").len()), (200, 2));
    let (status, _) = service.admin("DELETE", &format!("/admin/v1/users/ann/sessions/{}", second.session)).await;
    assert_eq!(status, 404);

    let (_, dry) = service.admin("POST", "/admin/v1/users/ann/enforce?dry_run=true").await;
    assert_eq!((dry["outcomes"].as_array().unwrap().len(), left(&service, "ann").len()), (0, 2));
    let (_, done) = service.admin("POST", "/admin/v1/users/ann/enforce").await;
    assert_eq!(done["outcomes"][0]["session"], json!(first.session));
    assert_eq!(left(&service, "ann"), [third.session]);
    service.stop().await;
}
