//! The consuming side of a subscription: one channel after the other, until the subscription is closed.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt as _};
use lapin::message::Delivery as Received;
use lapin::options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, Consumer};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::publisher::Outgoing;
use super::subscription::{Acks, CLOSE_TIMEOUT, Context, Held, Lanework};
use super::topology;
use super::trouble::Trouble;
use super::wire::{self, Carried, Dead};
use crate::message::{Remains, Unreadable};
use crate::model::LoginEvent;
use crate::queue::Why;
use crate::retry;

/// How long setting up a consumer may take.
const SET_UP_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a consumer that hears nothing looks whether something waits for it.
pub(super) const SILENCE_LOOK: Duration = Duration::from_secs(15);
/// Looks in a row that find waiting messages and no delivery, until the connection is taken for dead.
pub(super) const SILENT_LOOKS_MAX: u32 = 2;

/// Looks in a row after which a consumer that has nothing in hand and heard nothing is replaced: one that the broker has
/// forgotten (see [`topology::GONE_WAIT`]) looks just like one that has nothing to do.
pub(super) const IDLE_LOOKS_MAX: u32 = 2;

/// Why a consumer ended although nothing is wrong.
enum Ended {
    /// The subscription was closed, and what it held was given back.
    Closed,
    /// It heard nothing for long, and held nothing.
    Idle,
}

/// Consumes, over as many channels as it takes, until the subscription is closed.
pub(super) async fn run(work: &Lanework, mut acks: mpsc::UnboundedReceiver<Acks>) {
    let mut failures = 0_u32;
    while !work.closing.is_cancelled() {
        let connection = tokio::select! {
            () = work.closing.cancelled() => return,
            () = answer_all(&mut acks) => return,
            connection = work.context.link.up() => connection,
        };
        let begun = Instant::now();
        let result = consume(work, &connection, &mut acks).await;
        work.begin(0);
        let trouble = match result {
            Ok(Ended::Closed) => return,
            Ok(Ended::Idle) => continue,
            Err(trouble) => trouble,
        };
        failures = if begun.elapsed() > SILENCE_LOOK { 1 } else { failures.saturating_add(1) };
        // The first says that the queue is gone, the second that it stays so.
        if failures == 1 || (failures == 2 && trouble.needs_a_person) {
            let (tenant, lane) = (&work.tenant, work.lane.as_str());
            tracing::warn!(%tenant, lane, "cannot consume, will try again: {trouble}. {}", trouble.remedy());
        }
        let wait = retry::reconnect_delay(failures);
        // With the connection as it was, it is the queue that is gone, and it is we who declare it.
        let wait = if connection.status().connected() { wait.max(topology::GONE_WAIT) } else { wait };
        tokio::select! {
            () = work.closing.cancelled() => return,
            () = answer_all(&mut acks) => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Without a channel there is nothing to ack: those who settled what is handed out anew need not wait for one.
async fn answer_all(acks: &mut mpsc::UnboundedReceiver<Acks>) {
    while let Some(acks) = acks.recv().await {
        acks.reply.send(()).ok();
    }
}

/// A message that was put where it belongs, or for which that cannot be done now.
enum Forwarded {
    Done(u64),
    /// In our own lane it can be handed out as well as it is.
    AsItIs {
        number: u64,
        event: LoginEvent,
        attempt: u32,
        redelivered: bool,
    },
}

async fn consume(
    work: &Lanework,
    connection: &Connection,
    acks: &mut mpsc::UnboundedReceiver<Acks>,
) -> Result<Ended, Trouble> {
    let (channel, mut consumer) = match timeout(SET_UP_TIMEOUT, set_up(work, connection)).await {
        Ok(set_up) => set_up?,
        Err(_late) => return Err(Trouble::timed_out("setting up a consumer")),
    };
    let epoch = work.context.epochs.fetch_add(1, Ordering::Relaxed) + 1;
    work.begin(epoch);
    let mut channel = Acking { channel, unacked: BTreeSet::new() };
    let mut forwards: JoinSet<Forwarded> = JoinSet::new();
    let (mut silent_looks, mut idle_looks) = (0, 0);
    let mut look = tokio::time::interval(SILENCE_LOOK);
    let mut gathered = Vec::new();
    look.tick().await;
    loop {
        tokio::select! {
            () = work.closing.cancelled() => {
                return give_back(work, channel, consumer).await.map(|()| Ended::Closed);
            }
            received = consumer.next() => {
                (silent_looks, idle_looks) = (0, 0);
                let gone = "the broker ended the consumer: its queue was deleted, or moved";
                let received = received.ok_or_else(|| Trouble::new(gone, "nothing: it is set up again"))??;
                channel.unacked.insert(received.delivery_tag);
                if let Some(done) = take_in(work, &received, &mut forwards) {
                    channel.ack(&[done]).await?;
                }
            }
            Some(forwarded) = forwards.join_next() => match forwarded {
                Ok(Forwarded::Done(number)) => channel.ack(&[number]).await?,
                Ok(Forwarded::AsItIs { number, event, attempt, redelivered }) => {
                    work.hand_out(number, event, attempt, redelivered);
                }
                Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
            },
            _many = acks.recv_many(&mut gathered, usize::from(u16::MAX)) => {
                // Tags begin at 1 on every channel: those of another would name other messages here.
                let ours = gathered.iter().filter(|acks| acks.epoch == epoch);
                let tags: Vec<u64> = ours.flat_map(|acks| acks.tags.iter().copied()).collect();
                let acked = channel.ack(&tags).await;
                for acks in gathered.drain(..) {
                    // The one who settles may have gone away.
                    acks.reply.send(()).ok();
                }
                acked?;
            }
            _tick = look.tick() => {
                idle_looks = if channel.unacked.is_empty() { idle_looks + 1 } else { 0 };
                if idle_looks >= IDLE_LOOKS_MAX {
                    topology::close(&channel.channel).await;
                    return Ok(Ended::Idle);
                }
                silent_looks = if hears_nothing(work, &channel, connection).await? { silent_looks + 1 } else { 0 };
                if silent_looks >= SILENT_LOOKS_MAX {
                    work.context.link.restart();
                    return Err(Trouble::new("messages wait, but none is delivered", "nothing: a new connection is made"));
                }
            }
        }
    }
}

async fn set_up(work: &Lanework, connection: &Connection) -> Result<(Channel, Consumer), Trouble> {
    let channel = connection.create_channel().await?;
    let queue = topology::lane_queue(&work.tenant, work.lane);
    if work.context.declare {
        topology::declare_queue(&channel, &queue).await?;
    }
    channel.basic_qos(work.prefetch, BasicQosOptions::default()).await?;
    let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
    let consumer = channel.basic_consume(queue.name.as_str().into(), "".into(), options, arguments).await?;
    Ok((channel, consumer))
}

/// Whether there is room for a delivery and a message waits, but none comes.
async fn hears_nothing(work: &Lanework, acking: &Acking, connection: &Connection) -> Result<bool, Trouble> {
    if acking.unacked.len() >= usize::from(work.prefetch) {
        return Ok(false);
    }
    has_waiting(connection, &topology::queue_name(&work.tenant, work.lane)).await
}

/// Whether a queue has messages that are ready; a broker that does not say so counts as one that has.
pub(super) async fn has_waiting(connection: &Connection, queue: &str) -> Result<bool, Trouble> {
    let look = async {
        // A channel of its own: a queue that is gone closes the channel that asks for it.
        let channel = connection.create_channel().await?;
        let waiting = topology::depth(&channel, queue).await?;
        topology::close(&channel).await;
        Ok::<_, lapin::Error>(waiting > 0)
    };
    match timeout(SET_UP_TIMEOUT, look).await {
        Ok(waiting) => Ok(waiting?),
        Err(_late) => Ok(true),
    }
}

/// Hands a message out, or has it put where it belongs; `Some` is a tag with nothing more to do than to ack it.
fn take_in(work: &Lanework, received: &Received, forwards: &mut JoinSet<Forwarded>) -> Option<u64> {
    let (number, attempt) = (received.delivery_tag, wire::attempt(&received.properties));
    let redelivered = wire::was_handed_out(received);
    let writer = &work.context.writer;
    match wire::read(received, &work.tenant, work.context.clock.now()) {
        Ok(event) if event.tenant == work.tenant && event.reason.lane() == work.lane => {
            if wire::is_ours(received) {
                work.hand_out(number, event, attempt, redelivered);
            } else {
                // In our form: a foreign body may hold more than anybody should keep.
                let message = writer.later(&event, Carried { attempt, given_back: false }, 0);
                let as_it_is = Forwarded::AsItIs { number, event, attempt, redelivered };
                forwards.spawn(replace(work.context.clone(), message, number, as_it_is));
            }
        }
        Ok(event) if work.context.tenants.contains(&event.tenant) => {
            let message = writer.later(&event, Carried { attempt, given_back: false }, 0);
            forwards.spawn(forward(work.context.clone(), message, number));
        }
        Ok(event) => {
            tracing::warn!(tenant = %event.tenant, "a message is given up: its tenant is not configured");
            let (tenant, lane, why) = (&event.tenant, work.lane, Why::UnknownTenant);
            let message = writer.dead(&Dead { tenant, lane, why, attempt, message: Ok(&event) });
            forwards.spawn(forward(work.context.clone(), message, number));
        }
        Err(Unreadable::NotALogin) => return Some(number),
        Err(problem) => {
            tracing::warn!(tenant = %work.tenant, "a message is given up: {problem}");
            let message = Err(Remains::of(&received.data, &problem));
            let (tenant, lane, why) = (&work.tenant, work.lane, Why::from(&problem));
            let message = writer.dead(&Dead { tenant, lane, why, attempt, message });
            forwards.spawn(forward(work.context.clone(), message, number));
        }
    }
    None
}

/// Publishes a message in place of the one with this tag, once; where that fails the message itself must do.
async fn replace(context: Context, message: Outgoing, number: u64, as_it_is: Forwarded) -> Forwarded {
    match context.publisher.publish(vec![message]).await {
        Ok(()) => Forwarded::Done(number),
        Err(error) => {
            tracing::debug!("a foreign message stays in its form: {error}");
            as_it_is
        }
    }
}

/// Publishes a message in place of the one with this tag, as often as it takes; it is held meanwhile.
async fn forward(context: Context, message: Outgoing, number: u64) -> Forwarded {
    let mut failures = 0_u32;
    while let Err(error) = context.publisher.publish(vec![message.clone()]).await {
        failures = failures.saturating_add(1);
        tracing::debug!(failures, "a message cannot be put where it belongs, will try again: {error}");
        tokio::time::sleep(retry::reconnect_delay(failures)).await;
    }
    Forwarded::Done(number)
}

/// Puts everything that is out back into the lane, unspent, instead of letting the broker count it as delivered.
async fn give_back(work: &Lanework, mut channel: Acking, mut consumer: Consumer) -> Result<(), Trouble> {
    let cancelled = channel.channel.basic_cancel(consumer.tag(), BasicCancelOptions::default());
    timeout(CLOSE_TIMEOUT, cancelled).await.ok();
    let mut back: Vec<(u64, Held)> = std::mem::take(&mut work.out().held).into_iter().collect();
    while let Some(Some(Ok(received))) = consumer.next().now_or_never() {
        let (number, attempt) = (received.delivery_tag, wire::attempt(&received.properties));
        channel.unacked.insert(number);
        if let Ok(event) = wire::read(&received, &work.tenant, work.context.clock.now()) {
            back.push((number, Held { event, attempt }));
        }
    }
    let again = |(_, held): &(u64, Held)| {
        let carried = Carried { attempt: held.attempt, given_back: true };
        work.context.writer.later(&held.event, carried, 0)
    };
    if work.context.publisher.publish(back.iter().map(again).collect()).await.is_ok() {
        let tags: Vec<u64> = back.iter().map(|(number, _)| *number).collect();
        channel.ack(&tags).await?;
    }
    topology::close(&channel.channel).await;
    Ok(())
}

/// A channel with what it has delivered and not been told the end of.
struct Acking {
    channel: Channel,
    unacked: BTreeSet<u64>,
}

impl Acking {
    /// Acks these tags: with one frame as far as nothing older is out, one by one beyond.
    async fn ack(&mut self, tags: &[u64]) -> Result<(), Trouble> {
        let mut tags: Vec<u64> = tags.iter().copied().filter(|tag| self.unacked.remove(tag)).collect();
        tags.sort_unstable();
        let oldest_out = self.unacked.first().copied().unwrap_or(u64::MAX);
        let together = tags.iter().take_while(|tag| **tag < oldest_out).count();
        let (together, apart) = tags.split_at(together);
        if let Some(last) = together.last() {
            self.channel.basic_ack(*last, BasicAckOptions { multiple: true }).await?;
        }
        for tag in apart {
            self.channel.basic_ack(*tag, BasicAckOptions { multiple: false }).await?;
        }
        Ok(())
    }
}
