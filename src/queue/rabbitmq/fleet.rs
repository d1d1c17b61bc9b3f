//! What all processes tell each other over fanout exchanges: heartbeats, and directives. What they mean is their matter.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
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
/// Announcements that wait to be heard; older ones mean nothing any more.
const WAITING_MAX: i64 = 10_000;

/// What is sent and heard over one exchange.
#[async_trait]
pub trait Announcements: Send + Sync {
    /// Waits until there is something to send, and gives it. Cancel-safe.
    async fn next(&self) -> Vec<u8>;
    /// One came, possibly our own.
    fn heard(&self, announcement: &[u8]);
}

/// The exchanges.
#[derive(Clone, Copy)]
pub(super) enum Exchange {
    /// Everybody says that they are there, and what they need.
    Fleet,
    /// The control process tells the workers what to obey.
    Directives,
}

impl Exchange {
    fn name(self) -> &'static str {
        match self {
            Self::Fleet => topology::FLEET,
            Self::Directives => topology::DIRECTIVES,
        }
    }
}

/// Which side of an exchange this process is on.
#[derive(Clone, Copy)]
pub(super) enum Side {
    Both,
    Tells,
    Hears,
}

/// Sends and hears until `stop`. An alarm of the broker holds up whatever a connection that publishes has to say, acks
/// among it: so announcements are sent by one connection and heard by the other.
pub(super) async fn run(
    (publishing, consuming): (Link, Link),
    (exchange, side): (Exchange, Side),
    announcements: Arc<dyn Announcements>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let tells = async {
        if !matches!(side, Side::Hears) {
            again_and_again(Part::Send, exchange, &publishing, &*announcements).await;
        }
        stop.cancelled().await;
    };
    let hears = async {
        if !matches!(side, Side::Tells) {
            again_and_again(Part::Hear, exchange, &consuming, &*announcements).await;
        }
        stop.cancelled().await;
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = tells => {}
        () = hears => {}
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Part {
    Send,
    Hear,
}

async fn again_and_again(part: Part, exchange: Exchange, link: &Link, announcements: &dyn Announcements) {
    let mut failures = 0_u32;
    loop {
        let ended = match part {
            Part::Send => send(exchange, link, announcements).await,
            Part::Hear => hear(exchange, link, announcements).await,
        };
        if let Err(trouble) = ended {
            failures = failures.saturating_add(1);
            // That the broker is away is said elsewhere; without its rights a worker would have no share of the rate.
            if failures == 1 && trouble.needs_a_person {
                tracing::error!(
                    alarm = "fleet",
                    "cannot use {}, will try again: {trouble}. {}",
                    exchange.name(),
                    trouble.remedy()
                );
            }
            tracing::debug!(failures, "nothing over {} for now: {trouble}", exchange.name());
        }
        tokio::time::sleep(retry::reconnect_delay(failures)).await;
    }
}

async fn send(exchange: Exchange, link: &Link, announcements: &dyn Announcements) -> Result<(), Trouble> {
    link.until_usable().await;
    let connection = link.up().await;
    let late = |_late| Trouble::timed_out("sending an announcement");
    let channel = timeout(SET_UP_TIMEOUT, connection.create_channel()).await.map_err(late)??;
    loop {
        link.until_usable().await;
        let body = announcements.next().await;
        // What was to be said before an alarm of the broker may be wrong after it.
        if !link.is_usable() {
            continue;
        }
        let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
        let sent = channel.basic_publish(exchange.name().into(), "".into(), options, &body, properties);
        drop(timeout(SET_UP_TIMEOUT, sent).await.map_err(late)??);
    }
}

async fn hear(exchange: Exchange, link: &Link, announcements: &dyn Announcements) -> Result<(), Trouble> {
    let connection = link.up().await;
    let late = |_late| Trouble::timed_out("setting up the announcements");
    let set_up = async { set_up(exchange, connection.create_channel().await?).await };
    let (_channel, mut consumer) = timeout(SET_UP_TIMEOUT, set_up).await.map_err(late)??;
    loop {
        let ended = || Trouble::new("the broker ended the consumer", "nothing");
        announcements.heard(&consumer.next().await.ok_or_else(ended)??.data);
    }
}

async fn set_up(exchange: Exchange, channel: Channel) -> Result<(Channel, Consumer), Trouble> {
    let name = format!("{}{}", topology::PRIVATE_PREFIX, uuid::Uuid::new_v4());
    let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(WAITING_MAX));
    channel.queue_declare(name.as_str().into(), options, arguments).await?;
    let (bind, none) = (QueueBindOptions::default(), FieldTable::default());
    channel.queue_bind(name.as_str().into(), exchange.name().into(), "".into(), bind, none).await?;
    let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let consumer = channel.basic_consume(name.as_str().into(), "".into(), options, FieldTable::default()).await?;
    Ok((channel, consumer))
}
