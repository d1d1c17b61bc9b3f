//! Empties the journal of a process that will not come back.

use std::path::Path;

use anyhow::Context as _;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::{Backend, Config};
use crate::queue::Queue as _;
use crate::queue::embedded::{EmbeddedConfig, EmbeddedQueue};
use crate::queue::rabbitmq::{RabbitQueue, RabbitmqParts, RabbitmqRoles};

/// What became of a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    pub forwarded: u64,
    /// Of tenants that are not configured, or not due yet.
    pub left: u64,
    /// Dead letters, which stay: `soloist dead-letters` with this folder as `data_dir` shows them.
    pub dead: u64,
}

/// Forwards what waits in the journal of `folder` to the configured broker; each event leaves it when it is confirmed.
///
/// # Errors
/// When a process holds the folder, the configuration has no broker, or the broker takes nothing.
pub async fn drain_spool(config: &Config, folder: &Path) -> anyhow::Result<Drained> {
    anyhow::ensure!(
        config.queue.backend == Backend::Rabbitmq,
        "there is no broker to forward to: set queue.backend = \"rabbitmq\" and queue.rabbitmq.url"
    );
    anyhow::ensure!(folder.join("queue.db").exists(), "there is no queue.db in {}", folder.display());
    let clock = Clock::start();
    let tenants = config.tenants.len();
    let journal = EmbeddedConfig { tenants, repair: false, ..EmbeddedConfig::in_dir(folder) };
    let (journal, thread) = EmbeddedQueue::open(&journal, clock)?;
    let before = journal.usage().await?.messages;
    let (queue, task) = RabbitQueue::new(RabbitmqParts {
        config: config.queue.rabbitmq.clone(),
        tenants: config.tenants.keys().cloned().collect(),
        roles: RabbitmqRoles { name: "spool drain".to_owned(), keeps_dead_letters: false },
        journal: journal.clone(),
        dedupe_ids_max: 1,
        dedupe_window: config.webhook.dedupe_window,
        clock,
    })?;
    let stop = CancellationToken::new();
    let mut running = JoinSet::new();
    running.spawn(task.run(stop.clone()));
    let forwarded = queue.forwarded().await;
    stop.cancel();
    while let Some(ended) = running.join_next().await {
        ended??;
    }
    let left = journal.usage().await?.messages;
    let dead = journal.stats().await?.iter().filter_map(|lane| lane.dead).sum();
    journal.stop();
    thread.ended().await?;
    forwarded.context("the broker does not take the events; they stay in the journal")?;
    Ok(Drained { forwarded: before.saturating_sub(left), left, dead })
}
