//! What leaves the ledger: the oldest decisions, by age, number and size, and all of one user.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, params};

use super::chain::{self, Head, Kind};
use super::rows::Book;
use crate::model::{TenantId, UserId};

/// Decisions that one transaction removes, so that no intent waits long for it.
const REMOVED_AT_ONCE_MAX: i64 = 2_000;

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Retention {
    pub(super) age_max: Duration,
    pub(super) decisions_max: u64,
    pub(super) bytes_max: u64,
}

/// Removes decisions that are too old or too many, oldest first, as many as one transaction may. Whether there are more.
pub(super) fn trim(db: &Connection, book: &mut Book, keep: Retention, now_ms: i64) -> rusqlite::Result<bool> {
    let oldest: Option<i64> = db.query_row("SELECT min(id) FROM decisions", [], |row| row.get(0))?;
    let Some(oldest) = oldest else { return Ok(false) };
    let through = through(db, book, keep, now_ms, oldest)?;
    if through < oldest {
        return Ok(false);
    }
    let now = through.min(oldest.saturating_add(REMOVED_AT_ONCE_MAX - 1));
    remove_through(db, book, now)?;
    Ok(now < through)
}

/// The last decision that is not to be kept.
fn through(db: &Connection, book: &Book, keep: Retention, now_ms: i64, oldest: i64) -> rusqlite::Result<i64> {
    let decisions_max = i64::try_from(keep.decisions_max).unwrap_or(i64::MAX);
    let by_number = (book.next_id - 1).saturating_sub(decisions_max);

    let age_max = i64::try_from(keep.age_max.as_millis()).unwrap_or(i64::MAX);
    // One from the future counts as young: a clock that went back must not make all of them leave.
    let first_young: Option<i64> = db
        .prepare_cached("SELECT id FROM decisions WHERE decided_at_ms >= ?1 ORDER BY id LIMIT 1")?
        .query_row([now_ms.saturating_sub(age_max)], |row| row.get(0))
        .optional()?;
    let by_age = first_young.unwrap_or(book.next_id) - 1;

    let pragma = |name: &str| db.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, u64>(0));
    let used = (pragma("page_count")?.saturating_sub(pragma("freelist_count")?)).saturating_mul(pragma("page_size")?);
    let over = used.saturating_sub(keep.bytes_max);
    let count = u64::try_from(book.next_id - oldest).unwrap_or(0).max(1);
    // The decisions are of about the same size.
    let too_many = (u128::from(over) * u128::from(count)).div_ceil(u128::from(used.max(1)));
    let by_size = oldest.saturating_add(i64::try_from(too_many).unwrap_or(i64::MAX)) - 1;

    Ok(by_number.max(by_age).max(by_size).min(book.next_id - 1))
}

/// Removes a prefix, with the entries of the chain that are about nothing else, and anchors the rest.
fn remove_through(db: &Connection, book: &mut Book, last: i64) -> rusqlite::Result<()> {
    for delete in ["DELETE FROM ended WHERE decision <= ?1", "DELETE FROM decisions WHERE id <= ?1"] {
        db.prepare_cached(delete)?.execute([last])?;
    }
    keep_ids_from(db, book.next_id)?;
    let first_kept: Option<i64> = db
        .prepare_cached("SELECT seq FROM chain WHERE decision > ?1 ORDER BY seq LIMIT 1")?
        .query_row([last], |row| row.get(0))
        .optional()?;
    let last_of_removed = first_kept.map_or(book.chain.head.seq, |seq| seq - 1);
    let base = db
        .query_row("SELECT seq, mac FROM chain WHERE seq = ?1", [last_of_removed], |row| {
            Ok(Head { seq: row.get(0)?, mac: row.get(1)? })
        })
        .optional()?;
    if let Some(base) = base {
        db.execute("DELETE FROM chain WHERE seq < ?1", [base.seq])?;
        db.execute(
            "UPDATE chain SET kind = ?2, decision = 0, hash = zeroblob(32) WHERE seq = ?1",
            params![base.seq, Kind::Base.byte()],
        )?;
    }
    let base = base.unwrap_or(Head::NONE);
    book.chain.append(db, Kind::Anchor, last, chain::anchor_hash(last, base))?;
    Ok(())
}

/// What was deleted of a user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Forgotten {
    pub(super) decisions: u64,
    pub(super) known: bool,
}

/// Deletes all records of a user. What they were is sealed no longer, only that there were as many.
pub(super) fn forget(
    db: &Connection,
    book: &mut Book,
    tenant: &TenantId,
    user: &UserId,
) -> rusqlite::Result<Forgotten> {
    let of = params![tenant.as_str(), user.as_str()];
    let ids: Vec<i64> = db
        .prepare_cached("SELECT id FROM decisions WHERE tenant = ?1 AND uid = ?2 ORDER BY id")?
        .query_map(of, |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    for id in &ids {
        book.chain.append(db, Kind::Forgotten, *id, chain::mark(Kind::Forgotten, *id).finish())?;
        db.prepare_cached("DELETE FROM ended WHERE decision = ?1")?.execute([id])?;
        db.prepare_cached("DELETE FROM decisions WHERE id = ?1")?.execute([id])?;
    }
    keep_ids_from(db, book.next_id)?;
    let known = db.execute("DELETE FROM users WHERE tenant = ?1 AND uid = ?2", of)? > 0;
    Ok(Forgotten { decisions: ids.len() as u64, known })
}

/// Leaves nothing of what was deleted in the file or beside it. False: somebody reads it just now.
pub(super) fn wipe(db: &Connection) -> rusqlite::Result<bool> {
    db.execute_batch("VACUUM")?;
    let busy: i64 = db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    Ok(busy == 0)
}

fn keep_ids_from(db: &Connection, next: i64) -> rusqlite::Result<()> {
    db.prepare_cached("UPDATE ids SET next = max(next, ?1)")?.execute([next])?;
    Ok(())
}
