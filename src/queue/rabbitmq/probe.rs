//! Whether a process could work with the broker as it is configured: for `soloist check`.

use std::collections::BTreeSet;
use std::time::Duration;

use lapin::options::{
    BasicCancelOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection};
use tokio::time::timeout;

use super::link::Target;
use super::topology;
use super::trouble::Trouble;
use crate::config::RabbitmqConfig;
use crate::model::{Lane, TenantId};

/// How long all of it may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);
/// A routing key that no queue is bound by: what is published with it comes back, and shows that we may publish.
const NOWHERE: &str = "soloist-check.nowhere";

/// What a process will do with the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    Webhook,
    Worker,
    Control,
}

/// Connects, looks at the topology, and tries every right that these duties need, without leaving anything behind.
///
/// Returns where it connected to.
///
/// # Errors
/// What is wrong first, and what to do about it.
pub async fn probe(config: &RabbitmqConfig, tenants: &BTreeSet<TenantId>, duties: &[Duty]) -> Result<String, Trouble> {
    let target = Target::new(config)
        .map_err(|error| Trouble::new(format!("{error:#}"), "correct queue.rabbitmq in the configuration"))?;
    let connection = target.connect("soloist check", 0).await?;
    let probing = async {
        if config.declare {
            topology::declare(&connection, tenants).await?;
        } else {
            topology::look(&connection, tenants).await?;
        }
        for duty in duties {
            try_rights(&connection, tenants, *duty).await?;
        }
        Ok(())
    };
    let probed = timeout(PROBE_TIMEOUT, probing).await.unwrap_or_else(|_late| Err(Trouble::timed_out("the check")));
    connection.close(200, "done".into()).await.ok();
    probed.map(|()| target.shown())
}

async fn try_rights(connection: &Connection, tenants: &BTreeSet<TenantId>, duty: Duty) -> Result<(), Trouble> {
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let writes: &[&str] = match duty {
        Duty::Webhook => &[topology::LOGINS],
        Duty::Worker => &[topology::WORK, topology::DECISIONS],
        Duty::Control => &[topology::WORK],
    };
    for exchange in writes {
        try_write(&channel, exchange).await?;
    }
    match duty {
        Duty::Webhook => {}
        Duty::Worker => {
            for tenant in tenants {
                for lane in Lane::ALL {
                    try_read(&channel, &topology::queue_name(tenant, lane)).await?;
                }
            }
        }
        Duty::Control => {
            for queue in [topology::DEAD, topology::LEDGER] {
                try_read(&channel, queue).await?;
            }
        }
    }
    topology::close(&channel).await;
    Ok(())
}

/// Publishes what no queue takes. `soloist.decisions` takes everything, so there only the right is asked for.
async fn try_write(channel: &Channel, exchange: &str) -> Result<(), Trouble> {
    if exchange == topology::DECISIONS {
        return Ok(());
    }
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let properties = BasicProperties::default();
    channel.basic_publish(exchange.into(), NOWHERE.into(), options, b"{}", properties).await?.await?;
    Ok(())
}

/// Consumes nothing: the right to read shows before the first message would come.
async fn try_read(channel: &Channel, queue: &str) -> Result<(), Trouble> {
    channel.basic_qos(1, BasicQosOptions::default()).await?;
    let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
    let consumer = channel.basic_consume(queue.into(), "".into(), options, arguments).await?;
    channel.basic_cancel(consumer.tag(), BasicCancelOptions::default()).await?;
    Ok(())
}
