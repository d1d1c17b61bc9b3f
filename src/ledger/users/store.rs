//! The table of users: who was seen when, and when they were last looked at or put into the queue for a look.

use std::path::Path;

use rusqlite::{Connection, OpenFlags, OptionalExtension as _, params};

use super::{KnownUser, Source};
use crate::model::{TenantId, UserId};

/// A user who was imported and not looked at since has an `asked_at_ms` of 0, so that they are first.
pub(in crate::ledger) const SCHEMA: &str = "
CREATE TABLE users (
    tenant      TEXT NOT NULL,
    uid         TEXT NOT NULL,
    seen_at_ms  INTEGER NOT NULL,
    asked_at_ms INTEGER NOT NULL,
    source      TEXT NOT NULL,
    PRIMARY KEY (tenant, uid)
) STRICT, WITHOUT ROWID;
CREATE INDEX users_by_asked ON users (tenant, asked_at_ms);
";

/// Time without a sign of us that counts against users at most. A longer one may be a clock that jumped: it must not
/// make all of them seem long gone.
const GAP_COUNTED_MAX_MS: i64 = 24 * 3_600_000;

/// A user of whom an event is worked on: seen, and looked at.
pub(super) fn seen(db: &Connection, tenant: &TenantId, user: &UserId, at_ms: i64) -> rusqlite::Result<()> {
    db.prepare_cached(
        "INSERT INTO users (tenant, uid, seen_at_ms, asked_at_ms, source) VALUES (?1, ?2, ?3, ?3, 'event')
         ON CONFLICT (tenant, uid) DO UPDATE
         SET seen_at_ms = max(seen_at_ms, ?3), asked_at_ms = max(asked_at_ms, ?3)
         WHERE seen_at_ms < ?3 OR asked_at_ms < ?3",
    )?
    .execute(params![tenant.as_str(), user.as_str(), at_ms])?;
    Ok(())
}

/// A known user was found to have logged in at this time. Whoever was forgotten meanwhile stays forgotten.
pub(super) fn listed(db: &Connection, tenant: &TenantId, user: &UserId, at_ms: i64) -> rusqlite::Result<()> {
    db.prepare_cached("UPDATE users SET seen_at_ms = ?3 WHERE tenant = ?1 AND uid = ?2 AND seen_at_ms < ?3")?
        .execute(params![tenant.as_str(), user.as_str(), at_ms])?;
    Ok(())
}

/// Takes in users who were there before us; how many of them nobody knew.
pub(super) fn import(db: &Connection, tenant: &TenantId, users: &[UserId], now_ms: i64) -> rusqlite::Result<u64> {
    let mut insert = db.prepare_cached(
        "INSERT INTO users (tenant, uid, seen_at_ms, asked_at_ms, source) VALUES (?1, ?2, ?3, 0, 'import')
         ON CONFLICT (tenant, uid) DO NOTHING",
    )?;
    let mut renew = db.prepare_cached(
        "UPDATE users SET seen_at_ms = max(seen_at_ms, ?3) WHERE tenant = ?1 AND uid = ?2 AND seen_at_ms < ?3",
    )?;
    let mut new = 0;
    for user in users {
        let of = params![tenant.as_str(), user.as_str(), now_ms];
        match insert.execute(of)? {
            0 => drop(renew.execute(of)?),
            _ => new += 1,
        }
    }
    Ok(new)
}

/// Those last asked about before this time, longest ago first.
pub(super) fn due(
    db: &Connection,
    tenant: &TenantId,
    asked_before_ms: i64,
    limit: usize,
) -> rusqlite::Result<Vec<KnownUser>> {
    db.prepare_cached(
        "SELECT uid, seen_at_ms, asked_at_ms, source FROM users
         WHERE tenant = ?1 AND asked_at_ms <= ?2 ORDER BY asked_at_ms LIMIT ?3",
    )?
    .query_map(params![tenant.as_str(), asked_before_ms, limit], known_user)?
    .collect()
}

/// A page of all users in the order of their ids, from the first id above `after`.
pub(super) fn page(db: &Connection, tenant: &TenantId, after: &str, limit: usize) -> rusqlite::Result<Vec<KnownUser>> {
    db.prepare_cached(
        "SELECT uid, seen_at_ms, asked_at_ms, source FROM users WHERE tenant = ?1 AND uid > ?2 ORDER BY uid LIMIT ?3",
    )?
    .query_map(params![tenant.as_str(), after, limit], known_user)?
    .collect()
}

pub(super) fn known(db: &Connection, tenant: &TenantId, user: &UserId) -> rusqlite::Result<Option<KnownUser>> {
    db.prepare_cached("SELECT uid, seen_at_ms, asked_at_ms, source FROM users WHERE tenant = ?1 AND uid = ?2")?
        .query_row(params![tenant.as_str(), user.as_str()], known_user)
        .optional()
}

fn known_user(row: &rusqlite::Row<'_>) -> rusqlite::Result<KnownUser> {
    let uid: String = row.get(0)?;
    let unreadable = |error| rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, error);
    let source: String = row.get(3)?;
    Ok(KnownUser {
        user: UserId::parse(&uid).map_err(|error| unreadable(error.into()))?,
        seen_at_ms: row.get(1)?,
        asked_at_ms: row.get(2)?,
        source: if source == Source::Import.as_str() { Source::Import } else { Source::Event },
    })
}

/// These were put into the queue for a look.
pub(super) fn asked(db: &Connection, tenant: &TenantId, users: &[UserId], now_ms: i64) -> rusqlite::Result<()> {
    let mut update = db.prepare_cached("UPDATE users SET asked_at_ms = ?3 WHERE tenant = ?1 AND uid = ?2")?;
    users.iter().try_for_each(|user| update.execute(params![tenant.as_str(), user.as_str(), now_ms]).map(drop))
}

/// Nothing of this user is left here.
pub(super) fn forget(db: &Connection, tenant: &TenantId, user: &UserId) -> rusqlite::Result<bool> {
    let gone = db
        .prepare_cached("DELETE FROM users WHERE tenant = ?1 AND uid = ?2")?
        .execute(params![tenant.as_str(), user.as_str()])?;
    Ok(gone > 0)
}

/// Brings stored times into reach of this start's clock: none is in its future, and a gap counts for a day at most.
pub(in crate::ledger) fn adjust_times(db: &Connection, now_ms: i64) -> rusqlite::Result<()> {
    let newest: Option<i64> =
        db.query_row("SELECT max(max(seen_at_ms, asked_at_ms)) FROM users", [], |row| row.get(0))?;
    // The index, too.
    db.query_row("SELECT count(*) FROM users INDEXED BY users_by_asked", [], |_count| Ok(()))?;
    let Some(newest) = newest else { return Ok(()) };
    let gap_ms = now_ms.saturating_sub(newest).saturating_sub(GAP_COUNTED_MAX_MS);
    if newest > now_ms {
        tracing::warn!("users were seen later than now, so the clock was turned back: they count as seen now");
        db.execute(
            "UPDATE users SET seen_at_ms = min(seen_at_ms, ?1), asked_at_ms = min(asked_at_ms, ?1)
             WHERE seen_at_ms > ?1 OR asked_at_ms > ?1",
            [now_ms],
        )?;
    } else if gap_ms > 0 {
        tracing::warn!("nobody was seen for more than a day before this start: one day of that is counted");
        db.execute(
            "UPDATE users SET seen_at_ms = seen_at_ms + ?1,
             asked_at_ms = CASE asked_at_ms WHEN 0 THEN 0 ELSE asked_at_ms + ?1 END",
            [gap_ms],
        )?;
    }
    Ok(())
}

/// Copies the users of a damaged file, as far as it can be read from both ends. How many.
pub(in crate::ledger) fn carry_over(aside: &Path, db: &mut Connection) -> rusqlite::Result<u64> {
    let old = read_only(aside)?;
    let transaction = db.transaction()?;
    let mut carried = 0;
    for order in ["ASC", "DESC"] {
        let sql = format!(
            "SELECT tenant, uid, seen_at_ms, asked_at_ms, source FROM users ORDER BY tenant {order}, uid {order}"
        );
        // Where a page is broken the rest is read from the other end.
        let Ok(mut select) = old.prepare(&sql) else { break };
        let Ok(mut rows) = select.query([]) else { continue };
        let mut reached_the_end = false;
        while let Ok(row) = rows.next() {
            let Some(row) = row else {
                reached_the_end = true;
                break;
            };
            let (Ok(tenant), Ok(uid)) = (row.get::<_, String>(0), row.get::<_, String>(1)) else { continue };
            let (Ok(seen), Ok(asked), Ok(source)) =
                (row.get::<_, i64>(2), row.get::<_, i64>(3), row.get::<_, String>(4))
            else {
                continue;
            };
            if TenantId::parse(&tenant).is_err() || UserId::parse(&uid).is_err() {
                continue;
            }
            carried += transaction
                .prepare_cached("INSERT OR IGNORE INTO users VALUES (?1, ?2, ?3, ?4, ?5)")?
                .execute(params![tenant, uid, seen, asked, source])? as u64;
        }
        if reached_the_end {
            break;
        }
    }
    transaction.commit()?;
    Ok(carried)
}

/// A connection that reads beside the writer and keeps it from nothing.
pub(super) fn read_only(path: &Path) -> rusqlite::Result<Connection> {
    Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)
}

/// How many users of a tenant are known.
pub(super) fn count(db: &Connection, tenant: &TenantId) -> rusqlite::Result<u64> {
    db.query_row("SELECT count(*) FROM users WHERE tenant = ?1", [tenant.as_str()], |row| row.get(0))
}

/// Since when a user waits for a look at the longest; those who were never looked at wait since they were imported.
pub(super) fn oldest(db: &Connection, tenant: &TenantId) -> rusqlite::Result<Option<i64>> {
    let never: Option<i64> = db.query_row(
        "SELECT min(seen_at_ms) FROM
         (SELECT seen_at_ms FROM users WHERE tenant = ?1 AND asked_at_ms = 0 ORDER BY asked_at_ms, uid LIMIT 1)",
        [tenant.as_str()],
        |row| row.get(0),
    )?;
    let asked: Option<i64> = db.query_row(
        "SELECT min(asked_at_ms) FROM users WHERE tenant = ?1 AND asked_at_ms > 0",
        [tenant.as_str()],
        |row| row.get(0),
    )?;
    Ok(never.into_iter().chain(asked).min())
}

/// Gives every `asked_at_ms` up to a time to `add`, in order.
pub(super) fn each_asked(
    db: &Connection,
    tenant: &TenantId,
    up_to_ms: i64,
    mut add: impl FnMut(i64),
) -> rusqlite::Result<()> {
    let mut select =
        db.prepare("SELECT asked_at_ms FROM users WHERE tenant = ?1 AND asked_at_ms <= ?2 ORDER BY asked_at_ms")?;
    let mut rows = select.query(params![tenant.as_str(), up_to_ms])?;
    while let Some(row) = rows.next()? {
        add(row.get(0)?);
    }
    Ok(())
}
