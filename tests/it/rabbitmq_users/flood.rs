//! A producer that floods is refused, and takes nothing from others: webhooks go on, and what was accepted is enforced.

use lapin::BasicProperties;
use lapin::options::{
    BasicPublishOptions, ConfirmSelectOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use serde_json::json;
use soloist::model::Lane;
use soloist::queue::rabbitmq::topology::{self, Argument};

use super::{Member, comes_down_to, configured, empty_vhost, logs_in, sandbox, until};
use crate::support::broker::shared_rabbitmq_or_skip;
use crate::support::process::post;
use crate::support::{amqp, soon, tenant};

/// Instead of ten million.
const ROOM: i64 = 20;
const FLOOD: usize = 200;

/// Declares the default tenant's queue of logins as the program would, but for its limit.
async fn declare_with_little_room(url: &str) {
    let (connection, channel) = amqp::connect(url).await;
    let queue = topology::lane_queue(&tenant("default"), Lane::Logins);
    let mut arguments = FieldTable::default();
    for (name, argument) in queue.arguments {
        let value = match argument {
            Argument::Text(text) => AMQPValue::LongString(text.into()),
            Argument::Number(_) if name == "x-max-length" => AMQPValue::LongLongInt(ROOM),
            Argument::Number(number) => AMQPValue::LongLongInt(number),
        };
        arguments.insert(name.into(), value);
    }
    channel.queue_delete(queue.name.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.name.as_str().into(), options, arguments).await.unwrap();
    for (exchange, key) in queue.bindings {
        let (options, none) = (QueueBindOptions::default(), FieldTable::default());
        let (name, key) = (queue.name.as_str().into(), key.as_str().into());
        channel.queue_bind(name, exchange.into(), key, options, none).await.unwrap();
    }
    connection.close(200, "done".into()).await.unwrap();
}

/// How many of a flood were confirmed; the others were refused.
async fn flood(url: &str) -> usize {
    let (connection, channel) = amqp::connect(url).await;
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    let mut confirmed = 0;
    for _ in 0..FLOOD {
        let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default().with_delivery_mode(2));
        let (exchange, key) = (topology::LOGINS.into(), "default".into());
        let confirm = channel.basic_publish(exchange, key, options, br#"{"uid":"ann"}"#, properties).await.unwrap();
        confirmed += usize::from(soon("a confirm", confirm).await.unwrap().is_ack());
    }
    connection.close(200, "done".into()).await.unwrap();
    confirmed
}

#[tokio::test]
async fn a_flooding_producer_is_refused_while_webhooks_are_accepted() {
    if !shared_rabbitmq_or_skip("a_flooding_producer_is_refused_while_webhooks_are_accepted") {
        return;
    }
    let (vhost, sandbox) = (empty_vhost().await, sandbox().await);
    configured(&sandbox, &vhost.url, &[]).done(&["check"]).await;
    declare_with_little_room(&vhost.url).await;

    let confirmed = flood(&vhost.url).await;

    assert!(confirmed >= usize::try_from(ROOM).unwrap() && confirmed < FLOOD, "{confirmed} of {FLOOD} were confirmed");
    let (connection, channel) = amqp::connect(&vhost.url).await;
    let waiting = async || amqp::depth(&channel, "soloist.enforce.default").await.unwrap();
    assert_eq!(waiting().await as usize, confirmed);

    let looks_only = [("QUEUE__RABBITMQ__DECLARE", "false")];
    let webhook = Member::start(configured(&sandbox, &vhost.url, &looks_only), "webhook,control").await;
    let (ann, bob) = (logs_in(&sandbox, "ann"), logs_in(&sandbox, "bob"));
    let client = reqwest::Client::builder().tls_certs_only([]).no_proxy().build().unwrap();
    let body = json!({ "HookName": "login", "HookId": "h", "Data": { "Uid": "bob" } });
    assert_eq!(post(&client, webhook.webhook_url.as_ref().unwrap(), body.to_string()).await, Some(202));
    assert_eq!(waiting().await as usize, confirmed, "it went to the journal");

    let worker = Member::start(configured(&sandbox, &vhost.url, &looks_only), "worker").await;
    comes_down_to(&sandbox, &ann).await;
    comes_down_to(&sandbox, &bob).await;
    until("the queue to be empty", async || waiting().await == 0).await;
    let spooled = async || webhook.status().await["broker"]["spool_messages"].clone();
    until("the journal to be empty", async || spooled().await == 0).await;
    connection.close(200, "done".into()).await.unwrap();
    worker.stop().await;
    webhook.stop().await;
}
