//! The queue of one machine: a SQLite file, written by one thread that commits whatever has gathered.

mod body;
mod config;
mod engine;
mod head;
mod salvage;
mod store;
mod task;

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self as commands, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use rustix::fs::Access;
use tokio::sync::{Mutex, mpsc, oneshot};

pub use self::config::EmbeddedConfig;
use self::engine::{Command, Engine, Incoming, Limits, Reply};
use self::store::{Checkpointer, Log};
use self::task::Commands;
pub use self::task::QueueTask;
use super::dedupe::Dedupe;
use super::{
    DeadLetter, DeadLetters, Delivery, DeliveryTag, LaneStats, Published, Queue, QueueError, Reserved, Selection,
    Settlement, Subscription,
};
use crate::clock::Clock;
use crate::model::{Lane, LoginEvent, TenantId};
use crate::sqlite;

/// Commands that may wait for the queue's thread. Whoever publishes or settles waits for the answer, so it is never near.
const COMMANDS_MAX: usize = 65_536;
/// From so many on nothing is reserved: who reserves does not wait, and must leave room for those who do.
const RESERVE_BELOW: usize = 1_024;
/// How often the write-ahead log is moved into the file. It keeps the disk busy for some ten milliseconds: rarely
/// enough that it does not show in the 99th percentile of a commit.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(3);
/// The log's length in pages from which the writer itself starts it over, so that it cannot grow for ever under load.
const LOG_PAGES_MAX: u64 = 16 * 1024;
/// From so many commands in one transaction on, the next one waits a little for more: an fsync saved is worth it.
const BUSY_FROM: usize = 16;
/// How long a busy queue lets commands gather. A queue that is not busy commits what it finds at once.
const LINGER: Duration = Duration::from_micros(200);
/// The longest wait without a command or a due message.
const IDLE_MAX: Duration = Duration::from_mins(1);

/// What an embedded queue holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Of the disk, without room that is free again inside the file.
    pub bytes: u64,
    /// Ready, handed out, reserved and delayed ones; dead letters do not count.
    pub messages: u64,
    pub oldest_accepted_at: Option<jiff::Timestamp>,
}

/// The handle; clones share the thread, which ends when [`EmbeddedQueue::stop`] is called or the last clone is dropped.
#[derive(Clone)]
pub struct EmbeddedQueue {
    commands: Commands,
    waiting: Arc<AtomicUsize>,
    /// Numbers of [`Reserved`] events.
    reservations: Arc<AtomicU64>,
}

/// A dead letter of another queue, to be kept in this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buried {
    pub tenant: TenantId,
    pub lane: Lane,
    /// The code of [`super::Why`] that it died with.
    pub why: String,
    pub attempt: u32,
    /// What [`crate::message::write()`] wrote, or [`crate::message::Remains`].
    pub body: Vec<u8>,
    /// It may have been kept before: then it is not kept twice.
    pub may_be_known: bool,
}

/// Ends when the queue's thread ends: `Ok` after a stop, an error when the file is damaged.
pub struct QueueThread {
    ended: oneshot::Receiver<anyhow::Result<()>>,
}

impl QueueThread {
    pub async fn ended(self) -> anyhow::Result<()> {
        match self.ended.await {
            Ok(result) => result,
            Err(_gone) => Err(anyhow::anyhow!("the queue's thread panicked")),
        }
    }
}

impl EmbeddedQueue {
    /// Opens the queue in a folder and starts its thread. A second process is kept out by a lock.
    ///
    /// A damaged file is set aside and its readable rows are carried over, if the configuration says so.
    pub fn open(config: &EmbeddedConfig, clock: Clock) -> anyhow::Result<(Self, QueueThread)> {
        let (engine, lock, path) = open_engine(config, clock)?;
        let checkpointer = Checkpointer::open(&path).context("cannot open the queue file a second time")?;
        let (sender, receiver) = commands::channel();
        let (ended_sender, ended) = oneshot::channel();
        let queue = Self::new(Commands::Thread(sender));
        let log_pages = Arc::new(AtomicU64::new(0));
        let writer = Writer {
            engine,
            receiver,
            waiting: queue.waiting.clone(),
            log_pages: log_pages.clone(),
            clock,
            batch_max: config.batch_max.max(1),
            path,
        };
        thread::Builder::new().name("queue".to_owned()).spawn(move || {
            let (stop, stopped) = commands::channel::<()>();
            let checkpoints = thread::Builder::new()
                .name("queue-log".to_owned())
                .spawn(move || checkpoint(&checkpointer, &log_pages, &stopped));
            let result = checkpoints.context("cannot start a thread").and_then(|checkpoints| {
                let result = writer.run();
                drop(stop);
                checkpoints.join().ok();
                result
            });
            drop(lock);
            drop(ended_sender.send(result));
        })?;
        Ok((queue, QueueThread { ended }))
    }

    fn new(commands: Commands) -> Self {
        Self { commands, waiting: Arc::default(), reservations: Arc::default() }
    }

    /// What the messages that wait take, and how old the oldest is.
    pub async fn usage(&self) -> Result<Usage, QueueError> {
        self.ask(|reply| Command::Usage { reply }).await
    }

    /// Ends the thread after what was sent before it.
    pub fn stop(&self) {
        self.send(Command::Stop).ok();
    }

    /// Keeps dead letters of another queue, even where no more messages may wait. Returns when all are durable; on an
    /// error none is.
    pub async fn bury(&self, dead: &[Buried]) -> Result<(), QueueError> {
        let dead = dead.to_vec();
        self.ask(|reply| Command::Bury { dead, reply }).await
    }

    fn send(&self, command: Command) -> Result<(), QueueError> {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= COMMANDS_MAX {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(QueueError::Unavailable(anyhow::anyhow!("{COMMANDS_MAX} commands wait for the queue file")));
        }
        if self.commands.send(command) { Ok(()) } else { Err(QueueError::Stopped) }
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, QueueError> {
        let (reply, answer) = oneshot::channel();
        self.send(command(reply))?;
        answer.await.map_err(|_dropped| QueueError::Stopped)?
    }
}

/// Takes the folder's lock and opens its file; a damaged one is set aside first, if the configuration says so.
fn open_engine(config: &EmbeddedConfig, clock: Clock) -> anyhow::Result<(Engine, FolderLock, PathBuf)> {
    let lock = lock(&config.data_dir)?;
    let path = config.data_dir.join("queue.db");
    let window_minutes = i64::try_from(config.dedupe_window.as_secs() / 60).unwrap_or(i64::MAX / 2);
    let open = || {
        let dedupe = Dedupe::new(config.dedupe_ids_max, window_minutes);
        let limits =
            Limits { messages_max: config.messages_max, bytes_max: config.bytes_max, tenants: config.tenants as u64 };
        Engine::open(&path, dedupe, limits, clock.now_ms())
    };
    let opened = if salvage::is_due(&path)? { Err(None) } else { open().map_err(Some) };
    let engine = match opened {
        Ok(engine) => engine,
        Err(Some(error)) if !sqlite::is_damage(&error) => return Err(error),
        Err(_damaged) if !config.repair => {
            return Err(anyhow::anyhow!(
                "the queue file {} is damaged: `soloist serve` sets it aside and carries its readable rows over",
                path.display()
            ));
        }
        Err(_damaged) => {
            salvage::mark(&path)?;
            salvage::if_damaged(&path, clock.now_ms())?;
            open()?
        }
    };
    Ok((engine, lock, path))
}

/// Keeps other processes out of a folder for as long as it lives.
struct FolderLock(File);

impl Drop for FolderLock {
    fn drop(&mut self) {
        // Closing it is not enough: a child that is being started has a copy until it runs its program.
        self.0.unlock().ok();
    }
}

fn lock(data_dir: &Path) -> anyhow::Result<FolderLock> {
    rustix::fs::access(data_dir, Access::WRITE_OK | Access::EXEC_OK).with_context(|| {
        let folder = data_dir.display();
        format!("cannot write to the data folder {folder}: let the user who runs soloist write to it, or set data_dir")
    })?;
    let path = data_dir.join("queue.lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.with_context(|| format!("cannot open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(FolderLock(file)),
        Err(TryLockError::WouldBlock) => Err(anyhow::Error::new(InUse { data_dir: data_dir.to_path_buf() })),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

/// Another process holds the folder.
#[derive(Debug, thiserror::Error)]
#[error("{} is in use by a running soloist: stop it, or use another data_dir", data_dir.display())]
pub struct InUse {
    pub data_dir: PathBuf,
}

fn checkpoint(checkpointer: &Checkpointer, log_pages: &AtomicU64, stopped: &commands::Receiver<()>) {
    while stopped.recv_timeout(CHECKPOINT_INTERVAL) == Err(RecvTimeoutError::Timeout) {
        match checkpointer.run() {
            Ok(pages) => log_pages.store(pages, Ordering::Relaxed),
            Err(error) => tracing::warn!("cannot check-point the queue file: {error}"),
        }
    }
}

/// The thread that owns the file.
struct Writer {
    engine: Engine,
    receiver: commands::Receiver<Command>,
    waiting: Arc<AtomicUsize>,
    /// As many pages the write-ahead log had at the last look.
    log_pages: Arc<AtomicU64>,
    clock: Clock,
    batch_max: usize,
    path: PathBuf,
}

impl Writer {
    fn run(mut self) -> anyhow::Result<()> {
        let mut is_busy = false;
        loop {
            let wait = self.engine.idle_for(self.clock.now_ms()).unwrap_or(IDLE_MAX).min(IDLE_MAX);
            let Some((batch, stop)) = self.gather(wait, is_busy) else { break };
            is_busy = batch.len() >= BUSY_FROM;
            let now_ms = self.clock.now_ms();
            let result = self.engine.apply(batch, now_ms).and_then(|()| self.engine.hand_out(now_ms));
            if let Err(error) = result {
                if !sqlite::is_damage(&error) {
                    return Err(error.context("the queue file cannot be used; what it holds is kept"));
                }
                salvage::mark(&self.path)?;
                return Err(error.context("the queue file is damaged; the next start carries its readable rows over"));
            }
            if stop {
                break;
            }
            // Commits without a pause keep the check-points from ever reaching the log's end.
            if self.log_pages.load(Ordering::Relaxed) > LOG_PAGES_MAX {
                self.engine.empty_log(Log::Reuse);
                self.log_pages.store(0, Ordering::Relaxed);
            }
        }
        self.engine.empty_log(Log::Cut);
        Ok(())
    }

    /// Waits for a command and takes what else is there; `None` when nobody is left to send any.
    #[expect(clippy::disallowed_methods, reason = "this thread is the queue's own: nothing else waits for it")]
    fn gather(&self, wait: Duration, is_busy: bool) -> Option<(Vec<Command>, bool)> {
        let mut batch = Vec::new();
        let mut weight = 0;
        let mut next = match self.receiver.recv_timeout(wait) {
            Ok(command) => Some(command),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return None,
        };
        if is_busy && next.is_some() {
            thread::sleep(LINGER);
        }
        while let Some(command) = next {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            if matches!(command, Command::Stop) {
                return Some((batch, true));
            }
            weight += command.weight();
            batch.push(command);
            next = if weight < self.batch_max { self.receiver.try_recv().ok() } else { None };
        }
        Some((batch, false))
    }
}

#[async_trait]
impl Queue for EmbeddedQueue {
    async fn publish(&self, events: &[LoginEvent]) -> Result<Published, QueueError> {
        let events = events.iter().map(Incoming::of).collect();
        self.ask(|reply| Command::Publish { events, reply }).await
    }

    fn reserve(&self, event: &LoginEvent) -> Option<Reserved> {
        if self.waiting.load(Ordering::Relaxed) >= RESERVE_BELOW {
            return None;
        }
        let (reply, durable) = oneshot::channel();
        let number = self.reservations.fetch_add(1, Ordering::Relaxed);
        self.send(Command::Reserve { number, event: Incoming::of(event), reply }).ok()?;
        let queue = self.clone();
        Some(Reserved::new(durable, move |is_wanted| {
            // One for each reservation, so never too many. A queue that has ended hands it out when it is opened.
            queue.waiting.fetch_add(1, Ordering::Relaxed);
            queue.commands.send(Command::EndReservation { number, is_wanted });
        }))
    }

    async fn subscribe(
        &self,
        tenant: &TenantId,
        lane: Lane,
        prefetch: usize,
    ) -> Result<Arc<dyn Subscription>, QueueError> {
        let prefetch = prefetch.max(1);
        let (sink, deliveries) = mpsc::channel(prefetch);
        let tenant = tenant.clone();
        let epoch = self.ask(|reply| Command::Subscribe { tenant, lane, prefetch, sink, reply }).await?;
        Ok(Arc::new(EmbeddedSubscription { queue: self.clone(), epoch, deliveries: Mutex::new(deliveries) }))
    }

    async fn check(&self) -> Result<(), QueueError> {
        self.ask(|reply| Command::Check { reply }).await
    }

    async fn stats(&self) -> Result<Vec<LaneStats>, QueueError> {
        self.ask(|reply| Command::Stats { reply }).await
    }
}

#[async_trait]
impl DeadLetters for EmbeddedQueue {
    async fn list(&self, selection: &Selection, after: u64, limit: usize) -> Result<Vec<DeadLetter>, QueueError> {
        let selection = selection.clone();
        self.ask(|reply| Command::ListDead { selection, after, limit, reply }).await
    }

    async fn redrive(&self, selection: &Selection) -> Result<u64, QueueError> {
        self.ask(|reply| Command::Redrive { selection: selection.clone(), reply }).await
    }

    async fn discard(&self, selection: &Selection) -> Result<u64, QueueError> {
        self.ask(|reply| Command::DropDead { selection: selection.clone(), reply }).await
    }
}

struct EmbeddedSubscription {
    queue: EmbeddedQueue,
    epoch: u64,
    deliveries: Mutex<mpsc::Receiver<Delivery>>,
}

#[async_trait]
impl Subscription for EmbeddedSubscription {
    async fn receive(&self) -> Result<Delivery, QueueError> {
        self.deliveries.lock().await.recv().await.ok_or(QueueError::Stopped)
    }

    async fn settle(&self, settlements: &[(DeliveryTag, Settlement)]) -> Result<(), QueueError> {
        let (epoch, settlements) = (self.epoch, settlements.to_vec());
        self.queue.ask(|reply| Command::Settle { epoch, settlements, reply }).await
    }

    async fn close(&self) -> Result<(), QueueError> {
        let epoch = self.epoch;
        self.queue.ask(|reply| Command::Close { epoch, reply: Some(reply) }).await
    }
}

impl Drop for EmbeddedSubscription {
    fn drop(&mut self) {
        // Closing twice is harmless; a subscription that was only dropped gives back what it holds, too.
        self.queue.send(Command::Close { epoch: self.epoch, reply: None }).ok();
    }
}
