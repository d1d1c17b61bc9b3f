//! One tenant's lane, consumed: hand out, publish the successor with its confirm, then ack.
//!
//! A crash between the two makes a duplicate, never a loss. Every delivery carries the epoch of its channel: when that
//! breaks, the broker hands out anew what was not acked, and the old tags are stale.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{FutureExt as _, StreamExt as _};
use lapin::message::Delivery as Received;
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, Consumer};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::acking::Acking;
use super::link::Link;
use super::publisher::{Outgoing, Publisher};
use super::topology;
use super::trouble::Trouble;
use super::wire::{self, Carried, Dead, Writer};
use crate::clock::Clock;
use crate::message::{Remains, Unreadable};
use crate::model::{Lane, LoginEvent, Reason, TenantId};
use crate::queue::{Delivery, DeliveryTag, Next, QueueError, Settlement, Subscription, Why};
use crate::retry;

/// How long setting up a consumer may take.
const SET_UP_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a consumer that hears nothing looks whether something waits for it.
const SILENCE_LOOK: Duration = Duration::from_secs(15);
/// Looks in a row that find waiting messages and no delivery, until the connection is taken for dead.
const SILENT_LOOKS_MAX: u32 = 2;
/// Looks in a row after which a consumer that has nothing in hand and heard nothing is replaced: one that the broker
/// has forgotten (see [`topology::GONE_WAIT`]) looks just like one that has nothing to do.
const IDLE_LOOKS_MAX: u32 = 2;
/// How long giving back may take when a subscription is closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

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
struct Held {
    event: LoginEvent,
    attempt: u32,
}

/// What is out under the present channel.
#[derive(Default)]
struct Out {
    /// 0 while there is no channel.
    epoch: u64,
    held: BTreeMap<u64, Held>,
}

/// Why a consumer ended although nothing is wrong.
enum Ended {
    /// The subscription was closed, and what it held was given back.
    Closed,
    /// It heard nothing for long, and held nothing.
    Idle,
}

/// Tags to ack, and who waits for that.
type Acks = (Vec<u64>, oneshot::Sender<()>);

struct Lanework {
    context: Context,
    tenant: TenantId,
    lane: Lane,
    prefetch: u16,
    out: Mutex<Out>,
    closing: CancellationToken,
}

pub(super) struct RabbitSubscription {
    work: Arc<Lanework>,
    deliveries: tokio::sync::Mutex<mpsc::Receiver<Delivery>>,
    acks: mpsc::UnboundedSender<Acks>,
    /// The consuming task; it ends with the subscription.
    consuming: tokio::sync::Mutex<JoinSet<()>>,
}

impl RabbitSubscription {
    pub(super) fn start(context: Context, tenant: TenantId, lane: Lane, prefetch: usize) -> Self {
        let prefetch = u16::try_from(prefetch.max(1)).unwrap_or(u16::MAX);
        let (deliveries, receiver) = mpsc::channel(usize::from(prefetch));
        let (acks, to_ack) = mpsc::unbounded_channel();
        let (out, closing) = (Mutex::default(), CancellationToken::new());
        let work = Arc::new(Lanework { context, tenant, lane, prefetch, out, closing });
        let mut consuming = JoinSet::new();
        consuming.spawn(Arc::clone(&work).run(deliveries, to_ack));
        Self { work, deliveries: receiver.into(), acks, consuming: consuming.into() }
    }
}

fn unavailable(error: impl Into<anyhow::Error>) -> QueueError {
    QueueError::Unavailable(error.into())
}

#[async_trait]
impl Subscription for RabbitSubscription {
    async fn receive(&self) -> Result<Delivery, QueueError> {
        let mut deliveries = self.deliveries.lock().await;
        loop {
            let delivery = deliveries.recv().await;
            let delivery = delivery.ok_or_else(|| unavailable(anyhow::anyhow!("the subscription has ended")))?;
            let out = self.work.out();
            if out.epoch == delivery.tag.epoch && out.held.contains_key(&delivery.tag.number) {
                return Ok(delivery);
            }
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
        self.acks.send((tags, reply)).ok();
        acked.await.ok();
        Ok(())
    }

    async fn close(&self) -> Result<(), QueueError> {
        self.work.closing.cancel();
        let mut consuming = self.consuming.lock().await;
        // What is not given back in time comes again when the channel closes.
        timeout(CLOSE_TIMEOUT, consuming.join_next()).await.ok();
        consuming.shutdown().await;
        *self.work.out() = Out::default();
        Ok(())
    }
}

type Taken = Vec<(u64, Held, Settlement)>;

impl Lanework {
    fn out(&self) -> MutexGuard<'_, Out> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Consumes, over as many channels as it takes, until the subscription is closed.
    async fn run(self: Arc<Self>, deliveries: mpsc::Sender<Delivery>, mut acks: mpsc::UnboundedReceiver<Acks>) {
        let mut failures = 0_u32;
        while !self.closing.is_cancelled() {
            let connection = tokio::select! {
                () = self.closing.cancelled() => return,
                connection = self.context.link.up() => connection,
            };
            let begun = Instant::now();
            let result = self.consume(&connection, &deliveries, &mut acks).await;
            *self.out() = Out::default();
            while acks.try_recv().is_ok() {}
            let trouble = match result {
                Ok(Ended::Closed) => return,
                Ok(Ended::Idle) => continue,
                Err(trouble) => trouble,
            };
            failures = if begun.elapsed() > SILENCE_LOOK { 1 } else { failures.saturating_add(1) };
            if failures == 1 || trouble.needs_a_person {
                let (tenant, lane) = (&self.tenant, self.lane.as_str());
                tracing::warn!(%tenant, lane, "cannot consume, will try again: {trouble}. {}", trouble.remedy());
            }
            let wait = retry::reconnect_delay(failures);
            // With the connection as it was, it is the queue that is gone, and it is we who declare it.
            let wait = if connection.status().connected() { wait.max(topology::GONE_WAIT) } else { wait };
            tokio::select! {
                () = self.closing.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn consume(
        &self,
        connection: &Connection,
        deliveries: &mpsc::Sender<Delivery>,
        acks: &mut mpsc::UnboundedReceiver<Acks>,
    ) -> Result<Ended, Trouble> {
        let (channel, mut consumer) = match timeout(SET_UP_TIMEOUT, self.set_up(connection)).await {
            Ok(set_up) => set_up?,
            Err(_late) => return Err(Trouble::timed_out("setting up a consumer")),
        };
        let epoch = self.context.epochs.fetch_add(1, Ordering::Relaxed) + 1;
        *self.out() = Out { epoch, held: BTreeMap::new() };
        let mut channel = Acking { channel, unacked: BTreeSet::new() };
        let (mut silent_looks, mut idle_looks) = (0, 0);
        let mut look = tokio::time::interval(SILENCE_LOOK);
        let mut gathered = Vec::new();
        look.tick().await;
        loop {
            tokio::select! {
                () = self.closing.cancelled() => {
                    return self.give_back(channel, consumer).await.map(|()| Ended::Closed);
                }
                received = consumer.next() => {
                    (silent_looks, idle_looks) = (0, 0);
                    let ended = || Trouble::new("the broker ended the consumer: its queue was deleted, or moved", "nothing: it is set up again");
                    let received = received.ok_or_else(ended)??;
                    channel.unacked.insert(received.delivery_tag);
                    if let Some(done) = self.hand_out(epoch, &received, deliveries).await? {
                        channel.ack(&[done]).await?;
                    }
                }
                _many = acks.recv_many(&mut gathered, usize::from(u16::MAX)) => {
                    let tags: Vec<u64> = gathered.iter().flat_map(|(tags, _): &Acks| tags.iter().copied()).collect();
                    channel.ack(&tags).await?;
                    for (_, reply) in gathered.drain(..) {
                        // The one who settles may have gone away.
                        reply.send(()).ok();
                    }
                }
                _tick = look.tick() => {
                    silent_looks = if self.hears_nothing(&channel, connection).await? { silent_looks + 1 } else { 0 };
                    if silent_looks >= SILENT_LOOKS_MAX {
                        self.context.link.restart();
                        return Err(Trouble::new("messages wait, but none is delivered", "nothing: a new connection is made"));
                    }
                    idle_looks += 1;
                    if idle_looks >= IDLE_LOOKS_MAX && channel.unacked.is_empty() {
                        // Should something come at this moment, it is handed out anew.
                        topology::close(&channel.channel).await;
                        return Ok(Ended::Idle);
                    }
                }
            }
        }
    }

    async fn set_up(&self, connection: &Connection) -> Result<(Channel, Consumer), Trouble> {
        let channel = connection.create_channel().await?;
        let queue = topology::lane_queue(&self.tenant, self.lane);
        if self.context.declare {
            topology::declare_queue(&channel, &queue).await?;
        }
        channel.basic_qos(self.prefetch, BasicQosOptions::default()).await?;
        let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
        let consumer = channel.basic_consume(queue.name.as_str().into(), "".into(), options, arguments).await?;
        Ok((channel, consumer))
    }

    /// Whether there is room for a delivery and a message waits, but none comes.
    async fn hears_nothing(&self, acking: &Acking, connection: &Connection) -> Result<bool, Trouble> {
        if acking.unacked.len() >= usize::from(self.prefetch) {
            return Ok(false);
        }
        let look = async {
            // A channel of its own: a queue that is gone closes the channel that asks for it.
            let channel = connection.create_channel().await?;
            let waiting = topology::depth(&channel, &topology::queue_name(&self.tenant, self.lane)).await?;
            topology::close(&channel).await;
            Ok::<_, lapin::Error>(waiting > 0)
        };
        match timeout(SET_UP_TIMEOUT, look).await {
            Ok(waiting) => Ok(waiting?),
            Err(_late) => Ok(true),
        }
    }

    /// Hands a message out, or deals with one that is none for this lane: then its tag is to be acked.
    async fn hand_out(
        &self,
        epoch: u64,
        received: &Received,
        deliveries: &mpsc::Sender<Delivery>,
    ) -> Result<Option<u64>, Trouble> {
        let (number, attempt) = (received.delivery_tag, wire::attempt(&received.properties));
        let event = match wire::read(received, &self.tenant, self.context.clock.now()) {
            Ok(event) if event.tenant == self.tenant && wire::is_ours(received) => event,
            Ok(event) => return self.forward(&event, attempt).await.map(|()| Some(number)),
            Err(Unreadable::NotALogin) => return Ok(Some(number)),
            Err(problem) => {
                tracing::warn!(tenant = %self.tenant, "a message is given up: {problem}");
                let message = Err(Remains::of(&received.data, &problem));
                let (tenant, lane, why) = (&self.tenant, self.lane, Why::from(&problem));
                let dead = self.context.writer.dead(&Dead { tenant, lane, why, attempt, message });
                return self.publish(dead).await.map(|()| Some(number));
            }
        };
        let redelivered = wire::was_handed_out(received);
        self.out().held.insert(number, Held { event: event.clone(), attempt });
        let delivery = Delivery { tag: DeliveryTag { epoch, number }, event, attempt, redelivered };
        // There is room: no more than the prefetch is ever out. Nobody listens once the subscription is gone.
        deliveries.send(delivery).await.ok();
        Ok(None)
    }

    /// Puts a message into its own tenant's lane, in our form: a foreign body may hold more than we want to keep.
    async fn forward(&self, event: &LoginEvent, attempt: u32) -> Result<(), Trouble> {
        let writer = &self.context.writer;
        if self.context.tenants.contains(&event.tenant) {
            return self.publish(writer.later(event, Carried { attempt, given_back: false }, 0)).await;
        }
        tracing::warn!(tenant = %event.tenant, "a message is given up: its tenant is not configured");
        let (tenant, lane, why) = (&event.tenant, self.lane, Why::UnknownTenant);
        self.publish(writer.dead(&Dead { tenant, lane, why, attempt, message: Ok(event) })).await
    }

    async fn publish(&self, message: Outgoing) -> Result<(), Trouble> {
        let failed = |error| Trouble::new(format!("{:#}", anyhow::Error::new(error)), "nothing: it is tried again");
        self.context.publisher.publish(vec![message]).await.map_err(failed)
    }

    /// Puts everything that is out back into the lane, unspent, instead of letting the broker count it as delivered.
    async fn give_back(&self, mut channel: Acking, mut consumer: Consumer) -> Result<(), Trouble> {
        let cancelled = channel.channel.basic_cancel(consumer.tag(), BasicCancelOptions::default());
        timeout(CLOSE_TIMEOUT, cancelled).await.ok();
        let mut back: Vec<(u64, Held)> = std::mem::take(&mut self.out().held).into_iter().collect();
        while let Some(Some(Ok(received))) = consumer.next().now_or_never() {
            let (number, attempt) = (received.delivery_tag, wire::attempt(&received.properties));
            channel.unacked.insert(number);
            if let Ok(event) = wire::read(&received, &self.tenant, self.context.clock.now()) {
                back.push((number, Held { event, attempt }));
            }
        }
        let again = |(_, held): &(u64, Held)| {
            let carried = Carried { attempt: held.attempt, given_back: true };
            self.context.writer.later(&held.event, carried, 0)
        };
        if self.context.publisher.publish(back.iter().map(again).collect()).await.is_ok() {
            let tags: Vec<u64> = back.iter().map(|(number, _)| *number).collect();
            channel.ack(&tags).await?;
        }
        topology::close(&channel.channel).await;
        Ok(())
    }
}
