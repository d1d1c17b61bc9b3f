//! Whom a decision would have ended a session of, had nothing held it back; and whose sessions were ended lately.

use jiff::Timestamp;
use rusqlite::{Connection, params};
use serde_json::Value;

use super::read::{SHOWN, shown};
use crate::model::{TenantId, UserId};

/// Users that one answer names, and decisions that one answer looks at.
const USERS_MAX: u32 = 1_000_000;
const ENDS_MAX: u32 = 100_000;

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
pub(super) fn ends(db: &Connection, tenant: &TenantId, since: Timestamp) -> rusqlite::Result<Vec<(UserId, Value)>> {
    let mut rows = db.prepare_cached(&format!(
        "SELECT {SHOWN}, uid FROM decisions
         WHERE id > (SELECT ifnull(max(id), 0) FROM decisions) - ?3
           AND tenant = ?1 AND decided_at_ms >= ?2 AND executed AND outcomes IS NOT NULL
         ORDER BY id",
    ))?;
    let rows = rows.query_map(params![tenant.as_str(), since.as_millisecond(), ENDS_MAX], |row| {
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
