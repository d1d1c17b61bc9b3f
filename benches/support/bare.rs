//! The least that publishing with confirms and consuming with acks takes: the baselines over a broker.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use futures_util::StreamExt as _;
use futures_util::future::try_join_all;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer};
use soloist::message;
use soloist::model::{Lane, LoginEvent, TenantId};
use soloist::queue::rabbitmq::topology;
use soloist::queue::{LaneStats, Published, Queue, QueueError, Subscription, Via};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Messages that one batch takes, as with ours.
const BATCH_MAX: usize = 256;
const PERSISTENT: u8 = 2;

pub(crate) async fn connect(url: &str) -> anyhow::Result<Connection> {
    Ok(Connection::connect(url, ConnectionProperties::default()).await?)
}

type Request = (Vec<u8>, oneshot::Sender<bool>);

/// Publishes bodies with confirms and nothing else: no ids, no headers, no time limit, nothing to fall back on.
pub(crate) struct BareQueue {
    requests: mpsc::UnboundedSender<Request>,
    _connection: Connection,
}

impl BareQueue {
    /// With as many tasks as channels, which run as long as the queue is there.
    pub(crate) async fn start(
        url: &str,
        channels: usize,
        tasks: &mut JoinSet<anyhow::Result<()>>,
    ) -> anyhow::Result<Self> {
        let connection = connect(url).await?;
        let (requests, waiting) = mpsc::unbounded_channel();
        let waiting = Arc::new(Mutex::new(waiting));
        for _ in 0..channels {
            let channel = connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            tasks.spawn(publish_batches(channel, Arc::clone(&waiting)));
        }
        Ok(Self { requests, _connection: connection })
    }
}

async fn publish_batches(
    channel: Channel,
    waiting: Arc<Mutex<mpsc::UnboundedReceiver<Request>>>,
) -> anyhow::Result<()> {
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let mut batch = Vec::new();
    while waiting.lock().await.recv_many(&mut batch, BATCH_MAX).await > 0 {
        let publish = async |body: &[u8]| {
            let properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
            let (exchange, key) = (topology::LOGINS.into(), TenantId::DEFAULT.into());
            channel.basic_publish(exchange, key, options, body, properties).await?.await
        };
        let confirms = try_join_all(batch.iter().map(|(body, _)| publish(body))).await?;
        let is_safe = confirms.iter().all(|confirm| *confirm == Confirmation::Ack(None));
        for (_, reply) in batch.drain(..) {
            reply.send(is_safe).ok();
        }
    }
    Ok(())
}

#[async_trait]
impl Queue for BareQueue {
    async fn publish(&self, events: &[LoginEvent]) -> Result<Published, QueueError> {
        let failed = || QueueError::Unavailable(anyhow::anyhow!("the broker did not confirm"));
        let mut replies = Vec::with_capacity(events.len());
        for event in events {
            let (reply, answer) = oneshot::channel();
            self.requests.send((message::write(event), reply)).map_err(|_returned| failed())?;
            replies.push(answer);
        }
        for answer in replies {
            if answer.await != Ok(true) {
                return Err(failed());
            }
        }
        Ok(Published { via: Via::Broker, duplicates: 0 })
    }

    async fn subscribe(&self, _: &TenantId, _: Lane, _: usize) -> Result<Arc<dyn Subscription>, QueueError> {
        Err(QueueError::StaleTag)
    }

    async fn check(&self) -> Result<(), QueueError> {
        Ok(())
    }

    async fn stats(&self) -> Result<Vec<LaneStats>, QueueError> {
        Ok(Vec::new())
    }
}

async fn consumer(connection: &Connection, queue: &str, prefetch: u16) -> anyhow::Result<(Channel, Consumer)> {
    let channel = connection.create_channel().await?;
    channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
    let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
    let consumer = channel.basic_consume(queue.into(), "".into(), options, arguments).await?;
    Ok((channel, consumer))
}

/// Receives and acks so many messages with so many settlers, each of which waits until its own is acked; returns the
/// seconds that it took.
pub(crate) async fn consume(
    connection: &Connection,
    queue: &str,
    prefetch: u16,
    settlers: usize,
    count: u64,
) -> anyhow::Result<f64> {
    let (channel, consumer) = consumer(connection, queue, prefetch).await?;
    let (consumer, taken) = (Arc::new(Mutex::new(consumer)), Arc::new(AtomicU64::new(0)));
    let (acks, to_ack) = mpsc::unbounded_channel();
    let from = Instant::now();
    let mut tasks = JoinSet::new();
    tasks.spawn(ack_what_gathers(channel.clone(), to_ack));
    for _ in 0..settlers {
        let (consumer, taken, acks) = (Arc::clone(&consumer), Arc::clone(&taken), acks.clone());
        tasks.spawn(async move {
            while taken.fetch_add(1, Ordering::Relaxed) < count {
                let received = consumer.lock().await.next().await;
                let received = received.ok_or_else(|| anyhow::anyhow!("the consumer ended"))??;
                let (reply, acked) = oneshot::channel();
                acks.send((received.delivery_tag, reply))?;
                acked.await?;
            }
            anyhow::Ok(())
        });
    }
    drop(acks);
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    let seconds = from.elapsed().as_secs_f64();
    channel.close(200, "done".into()).await?;
    Ok(seconds)
}

/// Acks with one frame as far as nothing older is out, one by one beyond.
async fn ack_what_gathers(
    channel: Channel,
    mut to_ack: mpsc::UnboundedReceiver<(u64, oneshot::Sender<()>)>,
) -> anyhow::Result<()> {
    let (mut gathered, mut done_below, mut done) = (Vec::new(), 1, BTreeSet::new());
    while to_ack.recv_many(&mut gathered, usize::MAX).await > 0 {
        let mut apart: BTreeSet<u64> = gathered.iter().map(|(tag, _)| *tag).collect();
        let mut last = None;
        loop {
            if apart.remove(&done_below) {
                last = Some(done_below);
            } else if !done.remove(&done_below) {
                break;
            }
            done_below += 1;
        }
        if let Some(last) = last {
            channel.basic_ack(last, BasicAckOptions { multiple: true }).await?;
        }
        for tag in &apart {
            channel.basic_ack(*tag, BasicAckOptions { multiple: false }).await?;
        }
        done.append(&mut apart);
        for (_, reply) in gathered.drain(..) {
            reply.send(()).ok();
        }
    }
    Ok(())
}

/// The same by one loop that takes what is there, up to so many, and acks it with one frame: nothing does less.
pub(crate) async fn consume_by_one_loop(
    connection: &Connection,
    queue: &str,
    prefetch: u16,
    at_once: usize,
    count: u64,
) -> anyhow::Result<f64> {
    let (channel, consumer) = consumer(connection, queue, prefetch).await?;
    let mut chunks = consumer.ready_chunks(at_once);
    let from = Instant::now();
    let mut left = count;
    while left > 0 {
        let chunk = chunks.next().await.ok_or_else(|| anyhow::anyhow!("the consumer ended"))?;
        left = left.saturating_sub(chunk.len() as u64);
        if let Some(last) = chunk.into_iter().next_back() {
            channel.basic_ack(last?.delivery_tag, BasicAckOptions { multiple: true }).await?;
        }
    }
    let seconds = from.elapsed().as_secs_f64();
    channel.close(200, "done".into()).await?;
    Ok(seconds)
}
