//! Whether a process could work with the broker as it is configured: for `soloist check`.

use std::collections::BTreeSet;
use std::time::Duration;

use lapin::options::{
    BasicCancelOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection};
use tokio::time::timeout;

use super::target::Target;
use super::topology;
use super::trouble::Trouble;
use crate::config::RabbitmqConfig;
use crate::model::{Lane, TenantId};

/// How long all of it may take on one host.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);
/// A routing key that no queue is bound by.
const NOWHERE: &str = "soloist-check.nowhere";

/// What a process will do with the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    Webhook,
    Worker,
    Control,
}

/// Connects to every host, looks at the topology, and tries every right that these duties need, without leaving
/// anything behind but what is declared.
///
/// Returns where it connected to.
///
/// # Errors
/// What is wrong first, with its place, and what to do about it.
pub async fn probe(config: &RabbitmqConfig, tenants: &BTreeSet<TenantId>, duties: &[Duty]) -> Result<String, Trouble> {
    let target = Target::new(config)
        .map_err(|error| Trouble::new(format!("{error:#}"), "correct queue.rabbitmq in the configuration"))?;
    let mut places = Vec::new();
    for (turn, place) in target.places().into_iter().enumerate() {
        let connected = target.connect("soloist check", turn).await;
        let connection = connected.map_err(|trouble| trouble.at(&place))?;
        let probing = probe_host(&connection, config.declare, tenants, duties);
        let probed = timeout(PROBE_TIMEOUT, probing).await.unwrap_or_else(|_late| Err(Trouble::timed_out("the check")));
        connection.close(200, "done".into()).await.ok();
        probed.map_err(|trouble| trouble.at(&place))?;
        places.push(place);
    }
    Ok(places.join(", "))
}

async fn probe_host(
    connection: &Connection,
    declare: bool,
    tenants: &BTreeSet<TenantId>,
    duties: &[Duty],
) -> Result<(), Trouble> {
    if declare {
        topology::declare(connection, tenants).await?;
    } else {
        topology::look(connection, tenants).await?;
    }
    for duty in duties {
        let Needs { write, read, hear } = needs(*duty, tenants);
        for exchange in write {
            try_write(connection, exchange).await.map_err(|trouble| trouble.for_want_of("write"))?;
        }
        for queue in read {
            let channel = connection.create_channel().await?;
            try_read(&channel, &queue).await?;
            topology::close(&channel).await;
        }
        if !hear.is_empty() {
            try_hear(connection, hear).await?;
        }
    }
    Ok(())
}

/// What a process publishes to, consumes, and hears by a queue of its own.
struct Needs {
    write: Vec<&'static str>,
    read: Vec<String>,
    hear: &'static [&'static str],
}

fn needs(duty: Duty, tenants: &BTreeSet<TenantId>) -> Needs {
    match duty {
        Duty::Webhook => Needs { write: vec![topology::LOGINS], read: Vec::new(), hear: &[] },
        Duty::Worker => {
            let delays = topology::RUNGS.iter().map(|(delay, _)| *delay);
            let write = [topology::WORK, topology::DECISIONS, topology::FLEET].into_iter().chain(delays).collect();
            let lanes = |tenant| Lane::ALL.map(|lane| topology::queue_name(tenant, lane));
            Needs {
                write,
                read: tenants.iter().flat_map(lanes).collect(),
                hear: &[topology::FLEET, topology::DIRECTIVES],
            }
        }
        Duty::Control => Needs {
            write: vec![topology::WORK, topology::DIRECTIVES, topology::FLEET],
            read: vec![topology::DEAD.to_owned(), topology::LEDGER.to_owned()],
            hear: &[topology::FLEET],
        },
    }
}

/// Publishes what no broker takes, since its expiration is no number. That is looked at after the right to write, so
/// the refusal tells which it was, and nothing arrives even where every key leads to a queue.
async fn try_write(connection: &Connection, exchange: &str) -> Result<(), Trouble> {
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let properties = BasicProperties::default().with_expiration("none".into());
    let published = channel.basic_publish(exchange.into(), NOWHERE.into(), options, b"", properties).await?;
    match published.await {
        Err(error) if !error.to_string().contains("invalid expiration") => Err(error.into()),
        _ => Ok(()),
    }
}

/// Consumes nothing: the right to read shows before the first message would come.
async fn try_read(channel: &Channel, queue: &str) -> Result<(), Trouble> {
    channel.basic_qos(1, BasicQosOptions::default()).await?;
    let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
    let consumed = channel.basic_consume(queue.into(), "".into(), options, none).await;
    let consumer = consumed.map_err(|error| Trouble::from(error).for_want_of("read"))?;
    channel.basic_cancel(consumer.tag(), BasicCancelOptions::default()).await?;
    Ok(())
}

/// Makes a queue of our own for a moment, as heartbeats and directives are heard.
async fn try_hear(connection: &Connection, exchanges: &[&str]) -> Result<(), Trouble> {
    let channel = connection.create_channel().await?;
    let name = format!("{}{}", topology::PRIVATE_PREFIX, uuid::Uuid::new_v4());
    let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
    let declared = channel.queue_declare(name.as_str().into(), options, FieldTable::default()).await;
    declared.map_err(|error| Trouble::from(error).for_want_of("configure"))?;
    for exchange in exchanges {
        let (options, none) = (QueueBindOptions::default(), FieldTable::default());
        let bound = channel.queue_bind(name.as_str().into(), (*exchange).into(), "".into(), options, none).await;
        bound.map_err(|error| Trouble::from(error).for_want_of("write for a queue, read for an exchange"))?;
    }
    try_read(&channel, &name).await?;
    topology::close(&channel).await;
    Ok(())
}
