//! Heartbeats of all processes over a fanout exchange. What they mean is the worker's matter.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Consumer};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::link::Link;
use super::topology;
use super::trouble::Trouble;
use crate::retry;

/// How long setting up may take.
const SET_UP_TIMEOUT: Duration = Duration::from_secs(5);
/// Heartbeats that wait to be heard; older ones mean nothing any more.
const HEARTBEATS_MAX: i64 = 10_000;

/// What is sent and heard.
pub trait Heartbeats: Send + Sync {
    /// How often one is sent.
    fn interval(&self) -> Duration;
    /// The one to send now.
    fn beat(&self) -> Vec<u8>;
    /// One came, possibly our own.
    fn heard(&self, beat: &[u8]);
}

/// Sends and hears until `stop`. An alarm of the broker holds up whatever a connection that publishes has to say, acks
/// among it: so heartbeats are sent by one connection and heard by the other.
pub(super) async fn run(
    publishing: Link,
    consuming: Link,
    heartbeats: Arc<dyn Heartbeats>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    tokio::select! {
        () = stop.cancelled() => {}
        () = again_and_again(Part::Send, &publishing, &*heartbeats) => {}
        () = again_and_again(Part::Hear, &consuming, &*heartbeats) => {}
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Part {
    Send,
    Hear,
}

async fn again_and_again(part: Part, link: &Link, heartbeats: &dyn Heartbeats) {
    let mut failures = 0_u32;
    loop {
        let ended = match part {
            Part::Send => send(link, heartbeats).await,
            Part::Hear => hear(link, heartbeats).await,
        };
        if let Err(trouble) = ended {
            failures = failures.saturating_add(1);
            // That the broker is away is said elsewhere; without its rights a worker would have no share of the rate.
            if failures == 1 && trouble.needs_a_person {
                tracing::error!(
                    alarm = "fleet",
                    "cannot join the fleet, will try again: {trouble}. {}",
                    trouble.remedy()
                );
            }
            tracing::debug!(failures, "no heartbeats for now: {trouble}");
        }
        tokio::time::sleep(retry::reconnect_delay(failures)).await;
    }
}

async fn send(link: &Link, heartbeats: &dyn Heartbeats) -> Result<(), Trouble> {
    link.until_usable().await;
    let connection = link.up().await;
    let late = |_late| Trouble::timed_out("sending a heartbeat");
    let channel = timeout(SET_UP_TIMEOUT, connection.create_channel()).await.map_err(late)??;
    let mut tick = tokio::time::interval(heartbeats.interval());
    loop {
        tick.tick().await;
        link.until_usable().await;
        let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
        let body = heartbeats.beat();
        let sent = channel.basic_publish(topology::FLEET.into(), "".into(), options, &body, properties);
        drop(timeout(SET_UP_TIMEOUT, sent).await.map_err(late)??);
    }
}

async fn hear(link: &Link, heartbeats: &dyn Heartbeats) -> Result<(), Trouble> {
    let connection = link.up().await;
    let late = |_late| Trouble::timed_out("setting up the heartbeats");
    let set_up = async { set_up(connection.create_channel().await?).await };
    let (_channel, mut consumer) = timeout(SET_UP_TIMEOUT, set_up).await.map_err(late)??;
    loop {
        let ended = || Trouble::new("the broker ended the consumer", "nothing");
        heartbeats.heard(&consumer.next().await.ok_or_else(ended)??.data);
    }
}

async fn set_up(channel: Channel) -> Result<(Channel, Consumer), Trouble> {
    let name = format!("{}{}", topology::PRIVATE_PREFIX, uuid::Uuid::new_v4());
    let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(HEARTBEATS_MAX));
    channel.queue_declare(name.as_str().into(), options, arguments).await?;
    let (bind, none) = (QueueBindOptions::default(), FieldTable::default());
    channel.queue_bind(name.as_str().into(), topology::FLEET.into(), "".into(), bind, none).await?;
    let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let consumer = channel.basic_consume(name.as_str().into(), "".into(), options, FieldTable::default()).await?;
    Ok((channel, consumer))
}
