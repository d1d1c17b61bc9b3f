//! A tenant in trouble does not delay another.

use std::collections::BTreeMap;
use std::time::Duration;

use super::brokers::{Site, broker_or_skip};
use super::fleet::Fleet;
use super::load::{Accepted, Load, Plan};
use super::scenario::{is_long, settling, waiting};
use crate::support::{process, soon, tenant};

const PLAN: Plan = Plan { users: 24, pace: Duration::from_millis(100), logins: Some(240) };

/// Lets the healthy tenant's users log in, and waits until each login is settled; the 99th percentile of that.
async fn settled_p99(fleet: &Fleet) -> Duration {
    let accepted = Load::start(fleet, PLAN).done().await;
    soon("every login of the healthy tenant to be settled", async {
        let mut pause = tokio::time::interval(Duration::from_millis(100));
        let is_settled = |settled: &BTreeMap<String, usize>, login: &Accepted| settled.contains_key(&login.event);
        while !accepted.iter().all(|login| is_settled(&fleet.settled(), login)) {
            pause.tick().await;
        }
    })
    .await;
    let report = fleet.sandbox.report(1);
    assert!(report.over_limit.is_empty() && report.wrong_revocations.is_empty() && report.emptied.is_empty());
    let mut times: Vec<Duration> = accepted.iter().map(|login| settling(fleet, login)).collect();
    times.sort_unstable();
    times[times.len() * 99 / 100]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_with_a_wrong_secret_and_a_long_queue_does_not_delay_another() {
    let name = "a_tenant_with_a_wrong_secret_and_a_long_queue_does_not_delay_another";
    let Some(broker) = broker_or_skip(name).await else { return };
    let site = Site::from(broker.fresh_vhost().await);
    let mut fleet = Fleet::empty(&site.url).await;
    let api_url = fleet.sandbox.url();
    for (key, value) in [
        ("API_URL", api_url.as_str()),
        ("API_KEY", "sandbox-key"),
        ("API_SECRET", "wrong"),
        ("WEBHOOK_SECRETS", "sandbox-secret"),
    ] {
        fleet.set(&format!("SOLOIST_TENANTS__STUCK__LOGINRADIUS__{key}"), value);
    }
    fleet.staff(1, 2).await;
    fleet.ready().await;
    let alone = settled_p99(&fleet).await;

    let webhook = fleet.process("webhook-1");
    let messages: u64 = if is_long() { 5_000 } else { 500 };
    for n in 0..messages {
        let body =
            format!(r#"{{"HookName":"login","HookId":"h{n}","Time":"2026-01-01T00:00:00Z","Data":{{"Uid":"u{n}"}}}}"#);
        let answer = process::post(&webhook.client, &format!("{}/stuck", webhook.webhook_url), body).await;
        assert_eq!(answer, Some(202));
    }
    for worker in ["worker-1", "worker-2"] {
        fleet.pauses(worker, "stuck").await;
    }
    let beside = settled_p99(&fleet).await;

    let stuck: u64 = waiting(&broker, &site.vhost, &tenant("stuck")).await.into_values().flatten().sum();
    assert_eq!(stuck, messages, "messages of the tenant with the wrong secret that wait");
    println!("login to settled, p99: alone {alone:.2?}, beside {messages} waiting messages of another {beside:.2?}");
    fleet.stop_all().await;
}
