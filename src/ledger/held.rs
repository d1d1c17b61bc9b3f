//! Whom a decision would have ended a session of, had nothing held it back; and whose sessions were ended lately.

use std::ops::Range;

use jiff::Timestamp;
use rusqlite::{Connection, params};
use serde_json::Value;

use super::read::{SHOWN, shown};
use crate::model::{TenantId, UserId};

/// Users that one answer names.
const USERS_MAX: u32 = 1_000_000;
/// Decisions that [`ends`] looks at, and each step of [`earlier_ends`].
const ENDS_MAX: i64 = 100_000;
const ENDS_STEP: i64 = 5_000;

/// Only decisions that something held back are in it, so others do not pay for it.
pub(super) const INDEX: &str = "
CREATE INDEX decisions_held ON decisions (tenant, decided_at_ms) WHERE held IS NOT NULL;
";

/// The users of a tenant of whom something was held back since then.
pub(super) fn users(db: &Connection, tenant: &TenantId, since: Timestamp) -> rusqlite::Result<Vec<UserId>> {
    let mut rows = db.prepare_cached(
        "SELECT DISTINCT uid FROM decisions WHERE held IS NOT NULL AND tenant = ?1 AND decided_at_ms >= ?2 LIMIT ?3",
    )?;
    let uids =
        rows.query_map(params![tenant.as_str(), since.as_millisecond(), USERS_MAX], |row| row.get::<_, String>(0))?;
    let uids: Vec<String> = uids.collect::<rusqlite::Result<_>>()?;
    Ok(uids.iter().filter_map(|uid| UserId::parse(uid).ok()).collect())
}

/// The last decisions of a tenant that ended sessions, as they are shown, oldest first.
pub(super) fn ends(db: &Connection, tenant: &TenantId, since: Timestamp) -> rusqlite::Result<Decided> {
    let newest = newest(db)?;
    ends_within(db, tenant, since, newest.saturating_sub(ENDS_MAX)..newest)
}

/// Users with a decision of theirs as it is shown.
type Decided = Vec<(UserId, Value)>;

/// Decisions back to `since` in steps, the last ones first: those of a tenant that ended sessions, and where the next step
/// begins, with the time of its newest decision. `from` is where the step before said, and for the first one `None`.
pub(super) fn earlier_ends(
    db: &Connection,
    tenant: &TenantId,
    since: Timestamp,
    from: Option<i64>,
) -> rusqlite::Result<(Decided, Option<(i64, Timestamp)>)> {
    let upper = match from {
        Some(from) => from,
        None => newest(db)?,
    };
    let lower = upper.saturating_sub(ENDS_STEP);
    let ends = ends_within(db, tenant, since, lower..upper)?;
    // Numbers are by arrival, and a record may come late: one that is old says nothing of its neighbours.
    let next_at: Option<i64> = db
        .prepare_cached("SELECT max(decided_at_ms) FROM decisions NOT INDEXED WHERE id > ?1 AND id <= ?2")?
        .query_row([lower.saturating_sub(ENDS_STEP), lower], |row| row.get(0))?;
    let next = next_at.and_then(|at| Timestamp::from_millisecond(at).ok()).filter(|at| *at >= since);
    Ok((ends, next.map(|newest| (lower, newest))))
}

fn newest(db: &Connection) -> rusqlite::Result<i64> {
    db.query_row("SELECT ifnull(max(id), 0) FROM decisions", [], |row| row.get(0))
}

/// By their numbers: the index by user would be read as a whole.
pub(super) fn ends_query() -> String {
    format!(
        "SELECT {SHOWN}, uid FROM decisions NOT INDEXED
         WHERE id > ?3 AND id <= ?4 AND tenant = ?1 AND decided_at_ms >= ?2 AND executed AND outcomes IS NOT NULL
         ORDER BY id",
    )
}

/// With an id above the range's start, up to its end.
fn ends_within(db: &Connection, tenant: &TenantId, since: Timestamp, ids: Range<i64>) -> rusqlite::Result<Decided> {
    let mut rows = db.prepare_cached(&ends_query())?;
    let rows = rows.query_map(params![tenant.as_str(), since.as_millisecond(), ids.start, ids.end], |row| {
        Ok((row.get::<_, String>("uid")?, shown(row)?))
    })?;
    let rows: Vec<(String, Value)> = rows.collect::<rusqlite::Result<_>>()?;
    Ok(rows.into_iter().filter_map(|(uid, shown)| Some((UserId::parse(&uid).ok()?, shown))).collect())
}

/// The most sessions of a tenant that were ended within one hour of the clock, or users of whom something was held back
/// in one; 0 without any.
pub(super) fn busiest_hour(db: &Connection, tenant: &TenantId) -> rusqlite::Result<u64> {
    db.query_row(
        "SELECT ifnull(max(number), 0) FROM (
             SELECT sum(json_array_length(outcomes)) AS number FROM decisions
             WHERE tenant = ?1 AND executed AND outcomes IS NOT NULL GROUP BY decided_at_ms / 3600000
             UNION ALL
             SELECT count(DISTINCT uid) FROM decisions
             WHERE tenant = ?1 AND held IS NOT NULL GROUP BY decided_at_ms / 3600000)",
        [tenant.as_str()],
        |row| row.get(0),
    )
}
