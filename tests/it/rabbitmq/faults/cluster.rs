//! A cluster of three that loses a node, and one that has a node that does not answer. One cluster for both, because
//! it is heavy.

use std::time::Duration;

use crate::rabbitmq::brokers::Site;
use crate::rabbitmq::fleet::Fleet;
use crate::rabbitmq::load::Load;
use crate::rabbitmq::scenario::Scenario;
use crate::support::broker::{Cluster, rabbitmq_or_skip};

const ENFORCE: &str = "soloist.enforce.default";

/// All three nodes, in the order of their names.
async fn site_on(cluster: &Cluster) -> Site {
    let vhost = cluster.node(0).fresh_vhost().await.name;
    let urls: Vec<String> = cluster.nodes().iter().map(|node| format!("{:?}", node.url_of(&vhost))).collect();
    Site { url: format!("[{}]", urls.join(", ")), vhost }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_whose_leader_is_killed_and_then_one_whose_leader_is_paused_lose_nothing() {
    if !rabbitmq_or_skip("a_cluster_whose_leader_is_killed_and_then_one_whose_leader_is_paused_lose_nothing") {
        return;
    }
    let cluster = Cluster::start().await;
    let site = site_on(&cluster).await;
    let scenario = Scenario::new("cluster: leader kill -9, restarted", 2, 2);
    let fault = async |_: &mut Fleet, load: &Load| {
        let leader = cluster.node(cluster.leader_of(&site.vhost, ENFORCE).await);
        leader.kill().await;
        load.accepts(60).await;
        leader.restart().await;
    };
    scenario.run(cluster.node(0), &site, fault).await;

    let site = site_on(&cluster).await;
    let scenario = Scenario::new("cluster: leader paused for 12 s", 2, 2);
    let fault = async |_: &mut Fleet, load: &Load| {
        let leader = cluster.node(cluster.leader_of(&site.vhost, ENFORCE).await);
        leader.freeze().await;
        load.goes_on_for(Duration::from_secs(12)).await;
        leader.thaw().await;
    };
    scenario.run(cluster.node(0), &site, fault).await;
}
