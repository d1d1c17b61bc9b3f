//! What a network does between us and a broker that is well.

use std::time::Duration;

use crate::rabbitmq::brokers::{Site, broker_or_skip};
use crate::rabbitmq::fleet::Fleet;
use crate::rabbitmq::load::Load;
use crate::rabbitmq::scenario::{Scenario, is_long};
use crate::support::broker::Broker;
use crate::support::proxy::Proxy;

/// A vhost of the broker that all processes reach through the proxy.
async fn site_behind(proxy: &Proxy, broker: &Broker) -> Site {
    let vhost = broker.fresh_vhost().await;
    Site { url: vhost.url_through(proxy.addr()), vhost: vhost.name }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_cut_lose_nothing() {
    let Some(broker) = broker_or_skip("connections_that_are_cut_lose_nothing").await else { return };
    let proxy = Proxy::start(broker.addr()).await;
    let site = site_behind(&proxy, &broker).await;
    let scenario = Scenario::new("network: all cut 3 times, then refused", 1, 2);
    let fault = async |_: &mut Fleet, load: &Load| {
        for _ in 0..3 {
            proxy.cut_all().await;
            load.accepts(50).await;
        }
        proxy.refuse(true).await;
        proxy.cut_all().await;
        load.accepts(50).await;
        proxy.refuse(false).await;
    };
    scenario.run(&broker, &site, fault).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_stall_for_longer_than_a_confirm_may_take_lose_nothing() {
    let name = "connections_that_stall_for_longer_than_a_confirm_may_take_lose_nothing";
    let Some(broker) = broker_or_skip(name).await else { return };
    let proxy = Proxy::start(broker.addr()).await;
    let site = site_behind(&proxy, &broker).await;
    // The long one is longer than heartbeats may stay out, too.
    let (fault, seconds) = if is_long() { ("network: stalls for 40 s", 40) } else { ("network: stalls for 5 s", 5) };
    let scenario = Scenario::new(fault, 1, 2);
    let fault = async |_: &mut Fleet, load: &Load| {
        proxy.stall(true);
        load.goes_on_for(Duration::from_secs(seconds)).await;
        proxy.stall(false);
    };
    scenario.run(&broker, &site, fault).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_closed_by_half_lose_nothing() {
    let Some(broker) = broker_or_skip("connections_that_are_closed_by_half_lose_nothing").await else { return };
    let proxy = Proxy::start(broker.addr()).await;
    let site = site_behind(&proxy, &broker).await;
    let scenario = Scenario::new("network: half-closed 3 times", 1, 2);
    let fault = async |_: &mut Fleet, load: &Load| {
        for _ in 0..3 {
            proxy.half_close();
            load.accepts(50).await;
        }
    };
    scenario.run(&broker, &site, fault).await;
}
