//! Lost events: after one sweep everybody is at the limit of whom one event was ever accepted, or who was imported.

use std::time::Duration;

use serde_json::{Value, json};
use soloist::sandbox::{Faults, Outage, Sandbox, SandboxConfig};

use crate::support::service::Service;

const OFF: (&str, &str) = ("SOLOIST_SWEEP__INTERVAL", "off");
const LOOKS: &str = "soloist_sweep_looks_total{tenant=\"default\"}";

fn every(interval: &str) -> (&str, &str) {
    ("SOLOIST_SWEEP__INTERVAL", interval)
}

async fn import(service: &Service, uids: &[String]) -> Value {
    let request = service.client.post(format!("{}/admin/v1/users/import", service.admin_url));
    let request = request.bearer_auth(&service.admin_key).json(&json!({ "uids": uids }));
    request.send().await.unwrap().json().await.unwrap()
}

/// When each user was looked at, in the order of their ids.
async fn looked_at(service: &Service) -> Vec<(String, Value)> {
    let (status, answer) = service.admin("GET", "/admin/v1/users?limit=1000").await;
    assert_eq!(status, 200);
    let users = answer["users"].as_array().unwrap().iter();
    users.map(|user| (user["uid"].as_str().unwrap().to_owned(), user["looked_at"].clone())).collect()
}

/// Users with two sessions each, of whom no event told.
fn there_before(sandbox: &Sandbox, users: usize) -> Vec<String> {
    let uids: Vec<String> = (0..users).map(|n| format!("before-{n:03}")).collect();
    for uid in uids.iter().chain(&uids) {
        sandbox.advance(Duration::from_millis(2));
        sandbox.login_in_silence(uid, None).unwrap();
    }
    uids
}

#[tokio::test]
async fn after_one_sweep_everybody_is_at_the_limit_whatever_events_were_lost() {
    let service = Service::start_with(SandboxConfig::default(), &[OFF]).await;
    let before = there_before(&service.sandbox, 20);
    assert_eq!(import(&service, &before).await["imported"], json!(20));
    let seen: Vec<String> = (0..60).map(|n| format!("seen-{n:03}")).collect();
    for uid in &seen {
        service.sandbox.login(uid, None).unwrap();
    }
    service.settled().await;
    service.sandbox.set_faults(Faults { webhooks_dropped_percent: 30.0, ..Faults::default() });
    for uid in seen.iter().chain(&seen).chain(&seen) {
        service.sandbox.advance(Duration::from_millis(2));
        service.sandbox.login(uid, None).unwrap();
    }
    service.settled().await;
    let report = service.sandbox.report(1);
    let over = report.over_limit.len();
    assert!(over > 20 && report.webhooks.dropped > 20, "{over} over the limit, {} lost", report.webhooks.dropped);
    let (sandbox, data_dir) = service.stop().await;

    let service = Service::start_on(sandbox, data_dir, &[every("3s")]).await;
    service.until("one sweep", async |service| looked_at(service).await.iter().all(|(_, at)| !at.is_null())).await;
    service.until("nobody over the limit", async |s| s.sandbox.report(1).over_limit.is_empty()).await;

    let report = service.sandbox.report(1);
    assert_eq!((report.emptied, report.wrong_revocations.len(), report.users), (vec![], 0, 80));
    service.stop().await;
}

#[tokio::test]
async fn whoever_was_looked_at_of_late_is_not_swept_and_a_restart_goes_on_where_it_was() {
    let service = Service::start_with(SandboxConfig::default(), &[every("2m")]).await;
    service.sandbox.login("ann", None).unwrap();
    service.settled().await;
    let before = there_before(&service.sandbox, 80);
    import(&service, &before).await;
    service.until("some looks", async |service| service.metric(LOOKS) >= 3).await;
    let (sandbox, data_dir) = service.stop().await;

    let service = Service::start_on(sandbox, data_dir, &[every("2m")]).await;
    let first = looked_at(&service).await;
    service.until("further looks", async |service| service.metric(LOOKS) >= 3).await;
    let then = looked_at(&service).await;
    let swept = |users: &[(String, Value)]| users.iter().skip(1).filter(|(_, at)| !at.is_null()).count();
    assert!(swept(&first) >= 3 && swept(&then) >= swept(&first) + 3, "{first:?}\n{then:?}");
    let again = first.iter().zip(&then).filter(|(first, then)| !first.1.is_null() && first != then);
    assert_eq!(again.count(), 0, "nobody was looked at twice, and ann not at all");
    assert_eq!(first[0].0, "ann");
    service.stop().await;
}

#[tokio::test]
async fn while_the_provider_is_out_the_sweep_waits_and_says_that_it_is_late() {
    let service = Service::start_with(SandboxConfig::default(), &[every("3s")]).await;
    service.sandbox.set_faults(Faults { outage: Outage::Reset, ..Faults::default() });
    let before = there_before(&service.sandbox, 300);
    import(&service, &before).await;
    let paused = "soloist_tenant_paused{tenant=\"default\",cause=\"outage\"}";
    service.until("the pause", async |service| service.metric(paused) == 1).await;
    let interval = "soloist_sweep_interval_seconds{tenant=\"default\"}";
    service.until("a longer interval", async |service| service.metric(interval) >= 6).await;
    let looks = service.metric(LOOKS);
    assert!((50..=150).contains(&looks), "{looks} messages for 300 users");
    assert_eq!(service.queued().await.2, 0);

    service.sandbox.set_faults(Faults::default());
    service.until("everybody at the limit", async |s| s.sandbox.report(1).over_limit.is_empty()).await;
    assert!(service.sandbox.report(1).wrong_revocations.is_empty());
    service.until("the interval", async |service| service.metric(interval) == 3).await;
    service.stop().await;
}

#[tokio::test]
async fn a_tenant_that_is_off_is_not_swept() {
    let options = [every("1s"), ("SOLOIST_POLICY__MODE", "off")];
    let service = Service::start_with(SandboxConfig::default(), &options).await;
    import(&service, &there_before(&service.sandbox, 3)).await;
    let users = "soloist_sweep_users{tenant=\"default\"}";
    service.until("a plan", async |service| service.metric(users) == 3).await;
    // The next event goes through the same queue, behind whatever the sweep had put there.
    service.sandbox.login("ann", None).unwrap();
    service.until("ann to be known", async |service| service.metric(users) == 4).await;
    assert_eq!((service.metric(LOOKS), service.sandbox.report(1).calls.get("list")), (0, None));
    service.stop().await;
}

#[tokio::test]
async fn a_device_that_refreshes_while_it_is_ended_is_ended_all_the_same() {
    let service = Service::start_with(SandboxConfig::default(), &[OFF]).await;
    let phone = service.sandbox.login_in_silence("ann", None).unwrap();
    let slow = Faults { operations: vec!["auth_invalidate".to_owned()], latency_ms: 500, ..Faults::default() };
    service.sandbox.set_faults(slow);
    service.sandbox.advance(Duration::from_millis(2));
    let laptop = service.sandbox.login("ann", None).unwrap();
    service.until("a listing", async |s| s.sandbox.report(1).calls.get("list").is_some_and(|n| *n >= 1)).await;
    let refreshed = service.sandbox.refresh(&phone.access_token).expect("the end of the session is still on its way");
    service.settled().await;

    let left: Vec<String> = service.sandbox.sessions("ann").into_iter().map(|session| session.session).collect();
    assert_eq!(left, [laptop.session]);
    assert_ne!(refreshed.session, phone.session);
    service.stop().await;
}

#[tokio::test]
async fn who_is_only_observed_is_looked_at_once() {
    for option in [("SOLOIST_POLICY__MODE", "observe"), ("SOLOIST_POLICY__CANARY_PERCENT", "0")] {
        // The login is not listed yet, which under enforcement makes a second look.
        let sandbox = SandboxConfig { list_lag: Duration::from_mins(1), ..SandboxConfig::default() };
        let service = Service::start_with(sandbox, &[OFF, option]).await;
        for _ in 0..2 {
            service.sandbox.login("ann", None).unwrap();
            service.settled().await;
        }
        let rechecks =
            service.metrics.render().lines().filter(|line| line.starts_with("soloist_rechecks_total{")).count();
        assert_eq!((rechecks, service.sandbox.report(1).calls["list"]), (0, 2), "{option:?}");
        service.stop().await;
    }
}
