//! A damaged queue file: set aside, its readable rows carried over into a new one.

use std::collections::HashMap;
use std::path::Path;

use anyhow::Context as _;
use rusqlite::{Connection, Row};

use super::body::StoredBody;
use super::head;
use super::store::{Log, Store, StoredMessage, key_range};
use crate::message::{self, Remains};
use crate::model::{Lane, TenantId};
use crate::queue::Why;
use crate::sqlite::wal::{self, Found};
use crate::sqlite::{self, beside};

/// The widest step over an unreadable stretch of keys; after it the rest of the table is given up.
const SKIP_MAX: i64 = 1 << 42;

/// Notes that the file is damaged, for the next start to see.
pub(super) fn mark(path: &Path) -> anyhow::Result<()> {
    let marker = beside(path, ".damaged");
    std::fs::write(&marker, b"").with_context(|| format!("cannot write {}", marker.display()))
}

/// Whether the file was marked, and nobody has carried its rows over yet.
fn is_marked(path: &Path) -> bool {
    beside(path, ".damaged").exists()
}

/// Whether rows are to be carried over before the file is opened: it was marked, or SQLite would take it for somebody
/// else's.
pub(super) fn is_due(path: &Path) -> anyhow::Result<bool> {
    let is_lost = head::is_lost(path).with_context(|| format!("cannot read the queue file {}", path.display()))?;
    Ok(is_lost || is_marked(path))
}

/// Where the file was marked as damaged: sets it aside and carries its readable rows over.
///
/// The rows go into a file of another name first. The damaged file leaves its place only when that is complete, so a
/// crash before starts over, and a crash after finds the place empty and only has to put the new file there.
pub(super) fn if_damaged(path: &Path, now_ms: i64) -> anyhow::Result<()> {
    if !is_marked(path) {
        return Ok(());
    }
    let fresh = beside(path, ".new");
    let was_complete = !path.exists() && fresh.exists();
    let counts = if was_complete { Counts::default() } else { carry_over(path, &fresh, now_ms)? };
    let aside = sqlite::set_aside(path)?;
    std::fs::rename(&fresh, path).context("cannot put the new queue file in place")?;
    std::fs::remove_file(beside(path, ".damaged")).context("cannot remove the mark of the damaged queue file")?;
    let Counts { carried, unreadable } = counts;
    tracing::error!(
        alarm = "queue_damaged",
        carried_over = carried,
        unreadable,
        "the queue file was damaged: {carried} messages were carried over, {unreadable} places could not be read; \
         the damaged file is {}",
        aside.display()
    );
    Ok(())
}

#[derive(Default)]
struct Counts {
    carried: u64,
    unreadable: u64,
}

/// One row of whichever table, as far as it could be read.
struct Salvaged {
    attempt: u32,
    body: StoredBody,
    why: Option<String>,
    /// Of a dead letter.
    lane_id: Option<i64>,
}

fn carry_over(damaged: &Path, fresh: &Path, now_ms: i64) -> anyhow::Result<Counts> {
    sqlite::remove(fresh)?;
    let store = Store::open(fresh)?;
    store.empty_log(Log::Cut)?;
    if let Found::Broken(broken) = wal::look(damaged).context("cannot read the damaged queue file's log")? {
        tracing::warn!(
            "the queue's log is broken at its page {}; what was committed behind that is read, too",
            broken.at
        );
        wal::mend(damaged, broken).context("cannot mend the damaged queue file's log")?;
    }
    let db = head::open(damaged, fresh)?;
    let mut counts = Counts::default();
    let mut lanes = HashMap::new();
    store.begin()?;
    let named = match named_lanes(&db) {
        Err(error) if is_passing(&error) => return Err(error).context("cannot read the damaged queue file now"),
        // A message says itself whose it is; only remains are lost with the names.
        named => named.unwrap_or_default(),
    };
    {
        for table in ["messages", "delayed", "dead"] {
            scan(&db, table, &mut |row| {
                let Ok(salvaged) = row else {
                    counts.unreadable += 1;
                    return Ok(());
                };
                let Some(lane) = home(&salvaged, &named) else {
                    counts.unreadable += 1;
                    return Ok(());
                };
                if !lanes.contains_key(&lane) {
                    let lane_id = store.add_lane(&lane.0, lane.1)?;
                    lanes.insert(lane.clone(), (lane_id, 0_u64));
                }
                if let Some((lane_id, ready)) = lanes.get_mut(&lane) {
                    if let Some(why) = &salvaged.why {
                        store.bury(*lane_id, why, salvaged.attempt, now_ms, &salvaged.body)?;
                    } else {
                        let key = key_range(*lane_id).start + i64::try_from(*ready).unwrap_or(i64::MAX >> 1);
                        store.insert_all(&[StoredMessage { key, attempt: salvaged.attempt, body: salvaged.body }])?;
                        *ready += 1;
                    }
                    counts.carried += 1;
                }
                Ok(())
            })?;
        }
    }
    for (lane_id, ready) in lanes.values() {
        store.set_counts(*lane_id, *ready, 0)?;
    }
    store.commit()?;
    store.empty_log(Log::Cut)?;
    Ok(counts)
}

type Lanes = HashMap<i64, (TenantId, Lane)>;

fn named_lanes(db: &Connection) -> rusqlite::Result<Lanes> {
    let mut statement = db.prepare("SELECT lane_id, tenant, lane FROM lanes")?;
    let mut rows = statement.query([])?;
    let mut named = Lanes::new();
    while let Some(row) = rows.next()? {
        let (tenant, name): (String, String) = (row.get(1)?, row.get(2)?);
        let lane = Lane::ALL.into_iter().find(|lane| lane.as_str() == name);
        if let (Ok(tenant), Some(lane)) = (TenantId::parse(&tenant), lane) {
            named.insert(row.get(0)?, (tenant, lane));
        }
    }
    Ok(named)
}

/// Where a row belongs: a message says it itself, remains are where they were. `None` for a row that is neither.
fn home(salvaged: &Salvaged, named: &Lanes) -> Option<(TenantId, Lane)> {
    if !salvaged.body.is_intact() {
        return None;
    }
    match message::read(&salvaged.body.bytes) {
        Ok(event) => Some((event.tenant, event.reason.lane())),
        Err(_) => Remains::read(&salvaged.body.bytes).and(salvaged.lane_id).and_then(|id| named.get(&id).cloned()),
    }
}

type Visit<'a> = dyn FnMut(Result<Salvaged, ()>) -> anyhow::Result<()> + 'a;

/// Reads a table in key order; where a page cannot be read, steps over ever wider stretches of keys.
fn scan(db: &Connection, table: &str, visit: &mut Visit<'_>) -> anyhow::Result<()> {
    let (key, why) = if table == "messages" { ("key", "NULL") } else { ("id", "NULL") };
    let (why, lane_id) = if table == "dead" { ("why", "lane_id") } else { (why, "NULL") };
    let sql =
        format!("SELECT {key}, attempt, body, sum, {why}, {lane_id} FROM {table} WHERE {key} >= ?1 ORDER BY {key}");
    let mut from = 0_i64;
    let mut skip = 1_i64;
    while skip <= SKIP_MAX {
        let read = read_on(db, &sql, &mut from, &mut skip, visit)?;
        match read {
            Ok(()) => return Ok(()),
            Err(error) if is_passing(&error) => return Err(error).context("cannot read the damaged queue file now"),
            Err(_unreadable) => {}
        }
        if skip == 1 {
            visit(Err(()))?;
        }
        from = from.saturating_add(skip);
        skip *= 2;
    }
    Ok(())
}

/// Reads from `from` until a row cannot be read, which is the inner error, or to the end.
fn read_on(
    db: &Connection,
    sql: &str,
    from: &mut i64,
    skip: &mut i64,
    visit: &mut Visit<'_>,
) -> anyhow::Result<rusqlite::Result<()>> {
    let mut statement = match db.prepare(sql) {
        Ok(statement) => statement,
        Err(error) => return Ok(Err(error)),
    };
    let mut rows = match statement.query([*from]) {
        Ok(rows) => rows,
        Err(error) => return Ok(Err(error)),
    };
    loop {
        match rows.next().and_then(|row| row.map(salvaged).transpose()) {
            Ok(Some((key, row))) => {
                (*from, *skip) = (key + 1, 1);
                visit(Ok(row))?;
            }
            Ok(None) => return Ok(Ok(())),
            Err(error) => return Ok(Err(error)),
        }
    }
}

/// An error of the moment and not of the file: to skip over it would leave healthy rows behind.
pub(super) fn is_passing(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{
        CannotOpen, DatabaseBusy, DatabaseLocked, DiskFull, OutOfMemory, PermissionDenied, ReadOnly, SystemIoFailure,
    };
    matches!(
        error.sqlite_error_code(),
        Some(
            CannotOpen
                | DatabaseBusy
                | DatabaseLocked
                | DiskFull
                | OutOfMemory
                | PermissionDenied
                | ReadOnly
                | SystemIoFailure
        )
    )
}

fn salvaged(row: &Row<'_>) -> rusqlite::Result<(i64, Salvaged)> {
    let body = StoredBody { bytes: row.get(2)?, sum: row.get(3)? };
    let why: Option<String> = row.get(4)?;
    let why = why.filter(|why| Why::ALL.iter().any(|known| known.as_str() == why));
    Ok((row.get(0)?, Salvaged { attempt: row.get(1)?, body, why, lane_id: row.get(5)? }))
}
