//! Takes a shared queue into a store of our own: in batches, acked when the store has them on its disk.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::{FutureExt as _, StreamExt as _};
use lapin::message::Delivery as Received;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use tokio_util::sync::CancellationToken;

use super::consumer::{IDLE_LOOKS_MAX, SILENCE_LOOK, SILENT_LOOKS_MAX, has_waiting};
use super::link::Link;
use super::topology;
use super::trouble::Trouble;
use crate::retry;

/// Messages that one batch takes.
const BATCH_MAX: u16 = 256;
/// How long setting up a consumer may take.
const SET_UP_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the messages go.
#[async_trait]
pub(super) trait Store: Send + Sync {
    /// Returns when all of them are durable. Taking one twice must be harmless.
    async fn take(&self, received: &[Received]) -> anyhow::Result<()>;
}

/// Consumes until `stop`, over as many channels as it takes.
pub(super) async fn run(
    link: Link,
    queue: &'static str,
    store: &dyn Store,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut failures = 0_u32;
    while !stop.is_cancelled() {
        let consumed = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            consumed = consume(&link, queue, store, &mut failures) => consumed,
        };
        if let Err(trouble) = consumed {
            failures = failures.saturating_add(1);
            if failures == 1 {
                tracing::warn!(queue, "cannot take messages in, will try again: {trouble}. {}", trouble.remedy());
            }
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(retry::reconnect_delay(failures)) => {}
        }
    }
    Ok(())
}

/// `Ok` when nothing came for long: then another consumer must show that the broker has not forgotten this one (see
/// [`topology::GONE_WAIT`]).
async fn consume(link: &Link, queue: &str, store: &dyn Store, failures: &mut u32) -> Result<(), Trouble> {
    let connection = link.up().await;
    let set_up = async {
        let channel = connection.create_channel().await?;
        channel.basic_qos(BATCH_MAX, BasicQosOptions::default()).await?;
        let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
        let consumer = channel.basic_consume(queue.into(), "".into(), options, arguments).await?;
        Ok::<_, lapin::Error>((channel, consumer))
    };
    let late = |_late| Trouble::timed_out("setting up a consumer");
    let (channel, mut consumer) = tokio::time::timeout(SET_UP_TIMEOUT, set_up).await.map_err(late)??;
    let (mut silent_looks, mut idle_looks) = (0, 0);
    loop {
        let ended = || Trouble::new("the broker ended the consumer: its queue was deleted, or moved", "nothing");
        let Ok(first) = tokio::time::timeout(SILENCE_LOOK, consumer.next()).await else {
            silent_looks = if has_waiting(&connection, queue).await? { silent_looks + 1 } else { 0 };
            if silent_looks >= SILENT_LOOKS_MAX {
                link.restart();
                return Err(Trouble::new("messages wait, but none is delivered", "nothing: a new connection is made"));
            }
            idle_looks += 1;
            if idle_looks >= IDLE_LOOKS_MAX {
                topology::close(&channel).await;
                return Ok(());
            }
            continue;
        };
        (silent_looks, idle_looks) = (0, 0);
        let mut batch = vec![first.ok_or_else(ended)??];
        while batch.len() < usize::from(BATCH_MAX)
            && let Some(Some(next)) = consumer.next().now_or_never()
        {
            batch.push(next?);
        }
        let Some(last) = batch.last().map(|received| received.delivery_tag) else { continue };
        if let Err(error) = store.take(&batch).await {
            topology::close(&channel).await;
            return Err(Trouble::new(format!("they cannot be stored ({error:#})"), "see the disk of data_dir"));
        }
        *failures = 0;
        channel.basic_ack(last, BasicAckOptions { multiple: true }).await?;
    }
}
