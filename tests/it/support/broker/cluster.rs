//! Three nodes that form one cluster.

use std::sync::Arc;

use futures_util::future::join_all;

use super::Broker;
use super::home::Home;

const NAMES: [&str; 3] = ["a", "b", "c"];

pub(crate) struct Cluster {
    nodes: Vec<Broker>,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        let home = Arc::new(Home::make().await);
        let mut conf = vec![
            "cluster_partition_handling = pause_minority".to_owned(),
            "cluster_formation.peer_discovery_backend = classic_config".to_owned(),
        ];
        conf.extend(
            (1..)
                .zip(NAMES)
                .map(|(at, name)| format!("cluster_formation.classic_config.nodes.{at} = {name}@localhost")),
        );
        let conf: Vec<&str> = conf.iter().map(String::as_str).collect();
        let nodes = NAMES.map(|name| Broker::prepare(name, Arc::clone(&home), &conf)).into();
        let cluster = Self { nodes };
        join_all(cluster.nodes.iter().map(Broker::restart)).await;
        let members = cluster.nodes[0].eval("length(rabbit_mnesia:cluster_nodes(running))").await;
        assert_eq!(members, "3", "nodes that found each other");
        cluster
    }

    pub(crate) fn nodes(&self) -> &[Broker] {
        &self.nodes
    }

    pub(crate) fn node(&self, at: usize) -> &Broker {
        &self.nodes[at]
    }

    /// Which node leads a quorum queue, as those see it that can be asked.
    pub(crate) async fn leader_of(&self, vhost: &str, queue: &str) -> usize {
        let asked = self.nodes.iter().find(|node| node.is_awake()).expect("a node that runs");
        let leader = asked.leader_name(vhost, queue).await;
        NAMES.iter().position(|name| leader == format!("{name}@localhost")).unwrap()
    }
}
