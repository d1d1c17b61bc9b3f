//! The queue file: schema and rows. Every statement of the embedded queue is here.
//!
//! Rows are only ever appended in the order of their key, and the hot path has no other index: a row's key is its
//! lane's number times 2^40 plus a counter, so each lane is a range of one table.

use std::path::Path;

use anyhow::Context as _;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::body::StoredBody;
use crate::model::{Lane, TenantId};
use crate::sqlite::{self, Format};

/// The id says "Solo", so that another program's SQLite file is never taken for a queue.
const FORMAT: Format = Format { name: "queue file", application_id: 0x536f_6c6f, schema: SCHEMA, migrations: &[] };
/// SQLite's page cache for the queue.
const PAGE_CACHE_KIB: i32 = 8 * 1024;
/// Dead letters that are searched for one that came again: more than a crash leaves unacknowledged.
const KNOWN_DEAD_MAX: usize = 1_000;
/// A lane's keys are `lane << LANE_SHIFT` to the next lane's.
const LANE_SHIFT: u32 = 40;

const SCHEMA: &str = "
CREATE TABLE lanes (
    lane_id INTEGER PRIMARY KEY,
    tenant  TEXT NOT NULL,
    lane    TEXT NOT NULL,
    ready   INTEGER NOT NULL DEFAULT 0,
    delayed INTEGER NOT NULL DEFAULT 0,
    UNIQUE (tenant, lane)
) STRICT;
CREATE TABLE messages (
    key     INTEGER PRIMARY KEY,
    attempt INTEGER NOT NULL,
    body    BLOB NOT NULL,
    sum     INTEGER NOT NULL
) STRICT;
CREATE TABLE delayed (
    id       INTEGER PRIMARY KEY,
    lane_id  INTEGER NOT NULL,
    due_ms   INTEGER NOT NULL,
    delay_ms INTEGER NOT NULL,
    attempt  INTEGER NOT NULL,
    body     BLOB NOT NULL,
    sum      INTEGER NOT NULL
) STRICT;
CREATE INDEX delayed_due ON delayed (due_ms);
CREATE TABLE dead (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    lane_id    INTEGER NOT NULL,
    why        TEXT NOT NULL,
    attempt    INTEGER NOT NULL,
    died_at_ms INTEGER NOT NULL,
    body       BLOB NOT NULL,
    sum        INTEGER NOT NULL
) STRICT;
CREATE TABLE seen (
    row    INTEGER PRIMARY KEY,
    minute INTEGER NOT NULL,
    keys   BLOB NOT NULL
) STRICT;
";

pub(super) struct StoredMessage {
    pub(super) key: i64,
    pub(super) attempt: u32,
    pub(super) body: StoredBody,
}

pub(super) struct StoredDelay {
    pub(super) id: i64,
    pub(super) lane_id: i64,
    pub(super) attempt: u32,
    pub(super) body: StoredBody,
}

pub(super) struct StoredLane {
    pub(super) lane_id: i64,
    pub(super) tenant: TenantId,
    pub(super) lane: Lane,
    pub(super) ready: u64,
    pub(super) delayed: u64,
    pub(super) next_key: i64,
}

pub(super) struct StoredDead {
    pub(super) id: i64,
    pub(super) lane_id: i64,
    pub(super) why: String,
    pub(super) attempt: u32,
    pub(super) died_at_ms: i64,
    pub(super) body: StoredBody,
}

/// The keys of a lane: `first..end`.
pub(super) fn key_range(lane_id: i64) -> std::ops::Range<i64> {
    (lane_id << LANE_SHIFT)..((lane_id + 1) << LANE_SHIFT)
}

pub(super) struct Store {
    db: Connection,
}

type Sql<T> = rusqlite::Result<T>;

/// What becomes of the emptied log: cut, or written over from its start, which costs the disk less than growing again.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Log {
    Cut,
    Reuse,
}

impl Store {
    /// Opens or makes the queue file. A file of another program or of a newer version is refused, never guessed at.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let db = sqlite::open(path, &FORMAT)?;
        set_up(&db)?;
        Ok(Self { db })
    }

    pub(super) fn begin(&self) -> Sql<()> {
        self.db.prepare_cached("BEGIN IMMEDIATE")?.execute([]).map(drop)
    }

    /// Returns when the transaction is on the disk.
    pub(super) fn commit(&self) -> Sql<()> {
        self.db.prepare_cached("COMMIT")?.execute([]).map(drop)
    }

    pub(super) fn roll_back(&self) {
        if !self.db.is_autocommit()
            && let Err(error) = self.db.execute_batch("ROLLBACK")
        {
            tracing::error!("cannot roll back a queue transaction: {error}");
        }
    }

    /// Empties the write-ahead log into the file; waits for nobody longer than the busy timeout.
    pub(super) fn empty_log(&self, then: Log) -> Sql<()> {
        let mode = if then == Log::Cut { "TRUNCATE" } else { "RESTART" };
        self.db.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(()))
    }

    pub(super) fn lanes(&self) -> anyhow::Result<Vec<StoredLane>> {
        let mut statement = self.db.prepare("SELECT lane_id, tenant, lane, ready, delayed FROM lanes")?;
        let mut rows = statement.query([])?;
        let mut lanes = Vec::new();
        while let Some(row) = rows.next()? {
            let lane_id = row.get(0)?;
            let range = key_range(lane_id);
            let last: Option<i64> = self
                .db
                .prepare_cached("SELECT max(key) FROM messages WHERE key >= ?1 AND key < ?2")?
                .query_row([range.start, range.end], |row| row.get(0))?;
            lanes.push(StoredLane {
                lane_id,
                tenant: TenantId::parse(&row.get::<_, String>(1)?)?,
                lane: lane_from(&row.get::<_, String>(2)?)?,
                ready: row.get(3)?,
                delayed: row.get(4)?,
                next_key: last.map_or(range.start, |last| last + 1),
            });
        }
        Ok(lanes)
    }

    pub(super) fn add_lane(&self, tenant: &TenantId, lane: Lane) -> Sql<i64> {
        self.db.execute("INSERT INTO lanes (tenant, lane) VALUES (?1, ?2)", [tenant.as_str(), lane.as_str()])?;
        Ok(self.db.last_insert_rowid())
    }

    pub(super) fn set_counts(&self, lane_id: i64, ready: u64, delayed: u64) -> Sql<()> {
        self.db
            .prepare_cached("UPDATE lanes SET ready = ?2, delayed = ?3 WHERE lane_id = ?1")?
            .execute(params![lane_id, ready, delayed])
            .map(drop)
    }

    pub(super) fn insert_all(&self, messages: &[StoredMessage]) -> Sql<()> {
        let mut insert =
            self.db.prepare_cached("INSERT INTO messages (key, attempt, body, sum) VALUES (?1, ?2, ?3, ?4)")?;
        for StoredMessage { key, attempt, body } in messages {
            insert.execute(params![key, attempt, body.bytes, body.sum])?;
        }
        Ok(())
    }

    pub(super) fn delete_all(&self, keys: &[i64]) -> Sql<()> {
        let mut delete = self.db.prepare_cached("DELETE FROM messages WHERE key = ?1")?;
        keys.iter().try_for_each(|key| delete.execute([key]).map(drop))
    }

    pub(super) fn messages(&self, from: i64, end: i64, limit: usize) -> Sql<Vec<StoredMessage>> {
        self.db
            .prepare_cached(
                "SELECT key, attempt, body, sum FROM messages WHERE key >= ?1 AND key < ?2 ORDER BY key LIMIT ?3",
            )?
            .query_map(params![from, end, limit], |row| {
                Ok(StoredMessage { key: row.get(0)?, attempt: row.get(1)?, body: body_from(row, 2)? })
            })?
            .collect()
    }

    pub(super) fn delay(&self, lane_id: i64, due_ms: i64, delay_ms: i64, attempt: u32, body: &StoredBody) -> Sql<()> {
        self.db
            .prepare_cached(
                "INSERT INTO delayed (lane_id, due_ms, delay_ms, attempt, body, sum) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute(params![lane_id, due_ms, delay_ms, attempt, body.bytes, body.sum])
            .map(drop)
    }

    pub(super) fn due(&self, now_ms: i64, limit: usize) -> Sql<Vec<StoredDelay>> {
        self.db
            .prepare_cached(
                "SELECT id, lane_id, attempt, body, sum FROM delayed WHERE due_ms <= ?1 ORDER BY due_ms LIMIT ?2",
            )?
            .query_map(params![now_ms, limit], |row| {
                Ok(StoredDelay {
                    id: row.get(0)?,
                    lane_id: row.get(1)?,
                    attempt: row.get(2)?,
                    body: body_from(row, 3)?,
                })
            })?
            .collect()
    }

    pub(super) fn next_due(&self) -> Sql<Option<i64>> {
        self.db.prepare_cached("SELECT min(due_ms) FROM delayed")?.query_row([], |row| row.get(0))
    }

    pub(super) fn remove_delayed(&self, id: i64) -> Sql<()> {
        self.db.prepare_cached("DELETE FROM delayed WHERE id = ?1")?.execute([id]).map(drop)
    }

    /// No due time may be further away than its own delay: a clock that jumped back strands nothing.
    pub(super) fn pull_in_delays(&self, now_ms: i64) -> Sql<usize> {
        self.db.execute("UPDATE delayed SET due_ms = ?1 + delay_ms WHERE due_ms > ?1 + delay_ms", [now_ms])
    }

    pub(super) fn bury(&self, lane_id: i64, why: &str, attempt: u32, now_ms: i64, body: &StoredBody) -> Sql<()> {
        self.db
            .prepare_cached(
                "INSERT INTO dead (lane_id, why, attempt, died_at_ms, body, sum) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute(params![lane_id, why, attempt, now_ms, body.bytes, body.sum])
            .map(drop)
    }

    /// Whether the same message is among the last [`KNOWN_DEAD_MAX`] dead letters.
    pub(super) fn has_buried(&self, lane_id: i64, why: &str, attempt: u32, body: &StoredBody) -> Sql<bool> {
        self.db
            .prepare_cached(
                "SELECT count(*) > 0 FROM (SELECT * FROM dead ORDER BY id DESC LIMIT ?1)
                 WHERE lane_id = ?2 AND why = ?3 AND attempt = ?4 AND sum = ?5 AND body = ?6",
            )?
            .query_row(params![KNOWN_DEAD_MAX, lane_id, why, attempt, body.sum, body.bytes], |row| row.get(0))
    }

    /// Dead letters above `after`, oldest first; `why` empty for any reason.
    pub(super) fn dead(&self, why: &str, after: i64, limit: usize) -> Sql<Vec<StoredDead>> {
        self.db
            .prepare_cached(
                "SELECT id, lane_id, why, attempt, died_at_ms, body, sum FROM dead
                 WHERE id > ?1 AND (?2 = '' OR why = ?2) ORDER BY id LIMIT ?3",
            )?
            .query_map(params![after, why, limit], dead_from)?
            .collect()
    }

    pub(super) fn dead_by_id(&self, id: i64) -> Sql<Option<StoredDead>> {
        self.db
            .prepare_cached("SELECT id, lane_id, why, attempt, died_at_ms, body, sum FROM dead WHERE id = ?1")?
            .query_row([id], dead_from)
            .optional()
    }

    pub(super) fn remove_dead(&self, id: i64) -> Sql<()> {
        self.db.prepare_cached("DELETE FROM dead WHERE id = ?1")?.execute([id]).map(drop)
    }

    pub(super) fn dead_counts(&self) -> Sql<Vec<(i64, u64)>> {
        self.db
            .prepare_cached("SELECT lane_id, count(*) FROM dead GROUP BY lane_id")?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect()
    }

    pub(super) fn remember(&self, minute: i64, keys: &[u64]) -> Sql<i64> {
        let keys: Vec<u8> = keys.iter().flat_map(|key| key.to_be_bytes()).collect();
        self.db.prepare_cached("INSERT INTO seen (minute, keys) VALUES (?1, ?2)")?.execute(params![minute, keys])?;
        Ok(self.db.last_insert_rowid())
    }

    /// Writes a row and takes it back, so that the commit after it really writes.
    pub(super) fn scratch(&self) -> Sql<()> {
        let row = self.remember(0, &[])?;
        self.db.prepare_cached("DELETE FROM seen WHERE row = ?1")?.execute([row]).map(drop)
    }

    pub(super) fn remembered_count(&self) -> Sql<usize> {
        self.db.query_row("SELECT coalesce(sum(length(keys)), 0) / 8 FROM seen", [], |row| row.get(0))
    }

    /// Calls `each` with row, minute and keys of every row, in order.
    pub(super) fn remembered(&self, mut each: impl FnMut(i64, i64, &mut dyn Iterator<Item = u64>)) -> Sql<()> {
        let mut statement = self.db.prepare("SELECT row, minute, keys FROM seen ORDER BY row")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let keys = row.get_ref(2)?.as_blob()?;
            each(row.get(0)?, row.get(1)?, &mut keys.as_chunks::<8>().0.iter().map(|key| u64::from_be_bytes(*key)));
        }
        Ok(())
    }

    /// Bytes of the file that rows take.
    pub(super) fn used_bytes(&self) -> Sql<u64> {
        let pragma =
            |name: &str| self.db.prepare_cached(&format!("PRAGMA {name}"))?.query_row([], |row| row.get::<_, u64>(0));
        Ok((pragma("page_count")?.saturating_sub(pragma("freelist_count")?)).saturating_mul(pragma("page_size")?))
    }

    pub(super) fn forget(&self, up_to_row: i64) -> Sql<()> {
        self.db.prepare_cached("DELETE FROM seen WHERE row <= ?1")?.execute([up_to_row]).map(drop)
    }
}

fn body_from(row: &Row<'_>, column: usize) -> Sql<StoredBody> {
    Ok(StoredBody { bytes: row.get(column)?, sum: row.get(column + 1)? })
}

fn dead_from(row: &Row<'_>) -> Sql<StoredDead> {
    Ok(StoredDead {
        id: row.get(0)?,
        lane_id: row.get(1)?,
        why: row.get(2)?,
        attempt: row.get(3)?,
        died_at_ms: row.get(4)?,
        body: body_from(row, 5)?,
    })
}

fn lane_from(name: &str) -> anyhow::Result<Lane> {
    Lane::ALL.into_iter().find(|lane| lane.as_str() == name).with_context(|| format!("there is no lane `{name}`"))
}

/// Leaves check-pointing to its own thread.
fn set_up(db: &Connection) -> Sql<()> {
    db.pragma_update(None, "wal_autocheckpoint", 0)?;
    db.pragma_update(None, "cache_size", -PAGE_CACHE_KIB)?;
    db.set_prepared_statement_cache_capacity(64);
    Ok(())
}

/// Moves what the write-ahead log holds into the file, beside the writer and without waiting for it.
pub(super) struct Checkpointer {
    db: Connection,
}

impl Checkpointer {
    pub(super) fn open(path: &Path) -> Sql<Self> {
        let db = sqlite::connect(path)?;
        set_up(&db)?;
        Ok(Self { db })
    }

    /// Returns how many pages the log has.
    pub(super) fn run(&self) -> Sql<u64> {
        self.db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| Ok(row.get::<_, i64>(1)?.max(0).unsigned_abs()))
    }
}
