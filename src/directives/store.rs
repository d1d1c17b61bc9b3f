//! The entries on disk: one SQLite file beside the ledger, and never thrown away with it.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use jiff::Timestamp;
use rusqlite::{Connection, params};
use serde_json::Value;
use tokio::time::timeout;

use super::entry::{BadEntry, Entry};
use crate::model::TenantId;
use crate::sqlite::{self, Format};

const FORMAT: Format = Format { name: "directives", application_id: 0x536f_6c64, schema: SCHEMA, migrations: &[] };
const FILE: &str = "directives.db";
/// How long the disk may take; a change that is late is still made, and shows in the list then.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Changes that are remembered; the oldest are forgotten first.
const CHANGES_MAX: i64 = 100_000;

const SCHEMA: &str = "
CREATE TABLE entries (
    key  TEXT PRIMARY KEY,
    body TEXT NOT NULL
) STRICT;
CREATE TABLE changes (
    seq    INTEGER PRIMARY KEY,
    at_ms  INTEGER NOT NULL,
    key    TEXT NOT NULL,
    owner  TEXT NOT NULL,
    reason TEXT NOT NULL,
    body   TEXT
) STRICT;
CREATE TABLE grants (
    tenant TEXT NOT NULL,
    minute INTEGER NOT NULL,
    amount INTEGER NOT NULL,
    PRIMARY KEY (tenant, minute)
) STRICT, WITHOUT ROWID;
";

/// A change of one entry.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) key: String,
    pub(super) at: Timestamp,
    pub(super) owner: String,
    pub(super) reason: String,
    /// `None`: the entry was removed.
    pub(super) entry: Option<Entry>,
}

/// A change as it is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    pub seq: i64,
    pub at: Timestamp,
    /// The entry's; of an act, what was done and to what, such as `enforce/default/ann`.
    pub key: String,
    pub owner: String,
    pub reason: String,
    /// What was put, in its written form.
    pub entry: Option<Value>,
    /// It changed no entry: an operator did something.
    pub is_act: bool,
}

/// Stands in front of the key of what changed no entry.
const ACT: &str = "act:";

#[derive(Clone)]
pub(super) struct Store {
    db: Arc<Mutex<Connection>>,
}

impl Store {
    /// Opens or makes the file, and reads what is in force.
    ///
    /// # Errors
    /// Also when the file is damaged: without its exemptions nobody may be ended, so nothing starts without it.
    pub(super) fn open(data_dir: &Path) -> anyhow::Result<(Self, Vec<Entry>)> {
        let path = data_dir.join(FILE);
        let db = sqlite::open(&path, &FORMAT).with_context(|| {
            format!(
                "cannot use the directives {}, which hold the overrides, pins and exemptions that were made at run \
                 time: restore the file from a backup, or move it away to begin without any",
                path.display()
            )
        })?;
        let entries = read_entries(&db).with_context(|| format!("cannot read {}", path.display()))?;
        Ok((Self { db: Arc::new(Mutex::new(db)) }, entries))
    }

    /// Makes a change durable if `is_due`, then has it applied with its number, which is higher than that of every change
    /// before. All of it happens in one turn, whether or not the caller still waits: what is in force and what is on disk
    /// cannot drift apart.
    pub(super) async fn change(
        &self,
        change: Change,
        is_due: impl FnOnce() -> Result<bool, BadEntry> + Send + 'static,
        apply: impl FnOnce(Change, i64) + Send + 'static,
    ) -> anyhow::Result<Result<bool, BadEntry>> {
        self.write(move |db| {
            match is_due() {
                Ok(true) => {}
                not_due => return Ok(not_due),
            }
            let number = write_change(db, &change)?;
            apply(change, number);
            Ok(Ok(true))
        })
        .await
    }

    /// Puts on record what an operator does that changes no entry.
    pub(super) async fn note(&self, change: Change) -> anyhow::Result<()> {
        self.write(move |db| {
            let transaction = db.transaction()?;
            insert_change(&transaction, &Change { key: format!("{ACT}{}", change.key), ..change }, None)?;
            transaction.commit()
        })
        .await
    }

    /// The changes before that number, newest first.
    pub(super) async fn changes(&self, before: i64, limit: usize) -> anyhow::Result<Vec<Kept>> {
        self.write(move |db| {
            let mut rows = db.prepare(
                "SELECT seq, at_ms, key, owner, reason, body FROM changes WHERE seq < ?1 ORDER BY seq DESC LIMIT ?2",
            )?;
            rows.query_map(params![before, limit], kept)?.collect()
        })
        .await
    }

    /// Makes durable what was granted of a tenant's budget in some minutes, and forgets minutes before `oldest`.
    pub(super) async fn grant(&self, tenant: &TenantId, counts: Vec<(i64, u32)>, oldest: i64) -> anyhow::Result<()> {
        let tenant = tenant.as_str().to_owned();
        self.write(move |db| {
            let transaction = db.transaction()?;
            for (minute, amount) in counts {
                transaction.execute(
                    "REPLACE INTO grants (tenant, minute, amount) VALUES (?1, ?2, ?3)",
                    params![tenant, minute, amount],
                )?;
            }
            transaction.execute("DELETE FROM grants WHERE tenant = ?1 AND minute < ?2", params![tenant, oldest])?;
            transaction.commit()
        })
        .await
    }

    /// Forgets all grants of a tenant: its window begins anew.
    pub(super) async fn forget_grants(&self, tenant: &TenantId) -> anyhow::Result<()> {
        let tenant = tenant.as_str().to_owned();
        self.write(move |db| db.execute("DELETE FROM grants WHERE tenant = ?1", [tenant]).map(drop)).await
    }

    /// What was granted before, by tenant and minute, oldest first.
    pub(super) fn grants(&self) -> anyhow::Result<Vec<(TenantId, i64, u32)>> {
        let db = self.db.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rows = db.prepare("SELECT tenant, minute, amount FROM grants ORDER BY minute")?;
        let rows = rows.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get(1)?, row.get(2)?)))?;
        let read = rows.collect::<rusqlite::Result<Vec<_>>>()?;
        Ok(read
            .into_iter()
            .filter_map(|(tenant, minute, n)| Some((TenantId::parse(&tenant).ok()?, minute, n)))
            .collect())
    }

    /// The number of the last change.
    pub(super) fn last_change(&self) -> anyhow::Result<i64> {
        let db = self.db.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(db.query_row("SELECT ifnull(max(seq), 0) FROM changes", [], |row| row.get(0))?)
    }

    async fn write<T: Send + 'static>(
        &self,
        write: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let db = Arc::clone(&self.db);
        let writing =
            tokio::task::spawn_blocking(move || write(&mut db.lock().unwrap_or_else(PoisonError::into_inner)));
        let late = |_late| anyhow::anyhow!("the disk did not answer within {WRITE_TIMEOUT:?}");
        Ok(timeout(WRITE_TIMEOUT, writing).await.map_err(late)???)
    }
}

fn write_change(db: &mut Connection, change: &Change) -> rusqlite::Result<i64> {
    let transaction = db.transaction()?;
    let body = change.entry.as_ref().map(|entry| entry.to_json().to_string());
    match &body {
        Some(body) => transaction.execute("REPLACE INTO entries (key, body) VALUES (?1, ?2)", [&change.key, body])?,
        None => transaction.execute("DELETE FROM entries WHERE key = ?1", [&change.key])?,
    };
    let number = insert_change(&transaction, change, body.as_deref())?;
    transaction.commit()?;
    Ok(number)
}

fn insert_change(db: &Connection, change: &Change, body: Option<&str>) -> rusqlite::Result<i64> {
    db.execute(
        "INSERT INTO changes (at_ms, key, owner, reason, body) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![change.at.as_millisecond(), change.key, change.owner, change.reason, body],
    )?;
    let number = db.last_insert_rowid();
    db.execute("DELETE FROM changes WHERE seq <= ?1", [number.saturating_sub(CHANGES_MAX)])?;
    Ok(number)
}

fn kept(row: &rusqlite::Row<'_>) -> rusqlite::Result<Kept> {
    let (key, body): (String, Option<String>) = (row.get(2)?, row.get(5)?);
    let act = key.strip_prefix(ACT).map(str::to_owned);
    Ok(Kept {
        seq: row.get(0)?,
        at: Timestamp::from_millisecond(row.get(1)?).unwrap_or(Timestamp::UNIX_EPOCH),
        is_act: act.is_some(),
        key: act.unwrap_or(key),
        owner: row.get(3)?,
        reason: row.get(4)?,
        entry: body.and_then(|body| serde_json::from_str(&body).ok()),
    })
}

fn read_entries(db: &Connection) -> anyhow::Result<Vec<Entry>> {
    let mut rows = db.prepare("SELECT key, body FROM entries ORDER BY key")?;
    let rows = rows.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
    let mut entries = Vec::new();
    for row in rows {
        let (key, body) = row?;
        let written = serde_json::from_str(&body).with_context(|| format!("`{key}` is no JSON"))?;
        entries.push(Entry::read(written, Timestamp::UNIX_EPOCH).with_context(|| format!("`{key}` cannot be read"))?);
    }
    Ok(entries)
}
