//! What a process runs for its broker: connections, publishing, forwarding, taking in.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lapin::message::Delivery as Received;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::fleet::{Announcements, Exchange, Side};
use super::link::Link;
use super::publisher::PublisherTask;
use super::spool::{self, Drain};
use super::subscription::Context;
use super::{RabbitQueue, RabbitmqRoles, Records, fleet, intake, topology, wire};
use crate::model::{Lane, TenantId};

/// How long declaring everything again may take.
const DECLARE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long after it nothing is declared again: for tenants that are not ours nothing ever is.
const MEND_PAUSE: Duration = Duration::from_secs(5);
/// How long the journal may go on being forwarded when the service stops.
const LAST_DRAIN_TIMEOUT: Duration = Duration::from_secs(20);

/// The working half: connections, publishing, forwarding, taking in.
pub struct RabbitTask {
    pub(super) queue: RabbitQueue,
    pub(super) publisher: PublisherTask,
    pub(super) roles: RabbitmqRoles,
    pub(super) records: Option<Arc<dyn Records>>,
    pub(super) announcements: Vec<(Exchange, Side, Arc<dyn Announcements>)>,
}

impl RabbitTask {
    /// Takes over what workers write for the ledger.
    pub fn take_records(&mut self, records: Arc<dyn Records>) {
        self.records = Some(records);
    }

    /// Sends and hears heartbeats of the fleet.
    pub fn join_fleet(&mut self, heartbeats: Arc<dyn Announcements>) {
        self.announcements.push((Exchange::Fleet, Side::Both, heartbeats));
    }

    /// Tells the workers what to obey.
    pub fn tell_directives(&mut self, directives: Arc<dyn Announcements>) {
        self.announcements.push((Exchange::Directives, Side::Tells, directives));
    }

    /// Hears what to obey.
    pub fn hear_directives(&mut self, directives: Arc<dyn Announcements>) {
        self.announcements.push((Exchange::Directives, Side::Hears, directives));
    }

    /// Works until `stop`; then forwards what the journal holds while the broker takes it, and closes the connections.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let late = CancellationToken::new();
        let mut parts: JoinSet<anyhow::Result<()>> = JoinSet::new();
        let Self { queue, publisher, roles, records, announcements } = self;
        parts.spawn(queue.publishing.clone().run(late.clone()));
        parts.spawn(queue.context.link.clone().run(late.clone()));
        parts.spawn(publisher.run(late.clone()));
        for tenant in queue.context.tenants.iter() {
            for lane in Lane::ALL {
                let drain = Drain { queue: queue.clone(), tenant: tenant.clone(), lane };
                parts.spawn(drain.run(late.clone()));
            }
        }
        parts.spawn(spool::watch(queue.clone(), late.clone()));
        parts.spawn(mend(queue.clone(), late.clone()));
        if roles.keeps_dead_letters {
            let store = DeadStore { queue: queue.clone() };
            parts.spawn(take_in(queue.context.link.clone(), topology::DEAD, store, stop.clone()));
        }
        if let Some(records) = records {
            parts.spawn(take_in(queue.context.link.clone(), topology::LEDGER, RecordStore { records }, stop.clone()));
        }
        for (exchange, side, announcements) in announcements {
            let links = (queue.publishing.clone(), queue.context.link.clone());
            parts.spawn(fleet::run(links, (exchange, side), announcements, stop.clone()));
        }
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(ended) = parts.join_next() => {
                    // Parts end by themselves only after `stop`, which they may see before we do.
                    ended??;
                    anyhow::ensure!(stop.is_cancelled(), "a part of the broker's side ended by itself");
                }
            }
        }
        timeout(LAST_DRAIN_TIMEOUT, queue.forwarded_or_stuck()).await.ok();
        late.cancel();
        while let Some(ended) = parts.join_next().await {
            ended??;
        }
        Ok(())
    }
}

/// Declares again what somebody deleted, when a message finds no queue.
async fn mend(queue: RabbitQueue, stop: CancellationToken) -> anyhow::Result<()> {
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = queue.context.publisher.until_unroutable() => tokio::time::sleep(topology::GONE_WAIT).await,
        }
        if let Some(connection) = queue.publishing.usable().filter(|_| queue.context.declare) {
            let declared = timeout(DECLARE_TIMEOUT, topology::declare(&connection, &queue.context.tenants)).await;
            match declared {
                Ok(Ok(())) => tracing::warn!("a queue was gone from the broker; everything is declared again"),
                Ok(Err(trouble)) => tracing::warn!("cannot declare again what is gone: {trouble}"),
                Err(_late) => tracing::warn!("cannot declare again what is gone: it took too long"),
            }
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(MEND_PAUSE) => {}
        }
    }
}

async fn take_in(
    link: Link,
    queue: &'static str,
    store: impl intake::Store,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    intake::run(link, queue, &store, stop).await
}

/// Keeps given-up messages in the journal's table of dead letters.
struct DeadStore {
    queue: RabbitQueue,
}

#[async_trait]
impl intake::Store for DeadStore {
    async fn take(&self, received: &[Received]) -> anyhow::Result<()> {
        let Context { clock, tenants, .. } = &self.queue.context;
        let (now, ours) = (clock.now(), tenants.first().cloned().unwrap_or_else(TenantId::default_tenant));
        let mut dead: Vec<_> = received.iter().map(|received| wire::read_dead(received, now)).collect();
        // Whoever publishes may name any tenant; lanes and metrics are for those that are configured.
        for dead in dead.iter_mut().filter(|dead| !tenants.contains(&dead.tenant)) {
            dead.tenant = ours.clone();
        }
        Ok(self.queue.journal.bury(&dead).await?)
    }
}

struct RecordStore {
    records: Arc<dyn Records>,
}

#[async_trait]
impl intake::Store for RecordStore {
    async fn take(&self, received: &[Received]) -> anyhow::Result<()> {
        self.records.take(received.iter().map(|received| received.data.clone()).collect()).await
    }
}
