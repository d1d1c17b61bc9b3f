//! The RabbitMQ backend: its place in the contract suite, and what only a broker can do.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use secrecy::SecretString;
use soloist::clock::Clock;
use soloist::config::RabbitmqConfig;
use soloist::model::{Lane, LoginEvent, TenantId};
use soloist::queue::embedded::{EmbeddedConfig, EmbeddedQueue, QueueThread};
use soloist::queue::rabbitmq::{RabbitQueue, RabbitmqParts, RabbitmqRoles};
use soloist::queue::{DeadLetters, Delivery, Next, Queue, QueueError, Settlement, Subscription, Via, Why};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::queue_contract::Backend;
use crate::support::broker::{Broker, Vhost, own_broker, rabbitmq_or_skip, shared_broker, shared_rabbitmq_or_skip};
use crate::support::{PATIENCE, amqp, login, soon, tenant};

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
    run_with(config(url), folder)
}

fn run_with(config: RabbitmqConfig, folder: &TempDir) -> Running {
    let (journal, thread) = EmbeddedQueue::open(&EmbeddedConfig::in_dir(folder.path()), Clock::start()).unwrap();
    let tenants = [TenantId::default_tenant(), tenant("stuck"), tenant("busy")];
    let (queue, task) = RabbitQueue::new(RabbitmqParts {
        config,
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

async fn receive(subscription: &dyn Subscription) -> Delivery {
    soon("a delivery", subscription.receive()).await.unwrap()
}

fn logins(user: &str, count: usize) -> Vec<LoginEvent> {
    (0..count).map(|n| login(user, &format!("{user}-{n}"))).collect()
}

#[tokio::test]
async fn retries_on_the_ladder_survive_a_killed_broker() {
    if !rabbitmq_or_skip("retries_on_the_ladder_survive_a_killed_broker") {
        return;
    }
    let (broker, folder) = (Broker::start().await, tempfile::tempdir().unwrap());
    let running = run(&broker.url(), &folder);
    soon("the broker", running.queue.forwarded()).await.unwrap();
    let events = logins("ann", 20);
    running.queue.publish(&events).await.unwrap();
    let subscription = running.queue.subscribe(&events[0].tenant, Lane::Logins, 32).await.unwrap();
    for n in 0..events.len() {
        let delivery = receive(&*subscription).await;
        let after = Duration::from_secs(if n % 2 == 0 { 1 } else { 5 });
        let again = Settlement::Again { after, next: Next::Retry, why: Why::Unavailable };
        subscription.settle(&[(delivery.tag, again)]).await.unwrap();
    }

    broker.kill().await;
    broker.restart().await;

    let mut ids = BTreeSet::new();
    while ids.len() < events.len() {
        let delivery = receive(&*subscription).await;
        assert_eq!(delivery.attempt, 2);
        ids.insert(delivery.event.id.to_string());
        subscription.settle(&[(delivery.tag, Settlement::Ack)]).await.unwrap();
    }
    running.crash().await;
}

#[tokio::test]
async fn a_lost_connection_makes_its_tags_stale_and_hands_out_anew() {
    if !rabbitmq_or_skip("a_lost_connection_makes_its_tags_stale_and_hands_out_anew") {
        return;
    }
    let (broker, folder) = (Broker::start().await, tempfile::tempdir().unwrap());
    let running = run(&broker.url(), &folder);
    soon("the broker", running.queue.forwarded()).await.unwrap();
    let event = login("ann", "h1");
    running.queue.publish(std::slice::from_ref(&event)).await.unwrap();
    let subscription = running.queue.subscribe(&event.tenant, Lane::Logins, 8).await.unwrap();
    let before = receive(&*subscription).await;

    broker.close_all_connections().await;

    let after = receive(&*subscription).await;
    assert_eq!((after.event, after.attempt, after.redelivered), (event, 1, true));
    let stale = subscription.settle(&[(before.tag, Settlement::Ack)]).await;
    assert!(matches!(stale, Err(QueueError::StaleTag)), "{stale:?}");
    subscription.settle(&[(after.tag, Settlement::Ack)]).await.unwrap();
    running.crash().await;
}

/// A retry is settled when the broker has confirmed the next attempt. Here that takes longer than a new connection, on
/// which another message has the old one's tag by then.
#[tokio::test]
async fn an_ack_that_arrives_after_a_reconnect_settles_no_other_message() {
    let test = "an_ack_that_arrives_after_a_reconnect_settles_no_other_message";
    let Some(broker) = own_broker(test).await else { return };
    let (vhost, folder) = (broker.fresh_vhost().await, tempfile::tempdir().unwrap());
    let running = run_with(RabbitmqConfig { confirm_timeout: PATIENCE, ..config(&vhost.url) }, &folder);
    soon("the broker", running.queue.forwarded()).await.unwrap();
    let event = login("ann", "h1");
    running.queue.publish(std::slice::from_ref(&event)).await.unwrap();
    let subscription = running.queue.subscribe(&event.tenant, Lane::Logins, 8).await.unwrap();
    let before = receive(&*subscription).await;

    broker.confirm(&vhost.name, "soloist.delay.10m", false).await;
    let again = Settlement::Again { after: Duration::from_mins(10), next: Next::Retry, why: Why::Unavailable };
    let settlements = [(before.tag, again)];
    let settled = soon("the retry to be confirmed", subscription.settle(&settlements));
    let reconnected = async {
        broker.close_connections_named(&vhost.name, "consuming").await;
        let after = receive(&*subscription).await;
        broker.confirm(&vhost.name, "soloist.delay.10m", true).await;
        after
    };
    let (settled, after) = tokio::join!(settled, reconnected);

    settled.unwrap();
    assert_eq!((after.event, after.redelivered, after.tag.number), (event, true, before.tag.number));
    assert_eq!(broker.queue_depth(&vhost.name, "soloist.enforce.default").await, Some(1), "it is not settled yet");
    subscription.settle(&[(after.tag, Settlement::Ack)]).await.unwrap();
    soon("the ack", async {
        let mut pause = tokio::time::interval(Duration::from_millis(20));
        while broker.queue_depth(&vhost.name, "soloist.enforce.default").await != Some(0) {
            pause.tick().await;
        }
    })
    .await;
    running.crash().await;
}

/// The client may tell the wrong message of a batch that it was returned, so all returns are matched by id.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unroutable_messages_in_a_flood_are_kept_and_no_others() {
    if !shared_rabbitmq_or_skip("unroutable_messages_in_a_flood_are_kept_and_no_others") {
        return;
    }
    let rabbit = Rabbit::start().await;
    let Running { queue, journal, .. } = rabbit.running.as_ref().unwrap();
    let mut publishing = JoinSet::new();
    for (n, event) in logins("ann", 1_600).into_iter().enumerate() {
        let nobodys = LoginEvent { tenant: tenant("nobodys"), ..event.clone() };
        let (event, queue) = (if n % 16 == 0 { nobodys } else { event }, queue.clone());
        publishing.spawn(async move { (n % 16 == 0, queue.publish(&[event]).await.unwrap().via) });
    }
    let published = soon("the flood", publishing.join_all()).await;
    for (is_nobodys, via) in published {
        assert!(!is_nobodys || via == Via::Journal, "an unroutable message was taken for published");
    }
    let kept = journal.stats().await.unwrap().into_iter().find(|lane| lane.tenant.as_str() == "nobodys");
    assert_eq!(kept.map(|lane| lane.ready), Some(100));
}

/// Of such a queue the broker may tell its consumers nothing: it hands messages to them, and sends them nowhere.
#[tokio::test]
async fn a_queue_that_is_deleted_and_declared_again_at_once_is_consumed_again() {
    if !Rabbit::is_there("a_queue_that_is_deleted_and_declared_again_at_once_is_consumed_again") {
        return;
    }
    let rabbit = Rabbit::start().await;
    let subscription = rabbit.queue().subscribe(&TenantId::default_tenant(), Lane::Logins, 8).await.unwrap();
    rabbit.queue().publish(&[login("ann", "before")]).await.unwrap();
    let before = soon("the first delivery", subscription.receive()).await.unwrap();
    subscription.settle(&[(before.tag, Settlement::Ack)]).await.unwrap();

    amqp::replace_queue(&rabbit.vhost.url, "soloist.enforce.default").await;
    rabbit.queue().publish(&[login("ann", "after")]).await.unwrap();

    let after = tokio::time::timeout(Duration::from_mins(1), subscription.receive()).await;
    assert_eq!(after.expect("a delivery").unwrap().event.id.as_str(), "after");
}
