//! Forwards what the journal holds, oldest first, while new events go straight to the broker.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::RabbitQueue;
use super::publisher::{BATCH_MAX, PublishError};
use super::wire::Carried;
use crate::model::{Lane, Reason, TenantId};
use crate::queue::{Delivery, Next, Queue as _, Settlement, Subscription, Why};
use crate::retry;

/// How often it is looked whether the broker takes events again although the journal holds none.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long an event waits that its queue did not take.
const PUT_OFF: Duration = Duration::from_secs(10);
/// How long the journal may hold as much as before until forwarding counts as stuck.
const NO_PROGRESS_MAX: Duration = Duration::from_secs(30);
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

    /// Tries until the broker has confirmed each event, or its queue refused it: then it is put off, so that it holds
    /// up no other. Each row leaves the journal only when it is confirmed.
    async fn forward(&self, batch: &[Delivery], subscription: &Arc<dyn Subscription>) -> anyhow::Result<()> {
        let mut settlements = Vec::with_capacity(batch.len());
        match self.publish(batch).await {
            Ok(()) => {
                self.queue.end_spooling();
                settlements.extend(batch.iter().map(|delivery| (delivery.tag, Settlement::Ack)));
            }
            Err(_of_one) => {
                for delivery in batch {
                    let settlement = match self.publish(std::slice::from_ref(delivery)).await {
                        Ok(()) => Settlement::Ack,
                        Err(error) => self.put_off(&error),
                    };
                    settlements.push((delivery.tag, settlement));
                }
            }
        }
        // A full disk ends; until then they would only be forwarded twice.
        let mut failures = 0_u32;
        while let Err(error) = subscription.settle(&settlements).await {
            failures = failures.saturating_add(1);
            tracing::debug!(failures, "cannot take forwarded events out of the journal: {error}");
            tokio::time::sleep(retry::probe_delay(failures)).await;
        }
        let redriven = batch.iter().filter(|delivery| delivery.event.reason == Reason::Redrive).count();
        let pause = Duration::from_secs(1) * u32::try_from(redriven).unwrap_or(u32::MAX) / REDRIVES_PER_SECOND;
        tokio::time::sleep(pause).await;
        Ok(())
    }

    /// Publishes as often as it takes while the broker as a whole is in trouble.
    ///
    /// # Errors
    /// What is wrong with one message's queue.
    async fn publish(&self, batch: &[Delivery]) -> Result<(), PublishError> {
        let writer = &self.queue.context.writer;
        let carried = |delivery: &Delivery| Carried { attempt: delivery.attempt, given_back: false };
        let mut failures = 0_u32;
        loop {
            self.queue.publishing.until_usable().await;
            let messages = batch.iter().map(|delivery| writer.now(&delivery.event, carried(delivery))).collect();
            match self.queue.context.publisher.publish(messages).await {
                Ok(()) => return Ok(()),
                Err(error) if error.is_about_one_queue() => return Err(error),
                Err(error) => {
                    failures = failures.saturating_add(1);
                    tracing::debug!(tenant = %self.tenant, failures, "cannot forward from the journal: {error}");
                    tokio::time::sleep(retry::reconnect_delay(failures)).await;
                }
            }
        }
    }

    fn put_off(&self, error: &PublishError) -> Settlement {
        self.queue.note_refused(error);
        Settlement::Again { after: PUT_OFF, next: Next::Defer, why: Why::Unavailable }
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
        self.to_forward().await == Some(0)
    }

    /// Events of our tenants in the journal, those aside that were put off; `None` while that cannot be known.
    async fn to_forward(&self) -> Option<u64> {
        let stats = self.journal.stats().await.ok()?;
        let ours = stats.iter().filter(|lane| self.context.tenants.contains(&lane.tenant));
        Some(ours.map(|lane| lane.ready + lane.unsettled.unwrap_or(0)).sum())
    }

    /// Waits until everything in the journal is forwarded, the broker takes nothing, or nothing moves any more.
    pub(super) async fn forwarded_or_stuck(&self) {
        let mut look = tokio::time::interval(Duration::from_millis(50));
        let (mut left, mut since) = (None, Instant::now());
        while self.publishing.usable().is_some() && !self.journal_is_empty().await {
            let now_left = self.to_forward().await;
            if now_left != left {
                (left, since) = (now_left, Instant::now());
            }
            if since.elapsed() > NO_PROGRESS_MAX {
                return;
            }
            look.tick().await;
        }
    }
}
