//! One node: what it survives, and what can be done to it.

use std::time::Duration;

use tokio::net::TcpStream;

use super::amqp;
use crate::support::broker::{Broker, binary, rabbitmq_or_skip, resource};
use crate::support::soon;

/// A durable quorum queue.
pub(super) async fn declare(broker: &Broker, vhost: &str, queue: &str) {
    let expression = format!(
        "{{new, _}} = rabbit_amqqueue:declare({}, true, false, \
         [{{<<\"x-queue-type\">>, longstr, <<\"quorum\">>}}], none, <<\"test\">>), ok",
        resource(vhost, queue)
    );
    assert_eq!(broker.eval(&expression).await, "ok");
}

pub(super) async fn publish(broker: &Broker, vhost: &str, queue: &str) {
    let exchange = format!("rabbit_misc:r({}, exchange, <<>>)", binary(vhost));
    let expression = format!("rabbit_basic:publish({exchange}, {}, [], <<\"hello\">>)", binary(queue));
    assert_eq!(broker.eval(&expression).await, "ok");
}

/// Waits until the queue has so many messages.
pub(super) async fn has(broker: &Broker, vhost: &str, queue: &str, depth: u64) {
    soon("the messages", async {
        let mut pause = tokio::time::interval(Duration::from_millis(20));
        while broker.queue_depth(vhost, queue).await != Some(depth) {
            pause.tick().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_durable_queue_survives_a_kill_and_a_stop() {
    if !rabbitmq_or_skip("a_durable_queue_survives_a_kill_and_a_stop") {
        return;
    }
    let broker = Broker::start().await;
    declare(&broker, "/", "q").await;
    publish(&broker, "/", "q").await;
    has(&broker, "/", "q", 1).await;

    broker.kill().await;
    assert!(!broker.is_running());
    broker.restart().await;
    has(&broker, "/", "q", 1).await;
    amqp::open(&broker.url()).await.unwrap();

    broker.stop().await;
    broker.restart().await;
    has(&broker, "/", "q", 1).await;

    broker.delete_queue("/", "q").await;
    assert_eq!(broker.queue_depth("/", "q").await, None);
}

#[tokio::test]
async fn a_node_ends_with_the_test_also_when_it_is_frozen() {
    if !rabbitmq_or_skip("a_node_ends_with_the_test_also_when_it_is_frozen") {
        return;
    }
    let broker = Broker::start().await;
    let (addr, folder) = (broker.addr(), broker.folder().to_owned());
    broker.freeze().await;

    drop(broker);

    // The kernel closes the sockets of a killed process a little later.
    soon("the node to be gone", async {
        let mut pause = tokio::time::interval(Duration::from_millis(20));
        while TcpStream::connect(addr).await.is_ok() || folder.exists() {
            pause.tick().await;
        }
    })
    .await;
}
