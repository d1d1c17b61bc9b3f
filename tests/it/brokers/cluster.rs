//! Three nodes: one is lost, the others go on.

use std::time::Duration;

use super::faults::{declare, has, publish};
use crate::support::broker::{Broker, Cluster, rabbitmq_or_skip};
use crate::support::soon;

#[tokio::test]
async fn a_cluster_that_loses_its_leader_elects_another() {
    if !rabbitmq_or_skip("a_cluster_that_loses_its_leader_elects_another") {
        return;
    }
    let cluster = Cluster::start().await;
    let vhost = cluster.node(0).fresh_vhost().await.name;
    declare(cluster.node(1), &vhost, "q").await;
    publish(cluster.node(2), &vhost, "q").await;
    has(cluster.node(0), &vhost, "q", 1).await;

    let lost = cluster.leader_of(&vhost, "q").await;
    cluster.node(lost).kill().await;
    soon("another leader", async {
        let mut pause = tokio::time::interval(Duration::from_millis(20));
        while cluster.leader_of(&vhost, "q").await == lost {
            pause.tick().await;
        }
    })
    .await;

    let leader = cluster.leader_of(&vhost, "q").await;
    has(cluster.node(leader), &vhost, "q", 1).await;
    cluster.node(lost).restart().await;
    assert!(cluster.nodes().iter().all(Broker::is_running));
    has(cluster.node(lost), &vhost, "q", 1).await;
}
