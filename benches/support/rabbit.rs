//! Our queue over a broker, with its journal and its task, as a process of the service has it.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use secrecy::SecretString;
use soloist::clock::Clock;
use soloist::config::RabbitmqConfig;
use soloist::ledger::Courier;
use soloist::model::TenantId;
use soloist::queue::embedded::{EmbeddedConfig, EmbeddedQueue, QueueThread};
use soloist::queue::rabbitmq::{RabbitQueue, RabbitmqParts, RabbitmqRoles};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// Channels that publish, of ours and of the baseline.
pub(crate) const CHANNELS: usize = 4;
const SPOOL_BYTES_MAX: u64 = 1 << 30;
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(2);

pub(crate) struct Rabbit {
    pub(crate) queue: RabbitQueue,
    journal: EmbeddedQueue,
    thread: QueueThread,
    running: JoinSet<anyhow::Result<()>>,
    stop: CancellationToken,
}

impl Rabbit {
    /// Begins to connect; that the broker is away is no error.
    pub(crate) fn open(folder: &Path, url: &str, clock: Clock) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let embedded = EmbeddedConfig { bytes_max: Some(SPOOL_BYTES_MAX), ..EmbeddedConfig::in_dir(folder) };
        let (dedupe_ids_max, dedupe_window) = (embedded.dedupe_ids_max, embedded.dedupe_window);
        let (journal, thread) = EmbeddedQueue::open(&embedded, clock)?;
        let config = RabbitmqConfig {
            urls: vec![SecretString::from(url.to_owned())],
            password: None,
            ca_file: None,
            cert_file: None,
            key_file: None,
            declare: true,
            confirm_timeout: CONFIRM_TIMEOUT,
            publish_channels: CHANNELS,
            spool_bytes_max: SPOOL_BYTES_MAX,
        };
        let (queue, task) = RabbitQueue::new(RabbitmqParts {
            config,
            tenants: BTreeSet::from([TenantId::default_tenant()]),
            roles: RabbitmqRoles { name: "bench".to_owned(), keeps_dead_letters: false },
            journal: journal.clone(),
            dedupe_ids_max,
            dedupe_window,
            clock,
        })?;
        let stop = CancellationToken::new();
        let mut running = JoinSet::new();
        running.spawn(task.run(stop.clone()));
        Ok(Self { queue, journal, thread, running, stop })
    }

    /// Waits until the broker can be used.
    pub(crate) async fn until_up(&self) -> anyhow::Result<()> {
        self.queue.forwarded().await.context("the broker cannot be used")
    }

    /// Waits until the journal, which holds messages, is empty; returns how many a second left it, from the first on.
    pub(crate) async fn drain_rate(&self) -> anyhow::Result<f64> {
        let waiting = async || anyhow::Ok(self.journal.usage().await?.messages);
        let before = waiting().await?;
        while waiting().await? == before {
            sleep(Duration::from_millis(1)).await;
        }
        let from = Instant::now();
        while waiting().await? > 0 {
            sleep(Duration::from_millis(10)).await;
        }
        #[expect(clippy::cast_precision_loss, reason = "thousands of events")]
        let events = before as f64;
        Ok(events / from.elapsed().as_secs_f64())
    }

    pub(crate) async fn close(mut self) -> anyhow::Result<()> {
        self.stop.cancel();
        while let Some(ended) = self.running.join_next().await {
            ended??;
        }
        drop(self.queue);
        self.journal.stop();
        self.thread.ended().await
    }
}

/// Takes the records of a worker to the ledger's queue, as a process without a ledger does.
pub(crate) struct ToLedgerQueue(pub(crate) RabbitQueue);

#[async_trait]
impl Courier for ToLedgerQueue {
    async fn deliver(&self, tenant: &TenantId, record: Vec<u8>) -> anyhow::Result<()> {
        self.0.deliver_record(tenant, record).await
    }
}
