//! `notices.db`: what waits for each endpoint, what was told, and how far the sources were read. One file, whose every
//! commit is durable.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, params};
use tokio::time::timeout;

use crate::sqlite::{self, Format};

const FORMAT: Format = Format { name: "notices file", application_id: 0x536f_6c6e, schema: SCHEMA, migrations: &[] };
const FILE: &str = "notices.db";
/// How long the disk may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Notices that wait for one endpoint; beyond it the oldest are dropped.
pub(super) const PENDING_MAX: u64 = 100_000;
/// Names of notices that are remembered, 40 bytes each, so that none is told again.
const KEYS_MAX: i64 = 1_000_000;

const SCHEMA: &str = "
CREATE TABLE pending (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    endpoint     TEXT NOT NULL,
    notice       TEXT NOT NULL,
    body         TEXT NOT NULL,
    posted_at_ms INTEGER NOT NULL,
    attempts     INTEGER NOT NULL DEFAULT 0,
    due_at_ms    INTEGER NOT NULL
) STRICT;
CREATE INDEX pending_due ON pending (endpoint, due_at_ms, id);
CREATE TABLE endpoints (
    name             TEXT PRIMARY KEY,
    failing_since_ms INTEGER,
    disabled_at_ms   INTEGER
) STRICT;
CREATE TABLE posted (n INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE) STRICT;
CREATE TABLE standing (key TEXT PRIMARY KEY) STRICT;
CREATE TABLE place (ledger INTEGER NOT NULL) STRICT;
";

/// A notice as it waits for an endpoint.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub(super) id: i64,
    /// The same at each attempt, and for each endpoint.
    pub(super) notice: String,
    pub(super) body: String,
    pub(super) posted_at_ms: i64,
    /// That have failed.
    pub(super) attempts: u32,
    pub(super) due_at_ms: i64,
}

/// A notice on its way into the file.
pub(super) struct NewNotice {
    pub(super) key: [u8; 16],
    pub(super) notice: String,
    pub(super) body: String,
    /// Whom it is for.
    pub(super) endpoints: Vec<String>,
}

/// What is noted in the same transaction as the notices of a source.
#[derive(Clone, Debug, Default)]
pub(super) struct Mark {
    /// How far the ledger was read.
    pub(super) place: Option<i64>,
    /// What stands now of what brakes have decided.
    pub(super) standing: Option<Vec<String>>,
}

/// What became of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attempt {
    /// Delivered or given up: either way it leaves.
    Over,
    Again {
        due_at_ms: i64,
    },
}

/// What an endpoint was left as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    /// Since when no attempt has succeeded.
    pub(super) failing_since_ms: Option<i64>,
    pub(super) disabled_at_ms: Option<i64>,
}

struct Db {
    connection: Connection,
    path: PathBuf,
}

#[derive(Clone)]
pub(super) struct Store {
    db: Arc<Mutex<Db>>,
    /// What waits, by endpoint.
    waiting: Arc<Mutex<BTreeMap<String, u64>>>,
}

impl Store {
    /// Opens or makes the file; a damaged one is set aside. What waits for other endpoints than these is dropped, and
    /// every endpoint is enabled and all that waits is due: whoever starts the program again may have mended what was
    /// wrong, and the clock may have jumped.
    pub(super) fn open(data_dir: &Path, endpoints: &[String], now_ms: i64) -> anyhow::Result<Self> {
        let path = data_dir.join(FILE);
        let connection = match open(&path).and_then(|db| prepare(db, endpoints, now_ms)) {
            Err(error) if sqlite::is_damage(&error) => prepare(begin_anew(&path, &error)?, endpoints, now_ms),
            opened => opened,
        }?;
        let waiting = Arc::new(Mutex::new(count(&connection, endpoints)?));
        Ok(Self { db: Arc::new(Mutex::new(Db { connection, path })), waiting })
    }

    /// How many notices wait for an endpoint.
    pub(super) fn waiting(&self, endpoint: &str) -> u64 {
        self.counts().get(endpoint).copied().unwrap_or(0)
    }

    fn counts(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, u64>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps notices whose keys are new, with the mark, in one transaction. How many had to be dropped by endpoint.
    pub(super) async fn post(
        &self,
        notices: Vec<NewNotice>,
        mark: Mark,
        now_ms: i64,
    ) -> anyhow::Result<BTreeMap<String, u64>> {
        let waiting = Arc::clone(&self.waiting);
        self.with(move |db| {
            let before = waiting.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let transaction = db.transaction()?;
            let mut after = before;
            for notice in &notices {
                insert(&transaction, notice, now_ms, &mut after)?;
            }
            let dropped = drop_oldest(&transaction, &mut after)?;
            transaction
                .execute("DELETE FROM posted WHERE n <= (SELECT ifnull(max(n), 0) FROM posted) - ?1", [KEYS_MAX])?;
            note(&transaction, &mark)?;
            transaction.commit()?;
            *waiting.lock().unwrap_or_else(PoisonError::into_inner) = after;
            Ok(dropped)
        })
        .await
    }

    /// The notices of an endpoint that are due first, due or not.
    pub(super) async fn first(&self, endpoint: &str, number: usize) -> anyhow::Result<Vec<Pending>> {
        let endpoint = endpoint.to_owned();
        self.with(move |db| {
            db.prepare_cached(
                "SELECT id, notice, body, posted_at_ms, attempts, due_at_ms FROM pending
                 WHERE endpoint = ?1 ORDER BY due_at_ms, id LIMIT ?2",
            )?
            .query_map(params![endpoint, number], |row| {
                Ok(Pending {
                    id: row.get(0)?,
                    notice: row.get(1)?,
                    body: row.get(2)?,
                    posted_at_ms: row.get(3)?,
                    attempts: row.get(4)?,
                    due_at_ms: row.get(5)?,
                })
            })?
            .collect()
        })
        .await
    }

    /// Notes what became of attempts, and what that makes of their endpoint; with `hurry` all that waits is due.
    pub(super) async fn settle(
        &self,
        endpoint: &str,
        attempts: Vec<(i64, Attempt)>,
        state: State,
        hurry: Option<i64>,
    ) -> anyhow::Result<()> {
        let (endpoint, waiting) = (endpoint.to_owned(), Arc::clone(&self.waiting));
        self.with(move |db| {
            let transaction = db.transaction()?;
            let mut gone = 0;
            for (id, attempt) in attempts {
                match attempt {
                    Attempt::Over => gone += transaction.execute("DELETE FROM pending WHERE id = ?1", [id])?,
                    Attempt::Again { due_at_ms } => {
                        transaction.execute(
                            "UPDATE pending SET attempts = attempts + 1, due_at_ms = ?2 WHERE id = ?1",
                            params![id, due_at_ms],
                        )?;
                    }
                }
            }
            if let Some(now_ms) = hurry {
                transaction.execute(
                    "UPDATE pending SET due_at_ms = ?2 WHERE endpoint = ?1 AND due_at_ms > ?2",
                    params![endpoint, now_ms],
                )?;
            }
            transaction.execute(
                "REPLACE INTO endpoints (name, failing_since_ms, disabled_at_ms) VALUES (?1, ?2, ?3)",
                params![endpoint, state.failing_since_ms, state.disabled_at_ms],
            )?;
            transaction.commit()?;
            let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let left = waiting.entry(endpoint).or_default();
            *left = left.saturating_sub(gone as u64);
            Ok(())
        })
        .await
    }

    pub(super) async fn state(&self, endpoint: &str) -> anyhow::Result<State> {
        let endpoint = endpoint.to_owned();
        self.with(move |db| {
            let state = db
                .query_row(
                    "SELECT failing_since_ms, disabled_at_ms FROM endpoints WHERE name = ?1",
                    [endpoint],
                    |row| Ok(State { failing_since_ms: row.get(0)?, disabled_at_ms: row.get(1)? }),
                )
                .optional()?;
            Ok(state.unwrap_or_default())
        })
        .await
    }

    /// How far the ledger was read; `None` before the first time.
    pub(super) async fn place(&self) -> anyhow::Result<Option<i64>> {
        self.with(|db| db.query_row("SELECT ledger FROM place", [], |row| row.get(0)).optional()).await
    }

    /// What stood when it was last told.
    pub(super) async fn standing(&self) -> anyhow::Result<Vec<String>> {
        self.with(|db| db.prepare("SELECT key FROM standing")?.query_map([], |row| row.get(0))?.collect()).await
    }

    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let (db, waiting) = (Arc::clone(&self.db), Arc::clone(&self.waiting));
        let working = tokio::task::spawn_blocking(move || {
            let mut db = db.lock().unwrap_or_else(PoisonError::into_inner);
            work(&mut db.connection).map_err(|error| {
                let error = anyhow::Error::new(error);
                if sqlite::is_damage(&error) {
                    db.replace(&error);
                    waiting.lock().unwrap_or_else(PoisonError::into_inner).clear();
                }
                error
            })
        });
        let late = |_late| anyhow::anyhow!("the disk did not answer within {TIMEOUT:?}");
        timeout(TIMEOUT, working).await.map_err(late)??
    }
}

impl Db {
    /// A file that broke while it was used is replaced; what waited in it is lost.
    fn replace(&mut self, damage: &anyhow::Error) {
        // Closed first: a connection that closes removes the log beside its path, whosever it is by then.
        let opened = Connection::open_in_memory().map_err(anyhow::Error::new).and_then(|nothing| {
            self.connection = nothing;
            begin_anew(&self.path, damage)
        });
        match opened {
            Ok(connection) => self.connection = connection,
            Err(error) => tracing::error!("the file of notices cannot be opened again: {error:#}"),
        }
    }
}

fn begin_anew(path: &Path, damage: &anyhow::Error) -> anyhow::Result<Connection> {
    let aside = sqlite::set_aside(path)?;
    tracing::error!(
        alarm = "notices_damaged",
        "the file of notices was damaged and a new one begins, so notices that waited are lost; the damaged file is {}: \
         {damage:#}",
        aside.display()
    );
    open(path)
}

fn open(path: &Path) -> anyhow::Result<Connection> {
    let db = sqlite::open(path, &FORMAT)?;
    // What was delivered or dropped names users, and nobody needs it any more.
    db.pragma_update(None, "secure_delete", true)?;
    Ok(db)
}

fn prepare(mut db: Connection, endpoints: &[String], now_ms: i64) -> anyhow::Result<Connection> {
    let transaction = db.transaction()?;
    let known: Vec<String> = transaction
        .prepare("SELECT DISTINCT endpoint FROM pending")?
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    for endpoint in known.iter().filter(|known| !endpoints.contains(known)) {
        let dropped = transaction.execute("DELETE FROM pending WHERE endpoint = ?1", [endpoint])?;
        tracing::warn!("{dropped} notices for `{endpoint}` are dropped: it is no longer in [[notify]]");
    }
    transaction.execute("UPDATE pending SET due_at_ms = ?1 WHERE due_at_ms > ?1", [now_ms])?;
    transaction.execute("DELETE FROM endpoints WHERE disabled_at_ms IS NOT NULL", [])?;
    transaction.execute("UPDATE endpoints SET failing_since_ms = min(failing_since_ms, ?1)", [now_ms])?;
    transaction.commit()?;
    Ok(db)
}

fn count(db: &Connection, endpoints: &[String]) -> anyhow::Result<BTreeMap<String, u64>> {
    let mut counted = db.prepare("SELECT count(*) FROM pending WHERE endpoint = ?1")?;
    let mut count = |endpoint: &String| Ok((endpoint.clone(), counted.query_row([endpoint], |row| row.get(0))?));
    endpoints.iter().map(&mut count).collect()
}

fn insert(
    db: &Connection,
    notice: &NewNotice,
    now_ms: i64,
    waiting: &mut BTreeMap<String, u64>,
) -> rusqlite::Result<()> {
    let is_new = db.prepare_cached("INSERT OR IGNORE INTO posted (key) VALUES (?1)")?.execute([notice.key])? > 0;
    for endpoint in notice.endpoints.iter().filter(|_| is_new) {
        db.prepare_cached(
            "INSERT INTO pending (endpoint, notice, body, posted_at_ms, due_at_ms) VALUES (?1, ?2, ?3, ?4, ?4)",
        )?
        .execute(params![endpoint, notice.notice, notice.body, now_ms])?;
        *waiting.entry(endpoint.clone()).or_default() += 1;
    }
    Ok(())
}

fn drop_oldest(db: &Connection, waiting: &mut BTreeMap<String, u64>) -> rusqlite::Result<BTreeMap<String, u64>> {
    let mut dropped = BTreeMap::new();
    for (endpoint, number) in waiting.iter_mut().filter(|(_, number)| **number > PENDING_MAX) {
        let over = *number - PENDING_MAX;
        db.execute(
            "DELETE FROM pending WHERE id IN (SELECT id FROM pending WHERE endpoint = ?1 ORDER BY id LIMIT ?2)",
            params![endpoint, over],
        )?;
        *number = PENDING_MAX;
        dropped.insert(endpoint.clone(), over);
    }
    Ok(dropped)
}

fn note(db: &Connection, mark: &Mark) -> rusqlite::Result<()> {
    if let Some(place) = mark.place {
        db.execute("DELETE FROM place", [])?;
        db.execute("INSERT INTO place (ledger) VALUES (?1)", [place])?;
    }
    if let Some(standing) = &mark.standing {
        db.execute("DELETE FROM standing", [])?;
        for key in standing {
            db.prepare_cached("INSERT OR IGNORE INTO standing (key) VALUES (?1)")?.execute([key])?;
        }
    }
    Ok(())
}
