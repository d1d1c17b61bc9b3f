//! One tenant's lane: hand out, publish the successor with its confirm, then ack.
//!
//! A crash between the two makes a duplicate, never a loss. Every delivery carries the epoch of its channel: when that
//! breaks, the broker hands out anew what was not acked, and the old tags are stale.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::consumer;
use super::link::Link;
use super::publisher::{Outgoing, Publisher};
use super::wire::{Carried, Dead, Writer};
use crate::clock::Clock;
use crate::model::{Lane, LoginEvent, Reason, TenantId};
use crate::queue::{Delivery, DeliveryTag, Next, QueueError, Settlement, Subscription};

/// How long giving back may take when a subscription is closed.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// What every subscription of a process shares.
#[derive(Clone)]
pub(super) struct Context {
    pub(super) link: Link,
    pub(super) publisher: Publisher,
    pub(super) writer: Writer,
    pub(super) tenants: Arc<BTreeSet<TenantId>>,
    /// Whether a queue that is not there is declared.
    pub(super) declare: bool,
    pub(super) epochs: Arc<AtomicU64>,
    pub(super) clock: Clock,
}

/// A delivery that is not settled yet.
pub(super) struct Held {
    pub(super) event: LoginEvent,
    pub(super) attempt: u32,
}

/// What is out under the present channel; the prefetch bounds it.
#[derive(Default)]
pub(super) struct Out {
    /// 0 while there is no channel.
    pub(super) epoch: u64,
    pub(super) held: BTreeMap<u64, Held>,
    /// Held, and not received by the worker yet.
    pub(super) ready: VecDeque<Delivery>,
    /// The consuming task is gone.
    ended: bool,
}

/// Tags to ack, all of one channel, and who waits for that.
pub(super) struct Acks {
    pub(super) epoch: u64,
    pub(super) tags: Vec<u64>,
    pub(super) reply: oneshot::Sender<()>,
}

/// What a subscription and its consuming task share.
pub(super) struct Lanework {
    pub(super) context: Context,
    pub(super) tenant: TenantId,
    pub(super) lane: Lane,
    pub(super) prefetch: u16,
    pub(super) closing: CancellationToken,
    out: Mutex<Out>,
    arrived: Notify,
}

pub(super) struct RabbitSubscription {
    work: Arc<Lanework>,
    /// Each settlement of a held delivery sends once, so that the prefetch bounds it.
    acks: mpsc::UnboundedSender<Acks>,
    /// The consuming task; it ends with the subscription.
    consuming: tokio::sync::Mutex<JoinSet<()>>,
}

impl RabbitSubscription {
    pub(super) fn start(context: Context, tenant: TenantId, lane: Lane, prefetch: usize) -> Self {
        let prefetch = u16::try_from(prefetch.max(1)).unwrap_or(u16::MAX);
        let (acks, to_ack) = mpsc::unbounded_channel();
        let work = Arc::new(Lanework {
            context,
            tenant,
            lane,
            prefetch,
            closing: CancellationToken::new(),
            out: Mutex::default(),
            arrived: Notify::new(),
        });
        let mut consuming = JoinSet::new();
        let consumed = Arc::clone(&work);
        consuming.spawn(async move {
            let _end = End(Arc::clone(&consumed));
            consumer::run(&consumed, to_ack).await;
        });
        Self { work, acks, consuming: consuming.into() }
    }
}

/// Tells the subscription that its task is gone, also when it panics.
struct End(Arc<Lanework>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.out().ended = true;
        self.0.arrived.notify_one();
    }
}

fn unavailable(error: impl Into<anyhow::Error>) -> QueueError {
    QueueError::Unavailable(error.into())
}

#[async_trait]
impl Subscription for RabbitSubscription {
    async fn receive(&self) -> Result<Delivery, QueueError> {
        loop {
            {
                let mut out = self.work.out();
                if let Some(delivery) = out.ready.pop_front() {
                    return Ok(delivery);
                }
                if out.ended {
                    return Err(unavailable(anyhow::anyhow!("the subscription has ended")));
                }
            }
            // What arrives between the look and the wait leaves a permit, so that it is not missed.
            self.work.arrived.notified().await;
        }
    }

    async fn settle(&self, settlements: &[(DeliveryTag, Settlement)]) -> Result<(), QueueError> {
        let (epoch, taken) = self.work.take(settlements)?;
        let successors = taken.iter().filter_map(|(_, held, settlement)| self.work.successor(held, *settlement));
        if let Err(error) = self.work.context.publisher.publish(successors.collect()).await {
            self.work.put_back(epoch, taken);
            return Err(unavailable(error));
        }
        let tags = taken.into_iter().map(|(number, ..)| number).collect();
        let (reply, acked) = oneshot::channel();
        // A channel that broke meanwhile hands out once more, which is harmless.
        self.acks.send(Acks { epoch, tags, reply }).ok();
        acked.await.ok();
        Ok(())
    }

    async fn close(&self) -> Result<(), QueueError> {
        self.work.closing.cancel();
        let mut consuming = self.consuming.lock().await;
        // What is not given back in time comes again when the channel closes.
        timeout(CLOSE_TIMEOUT, consuming.join_next()).await.ok();
        consuming.shutdown().await;
        self.work.begin(0);
        Ok(())
    }
}

type Taken = Vec<(u64, Held, Settlement)>;

impl Lanework {
    pub(super) fn out(&self) -> MutexGuard<'_, Out> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on only this channel's deliveries are out; 0 for no channel.
    pub(super) fn begin(&self, epoch: u64) {
        let mut out = self.out();
        *out = Out { epoch, ended: out.ended, ..Out::default() };
    }

    /// Hands a delivery of the present channel to the worker.
    pub(super) fn hand_out(&self, number: u64, event: LoginEvent, attempt: u32, redelivered: bool) {
        {
            let mut out = self.out();
            let tag = DeliveryTag { epoch: out.epoch, number };
            out.held.insert(number, Held { event: event.clone(), attempt });
            out.ready.push_back(Delivery { tag, event, attempt, redelivered });
        }
        self.arrived.notify_one();
    }

    /// Takes all of these deliveries, or none.
    fn take(&self, settlements: &[(DeliveryTag, Settlement)]) -> Result<(u64, Taken), QueueError> {
        let mut out = self.out();
        let mut distinct = HashSet::new();
        let epoch = out.epoch;
        let known = |tag: &DeliveryTag| tag.epoch == epoch && epoch > 0 && out.held.contains_key(&tag.number);
        if !settlements.iter().all(|(tag, _)| known(tag) && distinct.insert(tag.number)) {
            return Err(QueueError::StaleTag);
        }
        let take = |(tag, settlement): &(DeliveryTag, Settlement)| {
            out.held.remove(&tag.number).map(|held| (tag.number, held, *settlement))
        };
        Ok((epoch, settlements.iter().filter_map(take).collect()))
    }

    fn put_back(&self, epoch: u64, taken: Taken) {
        let mut out = self.out();
        if out.epoch == epoch {
            out.held.extend(taken.into_iter().map(|(number, held, _)| (number, held)));
        }
    }

    /// The message that takes the place of a settled one, if any.
    fn successor(&self, held: &Held, settlement: Settlement) -> Option<Outgoing> {
        let writer = &self.context.writer;
        let (after, next) = match settlement {
            Settlement::Ack => return None,
            Settlement::DeadLetter { why } => {
                let (tenant, lane, attempt) = (&self.tenant, self.lane, held.attempt);
                return Some(writer.dead(&Dead { tenant, lane, why, attempt, message: Ok(&held.event) }));
            }
            Settlement::Again { after, next, why: _ } => (after, next),
        };
        let mut event = held.event.clone();
        let attempt = match next {
            Next::Retry => held.attempt.saturating_add(1),
            Next::Defer => held.attempt,
            Next::Recheck { rung } => {
                event.reason = Reason::Recheck { rung };
                1
            }
        };
        let after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        Some(writer.later(&event, Carried { attempt, given_back: true }, after_ms))
    }
}
