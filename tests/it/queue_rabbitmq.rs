//! The RabbitMQ backend: its place in the contract suite, and what only a broker can do.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use secrecy::SecretString;
use soloist::clock::Clock;
use soloist::config::RabbitmqConfig;
use soloist::model::TenantId;
use soloist::queue::embedded::{EmbeddedConfig, EmbeddedQueue, QueueThread};
use soloist::queue::rabbitmq::{RabbitQueue, RabbitmqParts, RabbitmqRoles};
use soloist::queue::{DeadLetters, Queue};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::queue_contract::Backend;
use crate::support::broker::{Vhost, shared_broker, shared_rabbitmq_or_skip};
use crate::support::{amqp, soon, tenant};

/// One process with all that the broker's side needs, on a virtual host of its own.
pub(crate) struct Rabbit {
    vhost: Vhost,
    folder: TempDir,
    running: Option<Running>,
}

struct Running {
    queue: RabbitQueue,
    journal: EmbeddedQueue,
    thread: QueueThread,
    task: JoinSet<anyhow::Result<()>>,
}

pub(crate) fn config(url: &str) -> RabbitmqConfig {
    RabbitmqConfig {
        urls: vec![SecretString::from(url.to_owned())],
        password: None,
        ca_file: None,
        cert_file: None,
        key_file: None,
        declare: true,
        confirm_timeout: Duration::from_secs(2),
        publish_channels: 2,
        spool_bytes_max: 1 << 30,
    }
}

fn run(url: &str, folder: &TempDir) -> Running {
    let (journal, thread) = EmbeddedQueue::open(&EmbeddedConfig::in_dir(folder.path()), Clock::start()).unwrap();
    let tenants = [TenantId::default_tenant(), tenant("stuck"), tenant("busy")];
    let (queue, task) = RabbitQueue::new(RabbitmqParts {
        config: config(url),
        tenants: BTreeSet::from(tenants),
        roles: RabbitmqRoles { name: "test".to_owned(), keeps_dead_letters: true },
        journal: journal.clone(),
        dedupe_ids_max: 1_000,
        dedupe_window: Duration::from_hours(1),
        clock: Clock::start(),
    })
    .unwrap();
    let mut running = JoinSet::new();
    running.spawn(task.run(CancellationToken::new()));
    Running { queue, journal, thread, task: running }
}

impl Running {
    /// Ends without a word to the broker: its connections just break off.
    async fn crash(mut self) {
        self.task.shutdown().await;
        drop(self.queue);
        self.journal.stop();
        soon("the journal to close", self.thread.ended()).await.unwrap();
    }
}

#[async_trait]
impl Backend for Rabbit {
    fn is_there(test: &str) -> bool {
        shared_rabbitmq_or_skip(test)
    }

    async fn start() -> Self {
        let vhost = shared_broker().await.fresh_vhost().await;
        if vhost.is_shared() {
            amqp::remove_everything(&vhost.url, &[TenantId::default_tenant(), tenant("stuck"), tenant("busy")]).await;
        }
        let folder = tempfile::tempdir().unwrap();
        let running = run(&vhost.url, &folder);
        soon("the broker", running.queue.forwarded()).await.unwrap();
        Self { vhost, folder, running: Some(running) }
    }

    fn queue(&self) -> &dyn Queue {
        &self.running.as_ref().unwrap().queue
    }

    fn dead_letters(&self) -> &dyn DeadLetters {
        &self.running.as_ref().unwrap().journal
    }

    async fn crash(&mut self) {
        self.running.take().unwrap().crash().await;
        self.running = Some(run(&self.vhost.url, &self.folder));
    }

    async fn publish_rubbish(&mut self, tenant: &TenantId) {
        amqp::publish(&self.vhost.url, "soloist.logins", tenant.as_str(), "application/json", b"not json").await;
    }
}
