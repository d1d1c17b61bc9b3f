//! What the control process decides holds for all workers: directives, the budget, contended users.

use std::time::Duration;

use serde_json::{Value, json};
use soloist::sandbox::Faults;

use super::brokers::{Site, broker_or_skip};
use super::fleet::Fleet;
use crate::support::soon_within;

/// A delivery that waits for directives comes again after half a minute.
const PATIENCE: Duration = Duration::from_mins(2);

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    soon_within(PATIENCE, what, async {
        let mut pause = tokio::time::interval(Duration::from_millis(100));
        while !holds().await {
            pause.tick().await;
        }
    })
    .await;
}

async fn fleet(site: &Site, options: &[(&str, &str)]) -> Fleet {
    let mut fleet = Fleet::empty(&site.url).await;
    fleet.sandbox.set_faults(Faults::default());
    for (name, value) in options {
        fleet.set(name, value);
    }
    fleet
}

fn log_in(fleet: &Fleet, user: &str, device: Option<&str>) {
    let webhook = fleet.process("webhook-1");
    fleet.sandbox.set_webhook_url(Some(&webhook.webhook_url)).unwrap();
    fleet.sandbox.advance(Duration::from_millis(2));
    fleet.sandbox.login(user, device).unwrap();
}

/// Sessions that were ended. There may be more calls: two workers that end the same session do no harm.
fn ended(fleet: &Fleet, users: &[String], logins: usize) -> usize {
    logins - users.iter().map(|user| fleet.sandbox.sessions(user).len()).sum::<usize>()
}

async fn directives(fleet: &Fleet) -> Vec<Value> {
    let listed = fleet.process("control-1").admin("/admin/v1/directives").await;
    listed["directives"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_has_never_heard_the_directives_ends_nobody_until_it_does() {
    let Some(broker) = broker_or_skip("a_worker_that_has_never_heard_the_directives_ends_nobody").await else { return };
    let site = Site::from(broker.fresh_vhost().await);
    let mut fleet = fleet(&site, &[]).await;
    fleet.add("worker-1").await;
    fleet.add("webhook-1").await;
    log_in(&fleet, "ann", None);
    log_in(&fleet, "ann", None);
    let held = r#"soloist_decisions_held_total{tenant="default",why="stale_directives"}"#;
    until("the worker to look in vain", async || fleet.process("worker-1").metric(held).await > 0).await;
    assert_eq!(fleet.sandbox.sessions("ann").len(), 2);

    fleet.add("control-1").await;
    until("the surplus to be ended", async || fleet.sandbox.sessions("ann").len() == 1).await;
    fleet.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_workers_together_keep_to_one_budget() {
    const USERS: usize = 60;
    const BUDGET: usize = 20;
    let Some(broker) = broker_or_skip("all_workers_together_keep_to_one_budget").await else { return };
    let site = Site::from(broker.fresh_vhost().await);
    let mut fleet = fleet(&site, &[("SOLOIST_BUDGET__REVOCATIONS", "20")]).await;
    fleet.staff(1, 3).await;
    fleet.ready().await;
    let users: Vec<String> = (0..USERS).map(|n| format!("user-{n}")).collect();
    let revoked = |fleet: &Fleet| ended(fleet, &users, 2 * USERS);
    for user in &users {
        log_in(&fleet, user, None);
        log_in(&fleet, user, None);
    }
    until("the tenant to be stopped", async || !directives(&fleet).await.is_empty()).await;
    until("every login to be settled", async || fleet.settled().len() == 2 * USERS).await;
    let first = revoked(&fleet);
    // What a worker was granted and did not need, or was told of too late, is lost to the others.
    assert!((BUDGET / 2..=BUDGET).contains(&first), "{first} of {BUDGET}");

    let word = json!({ "owner": "ops", "reason": "a test" });
    let resumed = fleet.process("control-1").tell("POST", "/admin/v1/resume", &word).await;
    assert_eq!(resumed["resumed"], json!(true), "{resumed}");
    until("another budget to be used up", async || revoked(&fleet) >= first + BUDGET / 2).await;
    until("the tenant to be stopped again", async || !directives(&fleet).await.is_empty()).await;
    assert!(revoked(&fleet) <= 2 * BUDGET);
    assert!(fleet.sandbox.report(1).wrong_revocations.is_empty());
    fleet.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_control_process_finds_ping_pong_that_no_worker_sees_alone() {
    const WORKERS: usize = 3;
    const LOGINS: usize = 20;
    let Some(broker) = broker_or_skip("the_control_process_finds_ping_pong_that_no_worker_sees_alone").await else {
        return;
    };
    let site = Site::from(broker.fresh_vhost().await);
    let mut fleet = fleet(&site, &[("SOLOIST_GUARD__ACTION", "hold")]).await;
    fleet.staff(1, WORKERS).await;
    fleet.ready().await;
    for round in 0..LOGINS {
        log_in(&fleet, "ann", Some(if round % 2 == 0 { "phone" } else { "laptop" }));
        until("the login to be settled", async || fleet.settled().len() > round).await;
    }
    until("the user to be found", async || !directives(&fleet).await.is_empty()).await;
    assert_eq!(directives(&fleet).await[0]["kind"], "contended");
    let evictions = ended(&fleet, &["ann".to_owned()], LOGINS);
    assert!((6..=6 + WORKERS).contains(&evictions), "{evictions} evictions");
    fleet.stop_all().await;
}
