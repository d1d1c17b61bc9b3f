//! The ledger of this machine: one SQLite file, written by one thread that commits what has gathered.

use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc as commands};
use std::thread;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{Connection, params};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::held;
use super::record::{self, BadRecord, Record, StoredIntent, StoredOutcome};
use super::users::{self, Users};
use super::{Held, Intent, IntentId, Ledger, LedgerError, Outcome, Seen};
use crate::clock::Clock;
use crate::model::{TenantId, UserId};
use crate::sqlite::{self, Format};

const FORMAT: Format = Format {
    name: "ledger",
    application_id: 0x536f_6c6c,
    schema: SCHEMA,
    migrations: &[RECORDS, SESSIONS, held::INDEX, users::SCHEMA],
};
/// How long a command waits for the disk; a record that is late may still be written, which is harmless.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Commands that one transaction takes.
const BATCH_MAX: usize = 256;
/// Old decisions are trimmed every so many new ones.
const TRIM_EVERY: i64 = 1_000;

const SCHEMA: &str = "
CREATE TABLE decisions (
    id            INTEGER PRIMARY KEY,
    decided_at_ms INTEGER NOT NULL,
    tenant        TEXT NOT NULL,
    uid           TEXT NOT NULL,
    looked        TEXT NOT NULL,
    executed      INTEGER NOT NULL,
    decision      TEXT NOT NULL,
    outcomes      TEXT,
    closed_at_ms  INTEGER
) STRICT;
CREATE INDEX decisions_of_user ON decisions (tenant, uid, id);
";

/// Records of other machines come late and twice: they have an id, and their place is by time. Decisions made here have
/// no id, so that they pay for no index of random ids.
const RECORDS: &str = "
ALTER TABLE decisions ADD COLUMN record_id TEXT;
CREATE UNIQUE INDEX decisions_of_record ON decisions (record_id) WHERE record_id IS NOT NULL;
DROP INDEX decisions_of_user;
CREATE INDEX decisions_of_user ON decisions (tenant, uid, decided_at_ms);
";

/// What each decision was made from, and what kept it from being executed. Both are unknown of older ones.
const SESSIONS: &str = "
ALTER TABLE decisions ADD COLUMN sessions TEXT;
ALTER TABLE decisions ADD COLUMN held TEXT;
";

pub(super) type Reply<T> = oneshot::Sender<Result<T, LedgerError>>;

/// Sends an answer once it is known whether the transaction failed, and how.
pub(super) type Answer = Box<dyn FnOnce(Option<&str>)>;

enum Command {
    Intend { intent: Box<Intent>, reply: Reply<IntentId> },
    Outcome { row: i64, outcomes: String, reply: Reply<()> },
    Record { records: Vec<Record>, reply: Reply<()> },
    Recent { tenant: TenantId, user: UserId, limit: usize, reply: Reply<Vec<serde_json::Value>> },
    Users(users::Request),
    Held { tenant: TenantId, since: Timestamp, reply: Reply<Vec<UserId>> },
    Ends { tenant: TenantId, since: Timestamp, reply: Reply<Vec<(UserId, serde_json::Value)>> },
    Stop,
}

/// The ledger of one machine. The thread ends after [`SqliteLedger::stop`], or when the last handle is dropped.
#[derive(Clone)]
pub struct SqliteLedger {
    commands: commands::Sender<Command>,
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

impl SqliteLedger {
    /// Opens or makes `ledger.db` in a folder; at most `decisions_max` decisions are kept.
    ///
    /// With `repair` a damaged file is set aside and a new one begins; otherwise it is an error.
    pub fn open(
        data_dir: &Path,
        decisions_max: u64,
        repair: bool,
        clock: Clock,
    ) -> anyhow::Result<(Self, LedgerThread)> {
        let path = data_dir.join("ledger.db");
        let db = open(&path, repair, clock)?;
        let users = Arc::new(Users::new(path.clone()));
        let (sender, receiver) = commands::channel();
        let keep = i64::try_from(decisions_max).unwrap_or(i64::MAX);
        let writer = Writer { db, path, repair, keep, clock, users: Arc::clone(&users) };
        let (ended_sender, ended) = oneshot::channel();
        thread::Builder::new().name("ledger".to_owned()).spawn(move || {
            writer.run(&receiver);
            ended_sender.send(()).ok();
        })?;
        Ok((Self { commands: sender, users, clock }, LedgerThread { ended }))
    }

    /// Takes in what other machines sent, in one transaction: each record once, however often and in whatever order they
    /// come. The answers are in the order of the records; one that cannot be read keeps no other out.
    ///
    /// # Errors
    /// The file cannot be written: then the records are to be delivered again, which harms nothing.
    pub async fn record(&self, records: &[Vec<u8>]) -> Result<Vec<Result<(), BadRecord>>, LedgerError> {
        let mut good = Vec::with_capacity(records.len());
        let answers = records.iter().map(|raw| record::read(raw).map(|record| good.push(record))).collect();
        if !good.is_empty() {
            self.ask(|reply| Command::Record { records: good, reply }).await?;
        }
        Ok(answers)
    }

    /// The users of a tenant of whom something was held back since then.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn held_since(&self, tenant: &TenantId, since: Timestamp) -> Result<Vec<UserId>, LedgerError> {
        self.ask(|reply| Command::Held { tenant: tenant.clone(), since, reply }).await
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
        let stopped = || LedgerError(anyhow::anyhow!("the ledger's thread has ended"));
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).map_err(|_returned| stopped())?;
        match timeout(ANSWER_TIMEOUT, answer).await {
            Ok(answered) => answered.map_err(|_dropped| stopped())?,
            Err(_late) => Err(LedgerError(anyhow::anyhow!("the disk did not answer within {ANSWER_TIMEOUT:?}"))),
        }
    }
}

#[async_trait]
impl Ledger for SqliteLedger {
    async fn intend(&self, intent: Intent) -> Result<IntentId, LedgerError> {
        self.ask(|reply| Command::Intend { intent: Box::new(intent), reply }).await
    }

    fn note(&self, _intent: Intent) {}

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

/// Opens or makes the ledger. A damaged one is set aside: it is evidence, and enforcement does not wait for it.
fn open(path: &Path, repair: bool, clock: Clock) -> anyhow::Result<Connection> {
    let adjusted = |db: Connection| {
        if repair {
            users::adjust_times(&db, clock.now_ms())?;
        }
        Ok(db)
    };
    match sqlite::open(path, &FORMAT).and_then(adjusted) {
        Err(error) if sqlite::is_damage(&error) && repair => begin_anew(path, &error).and_then(adjusted),
        Err(error) if sqlite::is_damage(&error) => Err(error.context(format!(
            "the ledger {} is damaged: `soloist serve` sets it aside and begins a new one",
            path.display()
        ))),
        opened => opened,
    }
}

fn begin_anew(path: &Path, damage: &anyhow::Error) -> anyhow::Result<Connection> {
    let aside = sqlite::set_aside(path)?;
    tracing::error!(
        alarm = "ledger_damaged",
        "the ledger was damaged and a new one begins; the damaged file is {}: {damage:#}",
        aside.display()
    );
    let mut db = sqlite::open(path, &FORMAT)?;
    match users::carry_over(&aside, &mut db) {
        Ok(carried) => tracing::warn!("{carried} known users were carried over from the damaged ledger"),
        Err(error) => tracing::error!(
            alarm = "users_lost",
            "no known users could be carried over from the damaged ledger: import them again with \
             `soloist users import`: {error}"
        ),
    }
    Ok(db)
}

struct Writer {
    db: Connection,
    path: PathBuf,
    repair: bool,
    keep: i64,
    clock: Clock,
    users: Arc<Users>,
}

impl Writer {
    fn run(mut self, receiver: &commands::Receiver<Command>) {
        while let Ok(first) = receiver.recv() {
            let mut batch = vec![first];
            batch.extend(receiver.try_iter().take(BATCH_MAX - 1));
            let stop = batch.iter().any(|command| matches!(command, Command::Stop));
            if let Err(error) = self.apply(batch) {
                self.recover(&anyhow::Error::new(error));
            }
            if stop {
                return;
            }
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
            begin_anew(&self.path, error)
        });
        // Only what is in the new file is known from now on.
        self.users.cache.clear();
        match opened {
            Ok(db) => self.db = db,
            Err(error) => tracing::error!("the ledger cannot be opened again: {error:#}"),
        }
    }

    /// One transaction for all; every answer goes out after its commit.
    fn apply(&mut self, batch: Vec<Command>) -> rusqlite::Result<()> {
        let now_ms = self.clock.now_ms();
        let keep = self.keep;
        let mut answers: Vec<Answer> = Vec::new();
        let mut damage = None;
        let result = self.db.transaction().and_then(|transaction| {
            for command in batch {
                let answer = match command {
                    Command::Intend { intent, reply } => {
                        let id = intend(&transaction, &intent, now_ms, keep);
                        after_commit(id.map(IntentId::Row), reply, &mut damage)
                    }
                    Command::Outcome { row, outcomes, reply } => {
                        let closed = transaction
                            .prepare_cached("UPDATE decisions SET outcomes = ?2, closed_at_ms = ?3 WHERE id = ?1")
                            .and_then(|mut update| update.execute(params![row, outcomes, now_ms]));
                        after_commit(closed.map(drop), reply, &mut damage)
                    }
                    Command::Record { records, reply } => {
                        let kept = records.iter().try_for_each(|record| take_in(&transaction, record, keep, now_ms));
                        after_commit(kept, reply, &mut damage)
                    }
                    Command::Recent { tenant, user, limit, reply } => {
                        after_commit(recent(&transaction, &tenant, &user, limit), reply, &mut damage)
                    }
                    Command::Users(request) => request.apply(&transaction, now_ms, &self.users, &mut damage),
                    Command::Held { tenant, since, reply } => {
                        after_commit(held::users(&transaction, &tenant, since), reply, &mut damage)
                    }
                    Command::Ends { tenant, since, reply } => {
                        after_commit(held::ends(&transaction, &tenant, since), reply, &mut damage)
                    }
                    Command::Stop => continue,
                };
                answers.push(answer);
            }
            transaction.commit()
        });
        let failure = result.as_ref().err().map(ToString::to_string);
        for answer in answers {
            answer(failure.as_deref());
        }
        damage.map_or(result, Err)
    }
}

/// `failed` takes the first failure of a statement, so that the file is looked after.
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

fn intend(db: &Connection, intent: &Intent, now_ms: i64, keep: i64) -> rusqlite::Result<i64> {
    let failed = |error| rusqlite::Error::ToSqlConversionFailure(Box::new(error));
    let decision = serde_json::to_string(&intent.decision).map_err(failed)?;
    let sessions = serde_json::to_string(&intent.sessions).map_err(failed)?;
    db.prepare_cached(
        "INSERT INTO decisions (decided_at_ms, tenant, uid, looked, executed, decision, sessions, held)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?
    .execute(params![
        now_ms,
        intent.tenant.as_str(),
        intent.user.as_str(),
        intent.looked.as_str(),
        intent.executed,
        decision,
        sessions,
        intent.held.map(Held::as_str),
    ])?;
    let id = db.last_insert_rowid();
    trim(db, id, keep)?;
    Ok(id)
}

fn trim(db: &Connection, newest: i64, keep: i64) -> rusqlite::Result<()> {
    if newest % TRIM_EVERY == 0 {
        db.execute("DELETE FROM decisions WHERE id <= ?1", [newest.saturating_sub(keep)])?;
    }
    Ok(())
}

/// Whichever half of a record comes first makes the row, the other one fills it up, and a repeated one changes nothing.
fn take_in(db: &Connection, record: &Record, keep: i64, now_ms: i64) -> rusqlite::Result<()> {
    match record {
        Record::Seen(seen) => return seen.store(db, now_ms),
        Record::Intent(StoredIntent {
            id,
            tenant,
            user,
            looked,
            executed,
            decided_at_ms,
            decision,
            sessions,
            held,
        }) => db
            .prepare_cached(
                "INSERT INTO decisions
                 (decided_at_ms, tenant, uid, looked, executed, decision, sessions, held, record_id)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
                 ON CONFLICT (record_id) WHERE record_id IS NOT NULL
                 DO UPDATE SET decided_at_ms = ?1, looked = ?4, executed = ?5, decision = ?6, sessions = ?7, held = ?8
                 WHERE decisions.decision = 'null'",
            )?
            .execute(params![
                decided_at_ms,
                tenant.as_str(),
                user.as_str(),
                looked,
                executed,
                decision,
                sessions,
                held,
                id
            ])?,
        // Without its intent it is shown as an unknown decision: what was ended is known all the same.
        Record::Outcome(StoredOutcome { id, tenant, user, closed_at_ms, outcomes }) => db
            .prepare_cached(
                "INSERT INTO decisions
                 (decided_at_ms, tenant, uid, looked, executed, decision, outcomes, closed_at_ms, record_id)
                 VALUES (?1, ?2, ?3, 'unknown', TRUE, 'null', ?4, ?1, ?5)
                 ON CONFLICT (record_id) WHERE record_id IS NOT NULL
                 DO UPDATE SET outcomes = ?4, closed_at_ms = ?1 WHERE decisions.outcomes IS NULL",
            )?
            .execute(params![closed_at_ms, tenant.as_str(), user.as_str(), outcomes, id])?,
    };
    trim(db, db.last_insert_rowid(), keep)
}

fn recent(db: &Connection, tenant: &TenantId, user: &UserId, limit: usize) -> rusqlite::Result<Vec<serde_json::Value>> {
    db.prepare_cached(
        "SELECT decided_at_ms, looked, executed, decision, outcomes, held, sessions FROM decisions
         WHERE tenant = ?1 AND uid = ?2 ORDER BY decided_at_ms DESC, id DESC LIMIT ?3",
    )?
    .query_map(params![tenant.as_str(), user.as_str(), limit], shown)?
    .collect()
}

/// A decision as people and programs see it, from the columns of [`recent`].
pub(super) fn shown(row: &rusqlite::Row<'_>) -> rusqlite::Result<serde_json::Value> {
    let json = |text: Option<String>| text.and_then(|text| serde_json::from_str::<serde_json::Value>(&text).ok());
    let at = Timestamp::from_millisecond(row.get(0)?).unwrap_or(Timestamp::UNIX_EPOCH);
    Ok(serde_json::json!({
        "decided_at": at.to_string(),
        "looked": row.get::<_, String>(1)?,
        "executed": row.get::<_, bool>(2)?,
        "decision": json(row.get(3)?),
        "outcomes": json(row.get(4)?),
        "held": row.get::<_, Option<String>>(5)?,
        "sessions": json(row.get(6)?),
    }))
}
