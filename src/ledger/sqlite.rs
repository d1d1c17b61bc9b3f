//! The ledger of this machine: one SQLite file, written by one thread.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc as commands};
use std::thread;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use super::chain::{Head, Key};
use super::last::LastRecorded;
use super::read::{self, ExportFilter, JsonLines};
use super::record::{self, BadRecord};
use super::retain::Retention;
use super::users::{self, Users};
use super::verify::{self, Verified};
use super::writer::{self, Command, Reply, Writer};
use super::{Intent, IntentId, Ledger, LedgerError, Outcome, Seen};
use crate::clock::Clock;
use crate::model::{SessionId, TenantId, UserId};

/// How long a command waits for the disk; a record that is late may still be written, which is harmless.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long counting over the whole file may take.
const READ_TIMEOUT: Duration = Duration::from_mins(1);
/// How long forgetting a user may take: the whole file is written anew.
const FORGET_TIMEOUT: Duration = Duration::from_hours(1);
/// Decisions that end nobody and wait to be written; further ones are not recorded.
const NOTES_WAITING_MAX: usize = 4_096;

/// Where a ledger is and what it keeps.
#[derive(Clone, Debug)]
pub struct LedgerOptions {
    /// The folder of `ledger.db`.
    pub data_dir: PathBuf,
    /// What the chain is sealed with; `None` for `ledger.key` in the data folder, made where it is missing.
    pub key_file: Option<PathBuf>,
    pub keep_ip: bool,
    pub age_max: Duration,
    pub decisions_max: u64,
    pub bytes_max: u64,
    /// Whether a damaged file is set aside and a new one begins; otherwise it is an error.
    pub repair: bool,
}

impl LedgerOptions {
    /// A ledger that keeps everything.
    pub fn in_dir(data_dir: &Path) -> Self {
        Self {
            data_dir: data_dir.to_owned(),
            key_file: None,
            keep_ip: false,
            age_max: Duration::MAX,
            decisions_max: u64::MAX,
            bytes_max: u64::MAX,
            repair: false,
        }
    }
}

/// The ledger of one machine. The thread ends after [`SqliteLedger::stop`], or when the last handle is dropped.
#[derive(Clone)]
pub struct SqliteLedger {
    commands: commands::Sender<Command>,
    last: Arc<LastRecorded>,
    notes_waiting: Arc<AtomicUsize>,
    path: PathBuf,
    key: Key,
    keep_ip: bool,
    /// The end of the chain, as it was last written.
    pub(super) ends: watch::Sender<i64>,
    pub(super) users: Arc<Users>,
    pub(super) clock: Clock,
}

/// Ends when the ledger's thread ends.
pub struct LedgerThread {
    ended: oneshot::Receiver<()>,
}

impl LedgerThread {
    /// Whether it stopped as asked; otherwise it panicked.
    pub async fn ended(self) -> anyhow::Result<()> {
        self.ended.await.map_err(|_dropped| anyhow::anyhow!("the ledger's thread panicked"))
    }
}

/// What forgetting a user came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Erased {
    pub decisions: u64,
    /// Whether they were among the known users.
    pub known: bool,
    /// False where somebody read the ledger just then, so that bytes of what was deleted may be left beside the file.
    pub wiped: bool,
}

impl SqliteLedger {
    /// Opens or makes `ledger.db`.
    pub fn open(options: &LedgerOptions, clock: Clock) -> anyhow::Result<(Self, LedgerThread)> {
        let path = options.data_dir.join("ledger.db");
        let key = Key::read_or_make(&options.data_dir, options.key_file.as_deref())?;
        let (db, book) = writer::open(&path, &key, options.keep_ip, options.repair, clock)?;
        let users = Arc::new(Users::new(path.clone()));
        let (sender, receiver) = commands::channel();
        let notes_waiting = Arc::<AtomicUsize>::default();
        let ends = watch::Sender::new(book.chain.head.seq);
        let writer = Writer {
            db,
            ends: ends.clone(),
            book,
            path: path.clone(),
            key: key.clone(),
            repair: options.repair,
            retention: Retention {
                age_max: options.age_max,
                decisions_max: options.decisions_max,
                bytes_max: options.bytes_max,
            },
            clock,
            users: Arc::clone(&users),
            notes_waiting: Arc::clone(&notes_waiting),
            head_told_at_ms: 0,
        };
        let (ended_sender, ended) = oneshot::channel();
        thread::Builder::new().name("ledger".to_owned()).spawn(move || {
            writer.run(&receiver);
            ended_sender.send(()).ok();
        })?;
        let last = Arc::new(LastRecorded::new());
        let keep_ip = options.keep_ip;
        let ledger = Self { commands: sender, last, notes_waiting, path, key, keep_ip, ends, users, clock };
        Ok((ledger, LedgerThread { ended }))
    }

    /// Takes in what other machines sent, in one transaction: each record once, however often and in whatever order they
    /// come. The answers are in the order of the records; one that cannot be read keeps no other out.
    ///
    /// # Errors
    /// The file cannot be written: then the records are to be delivered again, which harms nothing.
    pub async fn record(&self, records: &[Vec<u8>]) -> Result<Vec<Result<(), BadRecord>>, LedgerError> {
        let mut good = Vec::with_capacity(records.len());
        let read = |raw: &Vec<u8>| record::read(raw, self.keep_ip).map(|record| good.push(record));
        let answers = records.iter().map(read).collect();
        if !good.is_empty() {
            self.ask(|reply| Command::Record { records: good, reply }).await?;
        }
        Ok(answers)
    }

    /// Every decision that the filter lets through, in the order they were recorded.
    pub async fn export(&self, filter: ExportFilter) -> Result<JsonLines, LedgerError> {
        self.head().await?;
        Ok(read::lines(self.path.clone(), move |db, to| read::export(db, &filter, to)))
    }

    /// Each user's newest recorded view, without the sessions that were ended since.
    pub async fn views(&self, tenant: Option<TenantId>) -> Result<JsonLines, LedgerError> {
        self.head().await?;
        Ok(read::lines(self.path.clone(), move |db, to| read::views(db, tenant.as_ref(), to)))
    }

    /// Whether every record is as it was written. It reads the whole file, beside the writer.
    pub async fn verify(&self, head: Option<Head>) -> anyhow::Result<Verified> {
        self.head().await?;
        let (path, key) = (self.path.clone(), self.key.clone());
        let verified = tokio::task::spawn_blocking(move || {
            let mut db = read::connect(&path)?;
            anyhow::Ok(verify::verify(&mut db, &key, head)?)
        });
        verified.await?
    }

    /// The decisions that ended a session or would have, newest first, as [`Ledger::recent`] gives them.
    pub async fn by_session(
        &self,
        tenant: &TenantId,
        session: SessionId,
    ) -> Result<Vec<serde_json::Value>, LedgerError> {
        let tenant = tenant.clone();
        self.ask(|reply| Command::BySession { tenant, session, reply }).await
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The end of the chain. What waited to be written is in the file then.
    pub async fn head(&self) -> Result<Head, LedgerError> {
        self.ask(Command::Head).await
    }

    /// Deletes all records of a user. Meanwhile the file is written anew, and intents wait.
    pub async fn forget(&self, tenant: &TenantId, user: &UserId) -> Result<Erased, LedgerError> {
        let (tenant, user) = (tenant.clone(), user.clone());
        let (forgotten, wiped) =
            self.ask_within(FORGET_TIMEOUT, |reply| Command::Forget { tenant, user, reply }).await?;
        Ok(Erased { decisions: forgotten.decisions, known: forgotten.known, wiped })
    }

    /// The users of a tenant of whom something was held back since then.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn held_since(&self, tenant: &TenantId, since: Timestamp) -> Result<Vec<UserId>, LedgerError> {
        self.ask(|reply| Command::Held { tenant: tenant.clone(), since, reply }).await
    }

    /// All decisions of a tenant that ended sessions since then, where [`super::Ledger::ends_since`] gives the last ones: a
    /// step of them, the last ones first, and where the next step begins, if there is one, with the time of its newest decision.
    /// The first begins with `None`.
    ///
    /// # Errors
    /// The file cannot be read in time.
    pub async fn earlier_ends(
        &self,
        tenant: &TenantId,
        since: Timestamp,
        from: Option<i64>,
    ) -> Result<(Vec<(UserId, serde_json::Value)>, Option<(i64, Timestamp)>), LedgerError> {
        let tenant = tenant.clone();
        self.read_beside(move |db| super::held::earlier_ends(db, &tenant, since, from)).await
    }

    /// The most sessions of a tenant that were ended within one hour. It reads the whole file, beside the writer.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn busiest_hour(&self, tenant: &TenantId) -> anyhow::Result<u64> {
        let (path, tenant) = (self.path.clone(), tenant.clone());
        let counted = tokio::task::spawn_blocking(move || {
            super::held::busiest_hour(&read::connect(&path)?, &tenant).map_err(anyhow::Error::from)
        });
        timeout(READ_TIMEOUT, counted)
            .await
            .map_err(|_late| anyhow::anyhow!("the disk did not answer within {READ_TIMEOUT:?}"))??
    }

    /// Ends the thread after what was sent to it before.
    pub fn stop(&self) {
        self.commands.send(Command::Stop).ok();
    }

    pub(super) async fn ask_users<T>(
        &self,
        request: impl FnOnce(Reply<T>) -> users::Request,
    ) -> Result<T, LedgerError> {
        self.ask(|reply| Command::Users(request(reply))).await
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, LedgerError> {
        self.ask_within(ANSWER_TIMEOUT, command).await
    }

    async fn ask_within<T>(
        &self,
        limit: Duration,
        command: impl FnOnce(Reply<T>) -> Command,
    ) -> Result<T, LedgerError> {
        let stopped = || LedgerError(anyhow::anyhow!("the ledger's thread has ended"));
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).map_err(|_returned| stopped())?;
        match timeout(limit, answer).await {
            Ok(answered) => answered.map_err(|_dropped| stopped())?,
            Err(_late) => Err(LedgerError(anyhow::anyhow!("the disk did not answer within {limit:?}"))),
        }
    }
}

#[async_trait]
impl Ledger for SqliteLedger {
    async fn intend(&self, intent: Intent) -> Result<IntentId, LedgerError> {
        self.last.is_repeated(&intent);
        self.ask(|reply| Command::Intend { intent: Box::new(intent), reply }).await
    }

    fn note(&self, intent: Intent) {
        if self.last.is_repeated(&intent) || self.notes_waiting.load(Ordering::Relaxed) >= NOTES_WAITING_MAX {
            return;
        }
        self.notes_waiting.fetch_add(1, Ordering::Relaxed);
        // Once the thread has ended nothing is recorded any more.
        self.commands.send(Command::Note(Box::new(intent))).ok();
    }

    async fn outcome(&self, intent: IntentId, outcomes: &[Outcome]) -> Result<(), LedgerError> {
        let IntentId::Row(row) = intent else {
            return Err(LedgerError(anyhow::anyhow!("the intent is of another ledger")));
        };
        let outcomes = serde_json::to_string(outcomes).map_err(|error| LedgerError(error.into()))?;
        self.ask(|reply| Command::Outcome { row, outcomes, reply }).await
    }

    async fn seen(&self, tenant: &TenantId, user: &UserId, seen: Seen) -> Result<(), LedgerError> {
        self.store_seen(tenant, user, seen).await
    }

    async fn recent(
        &self,
        tenant: &TenantId,
        user: &UserId,
        limit: usize,
    ) -> Result<Vec<serde_json::Value>, LedgerError> {
        let (tenant, user) = (tenant.clone(), user.clone());
        self.ask(|reply| Command::Recent { tenant, user, limit, reply }).await
    }

    async fn ends_since(
        &self,
        tenant: &TenantId,
        since: Timestamp,
    ) -> Result<Vec<(UserId, serde_json::Value)>, LedgerError> {
        self.ask(|reply| Command::Ends { tenant: tenant.clone(), since, reply }).await
    }
}
