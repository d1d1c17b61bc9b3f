//! What a single broker does to us, and what its operator does.

use std::time::Duration;

use soloist::model::TenantId;
use soloist::queue::rabbitmq::topology;
use soloist::sandbox::Faults;

use crate::rabbitmq::brokers::{Site, broker_or_skip};
use crate::rabbitmq::fleet::Fleet;
use crate::rabbitmq::load::{Load, Plan};
use crate::rabbitmq::scenario::{Scenario, is_long, logins_around, quiet};
use crate::support::soon;

const ENFORCE: &str = "soloist.enforce.default";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_killed_under_load_loses_nothing() {
    let Some(broker) = broker_or_skip("a_broker_killed_under_load_loses_nothing").await else { return };
    let site = Site::from(broker.fresh_vhost().await);
    let scenario = Scenario::new("broker kill -9, restarted", 2, 2);
    let fault = async |_: &mut Fleet, load: &Load| {
        broker.kill().await;
        load.accepts(20).await;
        broker.restart().await;
    };
    scenario.run(&broker, &site, fault).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_restarted_by_its_operator_loses_nothing() {
    let Some(broker) = broker_or_skip("a_broker_restarted_by_its_operator_loses_nothing").await else { return };
    let site = Site::from(broker.fresh_vhost().await);
    let scenario = Scenario::new("broker stopped, restarted", 1, 2);
    let fault = async |_: &mut Fleet, load: &Load| {
        broker.stop().await;
        load.accepts(20).await;
        broker.restart().await;
    };
    scenario.run(&broker, &site, fault).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_without_memory_loses_nothing_and_holds_nobody_up() {
    let name = "a_broker_without_memory_loses_nothing_and_holds_nobody_up";
    let Some(broker) = broker_or_skip(name).await else { return };
    let site = Site::from(broker.fresh_vhost().await);
    // The long one is longer than any patience of ours with the broker.
    let (fault, seconds) = if is_long() { ("memory alarm for 65 s", 65) } else { ("memory alarm for 4 s", 4) };
    let scenario = Scenario::new(fault, 1, 2);
    let fault = async |fleet: &mut Fleet, load: &Load| {
        broker.memory_alarm(true).await;
        fleet.spools(20).await;
        load.goes_on_for(Duration::from_secs(seconds)).await;
        broker.memory_alarm(false).await;
    };
    scenario.run(&broker, &site, fault).await;
}

/// What is in a queue when an operator deletes it is gone by his will, so it is deleted while it is empty. From that
/// moment on events come again, and find no queue until a worker declares it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_deleted_under_a_running_worker_loses_nothing_that_comes_after() {
    let name = "a_queue_deleted_under_a_running_worker_loses_nothing_that_comes_after";
    let Some(broker) = broker_or_skip(name).await else { return };
    let site = Site::from(broker.fresh_vhost().await);
    let scenario = Scenario::new("enforce queue deleted while empty", 1, 2);
    let fault = async |_: &mut Fleet, load: &Load| {
        let held = load.held().await;
        soon("the queue to run empty", async {
            let mut pause = tokio::time::interval(Duration::from_millis(20));
            while broker.queue_depth(&site.vhost, ENFORCE).await != Some(0) {
                pause.tick().await;
            }
        })
        .await;
        broker.delete_queue(&site.vhost, ENFORCE).await;
        drop(held);
    };
    scenario.run(&broker, &site, fault).await;
}

/// With rows that are listed late there are second looks, which wait in the delay queues. A process finds out that one
/// of these is gone when its state is asked for, as probes do all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queues_deleted_all_at_once_are_declared_again_and_nothing_that_comes_after_is_lost() {
    let name = "queues_deleted_all_at_once_are_declared_again_and_nothing_that_comes_after_is_lost";
    let Some(broker) = broker_or_skip(name).await else { return };
    let site = Site::from(broker.fresh_vhost().await);
    let scenario = Scenario::new("all queues deleted while empty", 1, 2);
    let fault = async |fleet: &mut Fleet, load: &Load| {
        let held = load.held().await;
        quiet(&broker, &site, fleet).await;
        for queue in topology::queues([&TenantId::default_tenant()]) {
            broker.delete_queue(&site.vhost, &queue.name).await;
        }
        fleet.sandbox.set_faults(Faults { hidden_rows_percent: 20.0, ..Faults::default() });
        drop(held);
        load.accepts(100).await;
        fleet.sandbox.set_faults(Faults::default());
    };
    scenario.run(&broker, &site, fault).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_an_operator_closes_lose_nothing() {
    let Some(broker) = broker_or_skip("connections_that_an_operator_closes_lose_nothing").await else { return };
    let site = Site::from(broker.fresh_vhost().await);
    let scenario = Scenario::new("all connections closed, 3 times", 1, 2);
    let fault = async |_: &mut Fleet, load: &Load| {
        for _ in 0..3 {
            broker.close_all_connections().await;
            load.accepts(50).await;
        }
    };
    scenario.run(&broker, &site, fault).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_start_without_a_broker_accept_and_settle_later() {
    let name = "processes_that_start_without_a_broker_accept_and_settle_later";
    let Some(broker) = broker_or_skip(name).await else { return };
    let site = Site::from(broker.fresh_vhost().await);
    let scenario = Scenario::new("no broker at the start", 2, 2);
    broker.stop().await;
    let fleet = scenario.fleet(&site).await;
    let load = Load::start(&fleet, Plan::STEADY);
    load.accepts(logins_around()).await;
    assert_eq!((load.accepted_by_broker(), load.retried()), (0, 0), "all are accepted at once, by the journal");
    broker.restart().await;
    load.accepts(logins_around()).await;
    let accepted = load.end().await;
    scenario.conclude(&broker, &site, fleet, &accepted).await.record();
}
