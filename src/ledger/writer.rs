//! The ledger's thread: it owns the file, and commits in one transaction what has gathered.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::Connection;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::chain::{Chain, Head, Key};
use super::record::Record;
use super::retain::{self, Forgotten, Retention};
use super::rows::{self, Book};
use super::schema::FORMAT;
use super::users::{self, Users};
use super::{Intent, IntentId, LedgerError, held, read};
use crate::clock::Clock;
use crate::model::{SessionId, TenantId, UserId};
use crate::sqlite;

/// Commands that one transaction takes.
const BATCH_MAX: usize = 256;
/// Decisions that end nobody wait this long for others to be committed with.
const NOTES_WAIT_MAX: Duration = Duration::from_millis(250);
/// What is written while the provider is being asked waits this long: so an intent, which nothing goes on without, seldom
/// finds a commit under way.
const PATIENT_WAIT_MAX: Duration = Duration::from_millis(5);
/// How often it is looked whether something must leave, or the head must be told, while nothing is written.
const TICK: Duration = Duration::from_mins(10);
/// How soon more is removed while there is more to remove.
const TRIM_AGAIN_AFTER: Duration = Duration::from_millis(200);
/// And every so many new decisions.
const TRIM_EVERY: i64 = 1_000;
/// How often the head of the chain is told.
const HEAD_EVERY_MS: i64 = 24 * 3_600_000;

pub(super) type Reply<T> = oneshot::Sender<Result<T, LedgerError>>;

/// Sends an answer once it is known whether the transaction failed, and how.
pub(super) type Answer = Box<dyn FnOnce(Option<&str>)>;

pub(super) enum Command {
    Intend { intent: Box<Intent>, reply: Reply<IntentId> },
    Note(Box<Intent>),
    Outcome { row: i64, outcomes: String, reply: Reply<()> },
    Record { records: Vec<Record>, reply: Reply<()> },
    Recent { tenant: TenantId, user: UserId, limit: usize, reply: Reply<Vec<serde_json::Value>> },
    BySession { tenant: TenantId, session: SessionId, reply: Reply<Vec<serde_json::Value>> },
    Users(users::Request),
    Held { tenant: TenantId, since: Timestamp, reply: Reply<Vec<UserId>> },
    Ends { tenant: TenantId, since: Timestamp, reply: Reply<Vec<(UserId, serde_json::Value)>> },
    Head(Reply<Head>),
    Forget { tenant: TenantId, user: UserId, reply: Reply<(Forgotten, bool)> },
    Stop,
}

impl Command {
    /// How long it may wait for others to be committed with.
    fn patience(&self) -> Duration {
        match self {
            Self::Note(_) => NOTES_WAIT_MAX,
            Self::Outcome { .. } | Self::Users(_) => PATIENT_WAIT_MAX,
            _ => Duration::ZERO,
        }
    }
}

/// Opens or makes the ledger. A damaged one is set aside: it is evidence, and enforcement does not wait for it.
pub(super) fn open(
    path: &Path,
    key: &Key,
    keep_ip: bool,
    repair: bool,
    clock: Clock,
) -> anyhow::Result<(Connection, Book)> {
    let adjusted = |(db, book): (Connection, Book)| {
        if repair {
            users::adjust_times(&db, clock.now_ms())?;
        }
        Ok((db, book))
    };
    match open_whole(path, key, keep_ip).and_then(adjusted) {
        Err(error) if sqlite::is_damage(&error) && repair => begin_anew(path, key, keep_ip, &error).and_then(adjusted),
        Err(error) if sqlite::is_damage(&error) => Err(error.context(format!(
            "the ledger {} is damaged: `soloist serve` sets it aside and begins a new one",
            path.display()
        ))),
        opened => opened,
    }
}

fn open_whole(path: &Path, key: &Key, keep_ip: bool) -> anyhow::Result<(Connection, Book)> {
    let db = sqlite::open(path, &FORMAT)?;
    let transaction = db.unchecked_transaction()?;
    let chain = Chain::load(&transaction, key.clone())?;
    let book = Book::load(&transaction, chain, keep_ip)?;
    transaction.commit()?;
    Ok((db, book))
}

fn begin_anew(path: &Path, key: &Key, keep_ip: bool, damage: &anyhow::Error) -> anyhow::Result<(Connection, Book)> {
    let aside = sqlite::set_aside(path)?;
    tracing::error!(
        alarm = "ledger_damaged",
        "the ledger was damaged and a new one begins; the damaged file is {}: {damage:#}",
        aside.display()
    );
    let (mut db, book) = open_whole(path, key, keep_ip)?;
    match users::carry_over(&aside, &mut db) {
        Ok(carried) => tracing::warn!("{carried} known users were carried over from the damaged ledger"),
        Err(error) => tracing::error!(
            alarm = "users_lost",
            "no known users could be carried over from the damaged ledger: import them again with \
             `soloist users import`: {error}"
        ),
    }
    Ok((db, book))
}

pub(super) struct Writer {
    pub(super) db: Connection,
    pub(super) book: Book,
    /// Tells where the chain ends after each commit.
    pub(super) ends: watch::Sender<i64>,
    pub(super) path: PathBuf,
    pub(super) key: Key,
    pub(super) repair: bool,
    pub(super) retention: Retention,
    pub(super) clock: Clock,
    pub(super) users: Arc<Users>,
    /// Notes that were sent and not taken yet.
    pub(super) notes_waiting: Arc<AtomicUsize>,
    pub(super) head_told_at_ms: i64,
}

impl Writer {
    pub(super) fn run(mut self, receiver: &Receiver<Command>) {
        self.tell_head();
        let mut gathered: Vec<Command> = Vec::new();
        // When what has gathered must be written.
        let mut due: Option<Instant> = None;
        let mut tick = Instant::now();
        loop {
            if !self.repair {
                tick = Instant::now() + TICK;
            }
            let until = due.unwrap_or(tick).min(tick);
            let known = gathered.len();
            match receiver.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(command) => {
                    gathered.push(command);
                    gathered.extend(receiver.try_iter().take(BATCH_MAX.saturating_sub(gathered.len())));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => gathered.push(Command::Stop),
            }
            let fresh = gathered.get(known..).unwrap_or_default().iter().map(Command::patience).min();
            due = fresh.map(|patience| Instant::now() + patience).into_iter().chain(due).min();
            if gathered.len() >= BATCH_MAX || due.is_some_and(|due| due <= Instant::now()) {
                let batch = std::mem::take(&mut gathered);
                due = None;
                let stop = batch.iter().any(|command| matches!(command, Command::Stop));
                self.take(batch);
                if stop {
                    return;
                }
            }
            // A command that only looks into the file removes nothing.
            if self.repair && tick <= Instant::now() {
                tick = Instant::now() + if self.tidy_up() { TRIM_AGAIN_AFTER } else { TICK };
            }
        }
    }

    fn take(&mut self, batch: Vec<Command>) {
        let mut rest = Vec::with_capacity(batch.len());
        let mut forgets = Vec::new();
        let notes = batch.iter().filter(|command| matches!(command, Command::Note(_))).count();
        self.notes_waiting.fetch_sub(notes, Ordering::Relaxed);
        for command in batch {
            match command {
                Command::Forget { tenant, user, reply } => forgets.push((tenant, user, reply)),
                other => rest.push(other),
            }
        }
        if let Err(error) = self.apply(rest) {
            self.recover(&anyhow::Error::new(error));
        }
        for (tenant, user, reply) in forgets {
            let forgotten = self.forget(&tenant, &user).map_err(|error| LedgerError(error.into()));
            drop(reply.send(forgotten));
        }
    }

    /// A file that broke while it was used is replaced, so that enforcement goes on.
    fn recover(&mut self, error: &anyhow::Error) {
        if !self.repair || !sqlite::is_damage(error) {
            tracing::error!("the ledger cannot write: {error:#}");
            return;
        }
        // Closed first: a connection that closes removes the log beside its path, whosever it is by then.
        let opened = Connection::open_in_memory().map_err(anyhow::Error::new).and_then(|nothing| {
            self.db = nothing;
            begin_anew(&self.path, &self.key, self.book.keep_ip, error)
        });
        // Only what is in the new file is known from now on.
        self.users.cache.clear();
        match opened {
            Ok((db, book)) => (self.db, self.book) = (db, book),
            Err(error) => tracing::error!("the ledger cannot be opened again: {error:#}"),
        }
    }

    /// One transaction for all; every answer goes out after its commit. Where one command fails none is done.
    fn apply(&mut self, batch: Vec<Command>) -> rusqlite::Result<()> {
        let now_ms = self.clock.now_ms();
        let place = self.book.place();
        let before = self.book.next_id;
        let mut answers: Vec<Answer> = Vec::new();
        let result = self.db.transaction().and_then(|transaction| {
            let mut failed = None;
            for command in batch {
                let (db, book) = (&transaction, &mut self.book);
                answers.push(match command {
                    Command::Intend { intent, reply } => {
                        let id = rows::intend(db, book, &intent, now_ms);
                        after_commit(id.map(IntentId::Row), reply, &mut failed)
                    }
                    Command::Note(intent) => {
                        if let Err(error) = rows::intend(db, book, &intent, now_ms) {
                            failed.get_or_insert(error);
                        }
                        continue;
                    }
                    Command::Outcome { row, outcomes, reply } => {
                        after_commit(rows::close(db, book, row, &outcomes, now_ms, false), reply, &mut failed)
                    }
                    Command::Record { records, reply } => {
                        let kept = records.iter().try_for_each(|record| match record {
                            Record::Intent(intent) => rows::take_in_intent(db, book, intent),
                            Record::Outcome(outcome) => rows::take_in_outcome(db, book, outcome),
                            Record::Seen(seen) => seen.store(db, now_ms),
                        });
                        after_commit(kept, reply, &mut failed)
                    }
                    Command::Recent { tenant, user, limit, reply } => {
                        after_commit(read::recent(db, &tenant, &user, limit), reply, &mut failed)
                    }
                    Command::BySession { tenant, session, reply } => {
                        after_commit(read::by_session(db, &tenant, session), reply, &mut failed)
                    }
                    Command::Users(request) => request.apply(db, now_ms, &self.users, &mut failed),
                    Command::Held { tenant, since, reply } => {
                        after_commit(held::users(db, &tenant, since), reply, &mut failed)
                    }
                    Command::Ends { tenant, since, reply } => {
                        after_commit(held::ends(db, &tenant, since), reply, &mut failed)
                    }
                    Command::Head(reply) => after_commit(Ok(book.chain.head), reply, &mut failed),
                    Command::Forget { .. } | Command::Stop => continue,
                });
            }
            if self.book.next_id / TRIM_EVERY > before / TRIM_EVERY && failed.is_none() {
                retain::trim(&transaction, &mut self.book, self.retention, now_ms)?;
            }
            match failed {
                None => transaction.commit(),
                Some(error) => Err(error),
            }
        });
        if result.is_err() {
            self.book.go_back(place);
        } else {
            let end = self.book.chain.head.seq;
            self.ends.send_if_modified(|told| std::mem::replace(told, end) != end);
        }
        let failure = result.as_ref().err().map(ToString::to_string);
        for answer in answers {
            answer(failure.as_deref());
        }
        result
    }

    fn forget(&mut self, tenant: &TenantId, user: &UserId) -> rusqlite::Result<(Forgotten, bool)> {
        let place = self.book.place();
        let forgotten = self.db.transaction().and_then(|transaction| {
            let forgotten = retain::forget(&transaction, &mut self.book, tenant, user)?;
            transaction.commit()?;
            Ok(forgotten)
        });
        if forgotten.is_err() {
            self.book.go_back(place);
        }
        let forgotten = forgotten?;
        self.users.cache.forget(tenant, user);
        Ok((forgotten, retain::wipe(&self.db)?))
    }

    /// Removes what is too old, and tells the head once a day. Whether there is more to remove.
    fn tidy_up(&mut self) -> bool {
        let now_ms = self.clock.now_ms();
        if now_ms - self.head_told_at_ms >= HEAD_EVERY_MS {
            self.tell_head();
        }
        let place = self.book.place();
        let trimmed = self.db.transaction().and_then(|transaction| {
            let more = retain::trim(&transaction, &mut self.book, self.retention, now_ms)?;
            transaction.commit()?;
            Ok(more)
        });
        trimmed.unwrap_or_else(|error| {
            self.book.go_back(place);
            self.recover(&anyhow::Error::new(error));
            false
        })
    }

    /// Into the log, which is kept elsewhere: so a cut end of the chain shows.
    fn tell_head(&mut self) {
        self.head_told_at_ms = self.clock.now_ms();
        let head = self.book.chain.head;
        tracing::info!(ledger.head = %head, "the ledger's chain ends at {head}");
    }
}

/// `failed` takes the first failure of a statement, which fails the whole transaction.
pub(super) fn after_commit<T: 'static>(
    done: rusqlite::Result<T>,
    reply: Reply<T>,
    failed: &mut Option<rusqlite::Error>,
) -> Answer {
    let done = done.map_err(|error| {
        let text = error.to_string();
        failed.get_or_insert(error);
        text
    });
    Box::new(move |failure| {
        let answer = match (done, failure) {
            (Ok(done), None) => Ok(done),
            (Err(text), _) => Err(LedgerError(anyhow::Error::msg(text))),
            (Ok(_), Some(failure)) => Err(LedgerError(anyhow::Error::msg(failure.to_owned()))),
        };
        // The one who asked may have gone away.
        drop(reply.send(answer));
    })
}
