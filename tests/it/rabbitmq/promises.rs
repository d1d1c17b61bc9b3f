//! Promises by number: how many users, how many events, how long a broker may be away.

use std::time::Duration;

use super::brokers::{Site, broker_or_skip};
use super::load::{Load, Plan};
use super::scenario::{Scenario, is_long};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_webhooks_three_workers_and_a_control_lose_nothing_when_a_worker_and_the_broker_are_killed() {
    let name = "two_webhooks_three_workers_and_a_control_lose_nothing_when_a_worker_and_the_broker_are_killed";
    let Some(broker) = broker_or_skip(name).await else { return };
    let site = Site::from(broker.fresh_vhost().await);
    let (users, logins_each) = (if is_long() { 500 } else { 100 }, 5);
    let scenario = Scenario::new("worker and broker kill -9", 2, 3);
    let mut fleet = scenario.fleet(&site).await;
    fleet.ready().await;

    let load = Load::start(&fleet, Plan { users, pace: Duration::from_millis(80), logins: Some(users * logins_each) });
    load.accepts(users).await;
    fleet.kill("worker-1").await;
    load.accepts(users).await;
    broker.kill().await;
    load.accepts(users).await;
    broker.restart().await;
    let accepted = load.done().await;

    assert_eq!(accepted.len(), users * logins_each);
    scenario.conclude(&broker, &site, fleet, &accepted).await.show();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_webhooks_without_a_broker_are_all_accepted_at_once_and_settled_when_it_is_back() {
    let name = "thousands_of_webhooks_without_a_broker_are_all_accepted_at_once_and_settled_when_it_is_back";
    let Some(broker) = broker_or_skip(name).await else { return };
    let site = Site::from(broker.fresh_vhost().await);
    let events = if is_long() { 10_000 } else { 2_000 };
    let scenario = Scenario::new("broker away", 1, 2);
    let fleet = scenario.fleet(&site).await;
    fleet.ready().await;

    broker.stop().await;
    let load = Load::start(&fleet, Plan { users: 40, pace: Duration::from_millis(1), logins: Some(events) });
    load.accepts_within(Duration::from_mins(2), events).await;
    assert_eq!((load.retried(), load.accepted_by_broker()), (0, 0), "every first answer is a 202, by the journal");
    assert_eq!(fleet.spooled().await, u64::try_from(events).unwrap());
    broker.restart().await;

    let accepted = load.done().await;
    scenario.conclude(&broker, &site, fleet, &accepted).await.show();
}
