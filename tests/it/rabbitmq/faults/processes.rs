//! What becomes of us: processes that are killed, and a fleet that is restarted one by one.

use crate::rabbitmq::brokers::{Site, broker_or_skip};
use crate::rabbitmq::fleet::Fleet;
use crate::rabbitmq::load::Load;
use crate::rabbitmq::scenario::Scenario;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_killed_in_the_middle_and_replaced_loses_nothing() {
    let name = "a_worker_killed_in_the_middle_and_replaced_loses_nothing";
    let Some(broker) = broker_or_skip(name).await else { return };
    let site = Site::from(broker.fresh_vhost().await);
    let scenario = Scenario::new("worker kill -9, replaced", 1, 2).busy();
    let fault = async |fleet: &mut Fleet, load: &Load| {
        let worker = fleet.names("worker").swap_remove(0);
        fleet.kill(&worker).await;
        load.accepts(60).await;
        fleet.add_another("worker").await;
    };
    scenario.run(&broker, &site, fault).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_process_killed_with_events_in_its_journal_brings_them_when_it_is_back() {
    let name = "a_webhook_process_killed_with_events_in_its_journal_brings_them_when_it_is_back";
    let Some(broker) = broker_or_skip(name).await else { return };
    let site = Site::from(broker.fresh_vhost().await);
    let scenario = Scenario::new("broker down, webhook kill -9, both back", 2, 2);
    let fault = async |fleet: &mut Fleet, load: &Load| {
        broker.kill().await;
        load.accepts(60).await;
        let held = load.held().await;
        let spooled = fleet.spooled().await;
        assert!(spooled >= 60, "{spooled} events in the journals");
        drop(held);
        fleet.kill("webhook-1").await;
        load.accepts(20).await;
        fleet.add("webhook-1").await;
        let spooled_now = fleet.spooled().await;
        assert!(spooled_now > spooled, "{spooled_now} events in the journals, and {spooled} before the kill");
        broker.restart().await;
    };
    scenario.run(&broker, &site, fault).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_restarted_one_by_one_under_load_lose_nothing_and_evict_nobody_wrongly() {
    let name = "workers_restarted_one_by_one_under_load_lose_nothing_and_evict_nobody_wrongly";
    let Some(broker) = broker_or_skip(name).await else { return };
    let site = Site::from(broker.fresh_vhost().await);
    let scenario = Scenario::new("workers restarted one by one", 2, 3).busy();
    let fault = async |fleet: &mut Fleet, load: &Load| {
        for worker in ["worker-1", "worker-2", "worker-3"] {
            fleet.stop(worker).await;
            load.accepts(20).await;
            fleet.add(worker).await;
            load.accepts(20).await;
        }
    };
    scenario.run(&broker, &site, fault).await;
}
