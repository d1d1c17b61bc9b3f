//! The queue of many machines: RabbitMQ quorum queues, with the embedded journal as the spool in front.
//!
//! An event is accepted when the broker has confirmed it, or the journal has it on its disk. What the journal took is
//! forwarded as soon as the broker takes it.

mod consumer;
mod fleet;
mod intake;
mod link;
mod probe;
mod publisher;
mod spool;
mod subscription;
mod target;
mod task;
pub mod topology;
mod trouble;
mod wire;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use self::link::{Link, State};
use self::publisher::{PublishError, Publisher};
use self::subscription::{Context, RabbitSubscription};
use self::target::Target;
use self::wire::{FRESH, Writer};
use super::dedupe::{self, Dedupe};
use super::embedded::EmbeddedQueue;
use super::{BrokerCounts, BrokerHealth, LaneStats, Published, Queue, QueueError, Subscription, Via};
use crate::clock::Clock;
use crate::config::RabbitmqConfig;
use crate::model::{Lane, LoginEvent, Reason, TenantId};

pub use self::fleet::Announcements;
pub use self::probe::{Duty, probe};
pub use self::task::RabbitTask;
pub use self::trouble::Trouble as BrokerTrouble;

/// How long a count of the broker's messages holds, so that many probes cost one.
const COUNT_HOLDS: Duration = Duration::from_secs(1);
/// How long counting the broker's messages may take; less than those who ask have.
const COUNT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the first contact with the broker may take.
const FIRST_CONTACT_TIMEOUT: Duration = Duration::from_secs(15);

/// What a process does with the broker besides publishing.
#[derive(Clone, Debug, Default)]
pub struct RabbitmqRoles {
    /// `webhook`, `worker` and `control`, for the connection's name.
    pub name: String,
    /// It keeps the dead letters of all.
    pub keeps_dead_letters: bool,
}

/// Takes the records that workers write for the ledger.
#[async_trait]
pub trait Records: Send + Sync {
    /// Returns when all that can be read are durable. Taking one twice must be harmless.
    async fn take(&self, records: Vec<Vec<u8>>) -> anyhow::Result<()>;
}

/// The handle; clones share the connections, which [`RabbitTask::run`] keeps up.
#[derive(Clone)]
pub struct RabbitQueue {
    context: Context,
    publishing: Link,
    journal: EmbeddedQueue,
    /// True while events go to the journal first: the broker did not confirm, and has not done so since.
    spooling: watch::Sender<bool>,
    /// True from the first event that its queue did not take until the next that one took.
    refusing: Arc<AtomicBool>,
    dedupe: Arc<Mutex<Dedupe>>,
    counted: Arc<Mutex<Option<(Instant, Counts)>>>,
}

/// What a rabbit queue is opened with.
pub struct RabbitmqParts {
    pub config: RabbitmqConfig,
    pub tenants: BTreeSet<TenantId>,
    pub roles: RabbitmqRoles,
    pub journal: EmbeddedQueue,
    pub dedupe_ids_max: usize,
    pub dedupe_window: Duration,
    pub clock: Clock,
}

impl RabbitQueue {
    /// Connects to nothing yet: that is the task's, and a broker that is away is no error.
    ///
    /// # Errors
    /// When the configuration names a URL that is none, or a file that cannot be read.
    pub fn new(parts: RabbitmqParts) -> anyhow::Result<(Self, RabbitTask)> {
        let RabbitmqParts { config, tenants, roles, journal, dedupe_ids_max, dedupe_window, clock } = parts;
        let target = Target::new(&config)?;
        let name = |what: &str| format!("soloist {} {what}", roles.name);
        let tenants = Arc::new(tenants);
        let link = |what: &str| Link::new(target.clone(), name(what), Arc::clone(&tenants), config.declare);
        let publishing = link("publishing");
        let (publisher, publisher_task) =
            Publisher::new(publishing.clone(), config.publish_channels, config.confirm_timeout);
        let context = Context {
            link: link("consuming"),
            publisher,
            writer: Writer { user: target.user().to_owned(), clock },
            tenants: Arc::clone(&tenants),
            declare: config.declare,
            epochs: Arc::default(),
            clock,
        };
        let window_minutes = i64::try_from(dedupe_window.as_secs() / 60).unwrap_or(i64::MAX / 2);
        let dedupe = Arc::new(Mutex::new(Dedupe::new(dedupe_ids_max, window_minutes)));
        let queue = Self {
            context,
            publishing,
            journal,
            spooling: watch::Sender::new(false),
            refusing: Arc::default(),
            dedupe,
            counted: Arc::default(),
        };
        let task = RabbitTask {
            queue: queue.clone(),
            publisher: publisher_task,
            roles,
            records: None,
            announcements: Vec::new(),
        };
        Ok((queue, task))
    }

    /// Hands a record to the ledger of `control`; returns when the broker has confirmed it. Waits for a broker that is
    /// away: the caller sets the limit.
    pub async fn deliver_record(&self, tenant: &TenantId, record: Vec<u8>) -> anyhow::Result<()> {
        self.publishing.until_usable().await;
        Ok(self.context.publisher.publish(vec![self.context.writer.record(tenant, record)]).await?)
    }

    /// Waits until the broker can be used and has all that the journal holds, each step for a limited time.
    ///
    /// # Errors
    /// What is wrong with the broker.
    pub async fn forwarded(&self) -> anyhow::Result<()> {
        if timeout(FIRST_CONTACT_TIMEOUT, self.publishing.until_usable()).await.is_err() {
            return Err(match self.publishing.state() {
                State::Down(trouble) => anyhow::anyhow!("{trouble}. {}", trouble.remedy()),
                State::Up(_) => anyhow::anyhow!("it has an alarm and takes no messages"),
            });
        }
        self.forwarded_or_stuck().await;
        anyhow::ensure!(self.publishing.usable().is_some(), "the connection was lost");
        Ok(())
    }

    /// What of these events is not known yet.
    fn without_duplicates<'a>(&self, events: &'a [LoginEvent]) -> Fresh<'a> {
        let key = |event: &LoginEvent| (event.reason == Reason::Login).then(|| dedupe::key(event));
        let mut keys: Vec<Option<u64>> = events.iter().map(key).collect();
        let mut seen_here = BTreeSet::new();
        let is_new: Vec<bool> = {
            let dedupe = self.dedupe.lock().unwrap_or_else(PoisonError::into_inner);
            let is_new = |key: &Option<u64>| key.is_none_or(|key| !dedupe.contains(key) && seen_here.insert(key));
            keys.iter().map(is_new).collect()
        };
        if is_new.iter().all(|is_new| *is_new) {
            return Fresh { events: events.into(), keys };
        }
        let fresh = events.iter().zip(&is_new).filter(|(_, is_new)| **is_new);
        let events: Vec<LoginEvent> = fresh.map(|(event, _)| event.clone()).collect();
        let mut is_new = is_new.into_iter();
        keys.retain(|_| is_new.next().unwrap_or(false));
        Fresh { events: events.into(), keys }
    }

    fn remember(&self, fresh: &Fresh<'_>) {
        let minute = self.context.clock.now_ms() / 60_000;
        let mut dedupe = self.dedupe.lock().unwrap_or_else(PoisonError::into_inner);
        dedupe.insert(0, minute, fresh.keys.iter().copied().flatten());
        dedupe.expire(minute);
    }

    /// Sends events to the journal until the broker has confirmed one again. Said once.
    fn begin_spooling(&self, error: &PublishError) {
        if self.spooling.send_if_modified(|spooling| !std::mem::replace(spooling, true)) {
            let error = anyhow::Error::new(error.clone());
            tracing::error!(alarm = "spooling", "events go to the journal and are forwarded later: {error:#}");
        }
    }

    /// Says once that queues do not take their messages; they wait in the journal. Where the whole broker is away, its
    /// connection says so.
    fn note_refused(&self, error: &PublishError) {
        if error.is_about_one_queue() && !self.refusing.swap(true, Ordering::Relaxed) {
            let error = anyhow::Error::new(error.clone());
            tracing::error!(alarm = "refused", "events stay in the journal, their queue does not take them: {error:#}");
        }
    }

    fn end_spooling(&self) {
        self.refusing.store(false, Ordering::Relaxed);
        if self.spooling.send_if_modified(|spooling| std::mem::replace(spooling, false)) {
            tracing::info!("events go straight to the broker again");
        }
    }

    fn is_spooling(&self) -> bool {
        *self.spooling.borrow()
    }

    /// Publishes to the broker, or says why it did not.
    async fn to_broker(&self, events: &[LoginEvent]) -> Result<(), PublishError> {
        let writer = &self.context.writer;
        let messages = events.iter().map(|event| writer.now(event, FRESH)).collect();
        self.context.publisher.publish(messages).await
    }

    /// Ready messages of each lane, and of the queues that all tenants share.
    async fn count(&self) -> Option<Counts> {
        let lock = || self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, counts)) = &*lock()
            && at.elapsed() < COUNT_HOLDS
        {
            return Some(counts.clone());
        }
        let connection = self.publishing.usable()?;
        let counting = async {
            let channel = connection.create_channel().await?;
            let mut counts = Counts::default();
            for tenant in self.context.tenants.iter() {
                for lane in Lane::ALL {
                    let ready = topology::depth(&channel, &topology::queue_name(tenant, lane)).await?;
                    counts.lanes.push((tenant.clone(), lane, ready));
                }
            }
            for (delay, _) in topology::RUNGS {
                counts.delayed += topology::depth(&channel, delay).await?;
            }
            counts.dead = topology::depth(&channel, topology::DEAD).await?;
            topology::close(&channel).await;
            Ok::<_, lapin::Error>(counts)
        };
        let counts = timeout(COUNT_TIMEOUT, counting).await.ok()?.ok()?;
        *lock() = Some((Instant::now(), counts.clone()));
        Some(counts)
    }
}

/// Events that are to be published, each with the key by which it will be known.
struct Fresh<'a> {
    events: Cow<'a, [LoginEvent]>,
    keys: Vec<Option<u64>>,
}

#[derive(Clone, Default)]
struct Counts {
    lanes: Vec<(TenantId, Lane, u64)>,
    delayed: u64,
    dead: u64,
}

#[async_trait]
impl Queue for RabbitQueue {
    async fn broker_counts(&self) -> Option<BrokerCounts> {
        let Counts { delayed, dead, .. } = self.count().await?;
        Some(BrokerCounts { delayed, dead })
    }

    async fn publish(&self, events: &[LoginEvent]) -> Result<Published, QueueError> {
        let fresh = self.without_duplicates(events);
        let duplicates = events.len() - fresh.events.len();
        // Where the broker is known to take nothing, asking the publisher for the same would only cost time.
        let to_broker = !self.is_spooling() && self.publishing.is_usable();
        if fresh.events.is_empty() {
            return Ok(Published { via: if to_broker { Via::Broker } else { Via::Journal }, duplicates });
        }
        if to_broker {
            match self.to_broker(&fresh.events).await {
                Ok(()) => {
                    self.remember(&fresh);
                    return Ok(Published { via: Via::Broker, duplicates });
                }
                Err(error) if error.is_slow() => self.begin_spooling(&error),
                Err(error) => self.note_refused(&error),
            }
        }
        let spooled = self.journal.publish(&fresh.events).await?;
        self.remember(&fresh);
        Ok(Published { via: Via::Journal, duplicates: duplicates + spooled.duplicates })
    }

    async fn subscribe(
        &self,
        tenant: &TenantId,
        lane: Lane,
        prefetch: usize,
    ) -> Result<Arc<dyn Subscription>, QueueError> {
        Ok(Arc::new(RabbitSubscription::start(self.context.clone(), tenant.clone(), lane, prefetch)))
    }

    /// The journal alone: with it every event can be made durable, whatever the broker does.
    async fn check(&self) -> Result<(), QueueError> {
        self.journal.check().await
    }

    /// What waits at the broker and in the journal together; what is delayed at the broker belongs to no tenant.
    async fn stats(&self) -> Result<Vec<LaneStats>, QueueError> {
        let mut stats = self.journal.stats().await?;
        let Some(counts) = self.count().await else { return Ok(stats) };
        for (tenant, lane, ready) in counts.lanes {
            match stats.iter_mut().find(|known| known.tenant == tenant && known.lane == lane) {
                Some(known) => known.ready += ready,
                None => stats.push(LaneStats {
                    tenant,
                    lane,
                    ready,
                    unsettled: None,
                    delayed: None,
                    dead: None,
                    oldest_accepted_at: None,
                }),
            }
        }
        Ok(stats)
    }

    async fn broker(&self) -> Option<BrokerHealth> {
        let (up, blocked, trouble) = match self.publishing.state() {
            State::Up(up) => (true, up.blocked, None),
            State::Down(trouble) => (false, false, Some(trouble.to_string())),
        };
        let journal = self.journal.usage().await.unwrap_or_default();
        Some(BrokerHealth {
            up,
            blocked,
            spooling: self.is_spooling(),
            trouble,
            spool_bytes: journal.bytes,
            spool_messages: journal.messages,
            spool_oldest_accepted_at: journal.oldest_accepted_at,
        })
    }
}
