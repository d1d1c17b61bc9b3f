//! Forwards what the journal holds, oldest first, while new events go straight to the broker.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::RabbitQueue;
use super::publisher::{BATCH_MAX, PublishError};
use super::topology;
use super::wire::Carried;
use crate::model::{Lane, Reason, TenantId};
use crate::queue::{Delivery, Queue as _, Settlement, Subscription};
use crate::retry;

/// How often it is looked whether the broker takes events again although the journal holds none.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long declaring a queue may take.
const DECLARE_TIMEOUT: Duration = Duration::from_secs(5);
/// Dead letters that are put back go out no faster than this, so that logins are not held up behind them.
const REDRIVES_PER_SECOND: u32 = 100;

/// Forwards one tenant's lane.
pub(super) struct Drain {
    pub(super) queue: RabbitQueue,
    pub(super) tenant: TenantId,
    pub(super) lane: Lane,
}

impl Drain {
    pub(super) async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let journal = &self.queue.journal;
        let subscription = journal.subscribe(&self.tenant, self.lane, BATCH_MAX).await?;
        loop {
            let first = tokio::select! {
                () = stop.cancelled() => break,
                first = subscription.receive() => first?,
            };
            let batch = gather(first, &*subscription)?;
            tokio::select! {
                () = stop.cancelled() => break,
                forwarded = self.forward(&batch, &subscription) => forwarded?,
            }
        }
        Ok(subscription.close().await?)
    }

    /// Tries until the broker has confirmed all of it; each row leaves the journal only then.
    async fn forward(&self, batch: &[Delivery], subscription: &Arc<dyn Subscription>) -> anyhow::Result<()> {
        let (mut failures, mut was_unroutable) = (0_u32, false);
        loop {
            self.queue.publishing.until_usable().await;
            let writer = &self.queue.context.writer;
            let carried = |delivery: &Delivery| Carried { attempt: delivery.attempt, given_back: false };
            let messages = batch.iter().map(|delivery| writer.now(&delivery.event, carried(delivery))).collect();
            match self.queue.context.publisher.publish(messages).await {
                Ok(()) => break,
                Err(error) => {
                    failures = failures.saturating_add(1);
                    tracing::debug!(tenant = %self.tenant, failures, "cannot forward from the journal: {error}");
                    let mut wait = retry::reconnect_delay(failures);
                    let is_unroutable = matches!(error, PublishError::Unroutable);
                    if is_unroutable && was_unroutable {
                        self.declare_again().await;
                    } else if is_unroutable {
                        wait = wait.max(topology::GONE_WAIT);
                    }
                    was_unroutable = is_unroutable;
                    tokio::time::sleep(wait).await;
                }
            }
        }
        self.queue.end_spooling();
        let acks: Vec<_> = batch.iter().map(|delivery| (delivery.tag, Settlement::Ack)).collect();
        // A full disk ends; until then they would only be forwarded twice.
        let mut failures = 0_u32;
        while let Err(error) = subscription.settle(&acks).await {
            failures = failures.saturating_add(1);
            tracing::debug!(failures, "cannot take forwarded events out of the journal: {error}");
            tokio::time::sleep(retry::probe_delay(failures)).await;
        }
        let redriven = batch.iter().filter(|delivery| delivery.event.reason == Reason::Redrive).count();
        let pause = Duration::from_secs(1) * u32::try_from(redriven).unwrap_or(u32::MAX) / REDRIVES_PER_SECOND;
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

impl Drain {
    /// The lane's queue was deleted, and no worker is there to declare it.
    async fn declare_again(&self) {
        let context = &self.queue.context;
        let Some(connection) = self.queue.publishing.usable().filter(|_| context.declare) else { return };
        let declared = timeout(DECLARE_TIMEOUT, topology::declare_lane(&connection, &self.tenant, self.lane)).await;
        match declared {
            Ok(Ok(())) => {
                tracing::warn!(tenant = %self.tenant, "a queue was gone from the broker and is declared again");
            }
            Ok(Err(trouble)) => tracing::debug!("{trouble}"),
            Err(_late) => {}
        }
    }
}

/// The first delivery and those that are there already.
fn gather(first: Delivery, subscription: &dyn Subscription) -> anyhow::Result<Vec<Delivery>> {
    let mut batch = vec![first];
    while batch.len() < BATCH_MAX
        && let Some(next) = subscription.receive().now_or_never()
    {
        batch.push(next?);
    }
    Ok(batch)
}

/// Ends spooling when the broker takes messages and there is nothing to forward that would show it.
pub(super) async fn watch(queue: RabbitQueue, stop: CancellationToken) -> anyhow::Result<()> {
    let mut look = tokio::time::interval(LOOK_INTERVAL);
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _tick = look.tick() => {}
        }
        if queue.is_spooling() && queue.publishing.usable().is_some() && queue.journal_is_empty().await {
            queue.end_spooling();
        }
    }
}

impl RabbitQueue {
    async fn journal_is_empty(&self) -> bool {
        let stats = self.journal.stats().await.unwrap_or_default();
        let waiting = |tenant: &TenantId| self.context.tenants.contains(tenant);
        stats.iter().filter(|lane| waiting(&lane.tenant)).all(|lane| lane.ready + lane.unsettled.unwrap_or(0) == 0)
    }

    /// Waits until everything in the journal is forwarded, or the broker takes nothing.
    pub(super) async fn forwarded_or_down(&self) {
        let mut look = tokio::time::interval(Duration::from_millis(50));
        while self.publishing.usable().is_some() && !self.journal_is_empty().await {
            look.tick().await;
        }
    }
}
