//! Each fault that a broker, its network or a process can have, one test each.

use super::brokers::{Site, broker_or_skip};
use super::scenario::Scenario;

/// Rows that the table has when all tests here have run.
pub(super) const ALL: usize = 1;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_killed_under_load_loses_nothing() {
    let Some(broker) = broker_or_skip("a_broker_killed_under_load_loses_nothing").await else { return };
    let site = Site::from(broker.fresh_vhost().await);
    let scenario = Scenario { fault: "broker kill -9, restarted", webhooks: 1, workers: 2 };
    scenario
        .run(&broker, &site, async |_fleet, load| {
            broker.kill().await;
            load.accepts(20).await;
            broker.restart().await;
        })
        .await;
}
