//! What is on the broker: names, arguments, bindings. Other programs use them, so they never change.
//!
//! One queue a tenant and lane, so that a tenant in trouble never delays another. One queue a delay, with a fixed
//! time to live: a quorum queue expires messages at its head only, so mixed times would block each other.

use std::collections::BTreeSet;
use std::time::Duration;

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ExchangeKind};

use super::trouble::Trouble;
use crate::model::{Lane, TenantId};

/// Where producers publish; the routing key is the tenant, empty for the default one.
pub const LOGINS: &str = "soloist.logins";
/// Ours: routing keys `enforce.<tenant>`, `background.<tenant>` and [`DEAD_KEY`].
pub const WORK: &str = "soloist.work";
/// Where given-up messages wait for `control`.
pub const DEAD: &str = "soloist.dead";
pub const DEAD_KEY: &str = "dead";
/// Intents and outcomes of all workers, on their way to the ledger.
pub const DECISIONS: &str = "soloist.decisions";
pub const LEDGER: &str = "soloist.ledger";
/// From `control` to all workers.
pub const DIRECTIVES: &str = "soloist.directives";
/// Heartbeats of all processes.
pub const FLEET: &str = "soloist.fleet";
/// The exclusive queues of one process.
pub const PRIVATE_PREFIX: &str = "soloist.private.";

/// Hand-overs without a settlement after which the broker gives a message up. High, since before RabbitMQ 4.3 every
/// lost channel counts; explicit, since from 4.0 on it is 20 otherwise.
pub const DELIVERY_LIMIT: i64 = 200;
/// Messages that a tenant's queue takes before it refuses more, so that a flooding producer cannot fill the disk.
pub const QUEUE_MESSAGES_MAX: i64 = 10_000_000;
/// Records that may wait for the ledger.
pub const LEDGER_RECORDS_MAX: i64 = 1_000_000;

/// Delays that a message can wait, in milliseconds, with the names of their queues.
pub const RUNGS: [(&str, u64); 6] = [
    ("soloist.delay.1s", 1_000),
    ("soloist.delay.5s", 5_000),
    ("soloist.delay.30s", 30_000),
    ("soloist.delay.2m", 120_000),
    ("soloist.delay.10m", 600_000),
    ("soloist.delay.1h", 3_600_000),
];

/// How long a queue that was deleted is left so before it is declared again. Of a queue that is there again before it
/// has dealt with the end of the old one, the broker (seen with 3.10) tells its consumers nothing: it hands messages to
/// them, and sends them nowhere.
pub(super) const GONE_WAIT: Duration = Duration::from_secs(2);

/// An exchange as declared. All are durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchange {
    pub name: &'static str,
    /// `topic`, `direct` or `fanout`.
    pub kind: &'static str,
}

/// A queue as declared. All are durable.
#[derive(Clone, Debug, PartialEq)]
pub struct QueueSpec {
    pub name: String,
    pub arguments: Vec<(&'static str, Argument)>,
    /// Exchange and routing key.
    pub bindings: Vec<(&'static str, String)>,
}

/// The value of a queue's argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Argument {
    Text(&'static str),
    Number(i64),
}

impl Argument {
    fn value(&self) -> AMQPValue {
        match self {
            Self::Text(text) => AMQPValue::LongString((*text).into()),
            Self::Number(number) => AMQPValue::LongLongInt(*number),
        }
    }
}

/// The lane's word in routing keys and queue names.
fn lane_word(lane: Lane) -> &'static str {
    match lane {
        Lane::Logins => "enforce",
        Lane::Background => "background",
    }
}

/// The routing key of a tenant's lane on [`WORK`].
pub fn work_key(tenant: &TenantId, lane: Lane) -> String {
    format!("{}.{tenant}", lane_word(lane))
}

pub fn queue_name(tenant: &TenantId, lane: Lane) -> String {
    format!("soloist.{}.{tenant}", lane_word(lane))
}

pub fn exchanges() -> Vec<Exchange> {
    let fixed = [
        Exchange { name: LOGINS, kind: "topic" },
        Exchange { name: WORK, kind: "direct" },
        Exchange { name: DECISIONS, kind: "topic" },
        Exchange { name: DIRECTIVES, kind: "fanout" },
        Exchange { name: FLEET, kind: "fanout" },
    ];
    let delays = RUNGS.iter().map(|(name, _)| Exchange { name, kind: "fanout" });
    fixed.into_iter().chain(delays).collect()
}

/// Every queue that these tenants need.
pub fn queues<'a>(tenants: impl IntoIterator<Item = &'a TenantId>) -> Vec<QueueSpec> {
    let tenants: BTreeSet<&TenantId> = tenants.into_iter().collect();
    let mut queues: Vec<_> = RUNGS.iter().map(|&(name, delay_ms)| delay_queue(name, delay_ms)).collect();
    queues.push(QueueSpec {
        name: DEAD.to_owned(),
        arguments: vec![QUORUM, UNLIMITED],
        bindings: vec![(WORK, DEAD_KEY.to_owned())],
    });
    queues.push(QueueSpec {
        name: LEDGER.to_owned(),
        arguments: vec![QUORUM, UNLIMITED, ("x-max-length", Argument::Number(LEDGER_RECORDS_MAX)), REJECT],
        bindings: vec![(DECISIONS, "#".to_owned())],
    });
    for tenant in tenants {
        queues.extend(Lane::ALL.map(|lane| lane_queue(tenant, lane)));
    }
    queues
}

const QUORUM: (&str, Argument) = ("x-queue-type", Argument::Text("quorum"));
const REJECT: (&str, Argument) = ("x-overflow", Argument::Text("reject-publish"));
const AT_LEAST_ONCE: (&str, Argument) = ("x-dead-letter-strategy", Argument::Text("at-least-once"));
const TO_WORK: (&str, Argument) = ("x-dead-letter-exchange", Argument::Text(WORK));
/// As good as none: a message here must never be dropped by the broker.
const UNLIMITED: (&str, Argument) = ("x-delivery-limit", Argument::Number(1_000_000_000));

/// A tenant's lane. Logins of producers come in by the tenant's name, those of the default tenant also by none.
pub fn lane_queue(tenant: &TenantId, lane: Lane) -> QueueSpec {
    let mut bindings = vec![(WORK, work_key(tenant, lane))];
    if lane == Lane::Logins {
        bindings.push((LOGINS, tenant.to_string()));
        if *tenant == TenantId::default_tenant() {
            bindings.push((LOGINS, String::new()));
        }
    }
    QueueSpec {
        name: queue_name(tenant, lane),
        arguments: vec![
            QUORUM,
            ("x-delivery-limit", Argument::Number(DELIVERY_LIMIT)),
            TO_WORK,
            ("x-dead-letter-routing-key", Argument::Text(DEAD_KEY)),
            AT_LEAST_ONCE,
            ("x-max-length", Argument::Number(QUEUE_MESSAGES_MAX)),
            REJECT,
        ],
        bindings,
    }
}

/// A message that expires here keeps its routing key, so it comes back to its own tenant and lane.
fn delay_queue(name: &'static str, delay_ms: u64) -> QueueSpec {
    QueueSpec {
        name: name.to_owned(),
        arguments: vec![
            QUORUM,
            UNLIMITED,
            ("x-message-ttl", Argument::Number(i64::try_from(delay_ms).unwrap_or(i64::MAX))),
            TO_WORK,
            AT_LEAST_ONCE,
            REJECT,
        ],
        bindings: vec![(name, String::new())],
    }
}

/// The queue of the shortest delay that is not shorter, or of the longest.
pub(super) fn rung(after_ms: u64) -> &'static str {
    let [.., (longest, _)] = RUNGS;
    RUNGS.iter().find(|(_, delay_ms)| *delay_ms >= after_ms).map_or(longest, |(name, _)| name)
}

/// Declares everything that these tenants need; what is there already must be the same.
pub(super) async fn declare(connection: &Connection, tenants: &BTreeSet<TenantId>) -> Result<(), Trouble> {
    let channel = connection.create_channel().await?;
    for Exchange { name, kind } in exchanges() {
        let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        channel.exchange_declare(name.into(), kind_of(kind), options, FieldTable::default()).await?;
    }
    for queue in queues(tenants) {
        declare_queue(&channel, &queue).await?;
    }
    close(&channel).await;
    Ok(())
}

pub(super) async fn declare_queue(channel: &Channel, queue: &QueueSpec) -> Result<(), Trouble> {
    let mut arguments = FieldTable::default();
    for (name, argument) in &queue.arguments {
        arguments.insert((*name).into(), argument.value());
    }
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.name.as_str().into(), options, arguments).await?;
    for (exchange, key) in &queue.bindings {
        let (options, arguments) = (QueueBindOptions::default(), FieldTable::default());
        channel
            .queue_bind(queue.name.as_str().into(), (*exchange).into(), key.as_str().into(), options, arguments)
            .await?;
    }
    Ok(())
}

/// Looks whether everything is there, for accounts that may not declare. Arguments cannot be seen this way.
pub(super) async fn look(connection: &Connection, tenants: &BTreeSet<TenantId>) -> Result<(), Trouble> {
    let channel = connection.create_channel().await?;
    for Exchange { name, kind } in exchanges() {
        let options = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
        channel.exchange_declare(name.into(), kind_of(kind), options, FieldTable::default()).await?;
    }
    for queue in queues(tenants) {
        depth(&channel, &queue.name).await?;
    }
    close(&channel).await;
    Ok(())
}

/// How many messages are ready in a queue that exists. An error closes the channel.
pub(super) async fn depth(channel: &Channel, queue: &str) -> lapin::Result<u64> {
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let found = channel.queue_declare(queue.into(), options, FieldTable::default()).await?;
    Ok(found.message_count().into())
}

fn kind_of(kind: &str) -> ExchangeKind {
    match kind {
        "topic" => ExchangeKind::Topic,
        "direct" => ExchangeKind::Direct,
        _ => ExchangeKind::Fanout,
    }
}

/// Closes a channel that has done its work. That it may be closed already changes nothing.
pub(super) async fn close(channel: &Channel) {
    channel.close(200, "done".into()).await.ok();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retry;

    #[test]
    fn there_is_one_delay_queue_for_each_rung_of_the_ladder() {
        let delays: Vec<u64> = RUNGS.iter().map(|(_, delay_ms)| *delay_ms).collect();
        let ladder: Vec<u64> =
            retry::DELIVERIES.iter().map(|delay| u64::try_from(delay.as_millis()).unwrap()).collect();
        assert_eq!(delays, ladder);
    }

    #[test]
    fn a_delay_is_rounded_up_to_the_next_rung() {
        for (after_ms, expected) in [
            (1, "soloist.delay.1s"),
            (1_000, "soloist.delay.1s"),
            (1_001, "soloist.delay.5s"),
            (30_000, "soloist.delay.30s"),
            (600_001, "soloist.delay.1h"),
            (u64::MAX, "soloist.delay.1h"),
        ] {
            assert_eq!(rung(after_ms), expected, "{after_ms} ms");
        }
    }

    #[test]
    fn every_queue_that_may_be_filled_by_others_refuses_more_than_its_limit() {
        for queue in queues([&TenantId::default_tenant()]) {
            let has = |name: &str| queue.arguments.iter().any(|(argument, _)| *argument == name);
            assert!(has("x-queue-type") && has("x-delivery-limit"), "{}", queue.name);
            let filled_by_others = queue.bindings.iter().any(|(exchange, _)| [LOGINS, DECISIONS].contains(exchange));
            assert!(!filled_by_others || (has("x-max-length") && has("x-overflow")), "{}", queue.name);
        }
    }
}
