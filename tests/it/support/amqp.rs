//! A foreign AMQP client: what other programs do on the broker.

use lapin::options::{
    BasicPublishOptions, ConfirmSelectOptions, ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions,
    QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use soloist::model::TenantId;
use soloist::queue::rabbitmq::topology::{self, Argument};

use super::soon;

pub(crate) async fn connect(url: &str) -> (Connection, Channel) {
    let connection = soon("a connection", Connection::connect(url, ConnectionProperties::default())).await.unwrap();
    let channel = soon("a channel", connection.create_channel()).await.unwrap();
    (connection, channel)
}

/// Publishes one persistent message, as a careful producer does; it must reach a queue.
pub(crate) async fn publish(url: &str, exchange: &str, key: &str, content_type: &str, body: &[u8]) {
    let (connection, channel) = connect(url).await;
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let properties = BasicProperties::default().with_delivery_mode(2).with_content_type(content_type.into());
    let confirm = channel.basic_publish(exchange.into(), key.into(), options, body, properties).await.unwrap();
    let confirmation = soon("a confirm", confirm).await.unwrap();
    assert!(confirmation.is_ack() && confirmation.take_message().is_none(), "no queue took the message");
    connection.close(200, "done".into()).await.unwrap();
}

/// How many messages are ready in a queue, or `None` where there is no such queue.
pub(crate) async fn depth(channel: &Channel, queue: &str) -> Option<u32> {
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let found = soon("the queue", channel.queue_declare(queue.into(), options, FieldTable::default())).await;
    found.ok().map(|queue| queue.message_count())
}

/// Deletes a queue of the topology and declares it again in the same breath.
pub(crate) async fn replace_queue(url: &str, name: &str) {
    let tenant = TenantId::default_tenant();
    let spec = topology::queues([&tenant]).into_iter().find(|spec| spec.name == name).unwrap();
    let mut arguments = FieldTable::default();
    for (name, argument) in spec.arguments {
        let value = match argument {
            Argument::Text(text) => AMQPValue::LongString(text.into()),
            Argument::Number(number) => AMQPValue::LongLongInt(number),
        };
        arguments.insert(name.into(), value);
    }
    let (connection, channel) = connect(url).await;
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_delete(name.into(), QueueDeleteOptions::default()).await.unwrap();
    channel.queue_declare(name.into(), durable, arguments).await.unwrap();
    for (exchange, key) in spec.bindings {
        let (options, arguments) = (QueueBindOptions::default(), FieldTable::default());
        channel.queue_bind(name.into(), exchange.into(), key.into(), options, arguments).await.unwrap();
    }
    connection.close(200, "done".into()).await.unwrap();
}

/// Removes the whole topology, so that a virtual host that others used before is as good as new.
pub(crate) async fn remove_everything(url: &str, tenants: &[TenantId]) {
    let (connection, channel) = connect(url).await;
    for queue in topology::queues(tenants) {
        channel.queue_delete(queue.name.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    }
    for exchange in topology::exchanges() {
        channel.exchange_delete(exchange.name.into(), ExchangeDeleteOptions::default()).await.unwrap();
    }
    connection.close(200, "done".into()).await.unwrap();
}
