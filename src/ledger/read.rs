//! What is read beside the writer, on connections of their own: exports, recorded views, the decisions about one user or
//! one session.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags, Row, params};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::model::{SessionId, TenantId, UserId};

/// How long a reading statement waits for a writer that is tidying up.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Lines that wait for whoever reads them.
const LINES_WAITING_MAX: usize = 256;
/// Decisions of one session that are shown at most; a look that is repeated may name it again and again.
const OF_SESSION_MAX: i64 = 100;

/// Lines of JSON, each with its line end. An error is the last one: what came before it is not all.
pub type JsonLines = mpsc::Receiver<anyhow::Result<String>>;

/// What of the ledger is exported.
#[derive(Clone, Debug, Default)]
pub struct ExportFilter {
    /// Decided at this time or later.
    pub since: Option<Timestamp>,
    pub tenant: Option<TenantId>,
    pub user: Option<UserId>,
}

pub(super) fn connect(path: &Path) -> anyhow::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags)?;
    db.busy_timeout(BUSY_TIMEOUT)?;
    Ok(db)
}

/// Gives away what `produce` writes, line by line, from a thread of its own.
pub(super) fn lines(
    path: std::path::PathBuf,
    produce: impl FnOnce(&Connection, &mut Sink) -> anyhow::Result<()> + Send + 'static,
) -> JsonLines {
    let (sender, lines) = mpsc::channel(LINES_WAITING_MAX);
    let mut sink = Sink { sender };
    // It ends with its last line, or when nobody reads the lines any more.
    tokio::task::spawn_blocking(move || {
        let produced = connect(&path).and_then(|db| produce(&db, &mut sink));
        if let Err(error) = produced {
            sink.sender.blocking_send(Err(error)).ok();
        }
    });
    lines
}

/// Where lines go.
pub(super) struct Sink {
    sender: mpsc::Sender<anyhow::Result<String>>,
}

impl Sink {
    /// False: nobody reads any more.
    fn line(&mut self, value: &Value) -> bool {
        self.sender.blocking_send(Ok(format!("{value}\n"))).is_ok()
    }
}

/// The columns that [`shown`] reads.
pub(super) const SHOWN: &str = "decided_at_ms, looked, executed, decision, outcomes, held, sessions, closed_at_ms";

/// A decision as people and other programs see it.
pub(super) fn shown(row: &Row<'_>) -> rusqlite::Result<Value> {
    let at = |ms: i64| Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH).to_string();
    Ok(json!({
        "decided_at": at(row.get(0)?),
        "looked": row.get::<_, String>(1)?,
        "executed": row.get::<_, bool>(2)?,
        "decision": json_of(row.get(3)?),
        "outcomes": json_of(row.get(4)?),
        "held": row.get::<_, Option<String>>(5)?,
        "sessions": json_of(row.get(6)?),
        "closed_at": row.get::<_, Option<i64>>(7)?.map(at),
    }))
}

fn json_of(text: Option<String>) -> Option<Value> {
    text.and_then(|text| serde_json::from_str(&text).ok())
}

pub(super) const RECENT: &str = "WHERE tenant = ?1 AND uid = ?2 ORDER BY decided_at_ms DESC, id DESC LIMIT ?3";
// The plus keeps SQLite from going through all decisions of the tenant.
pub(super) const BY_SESSION: &str = "WHERE +tenant = ?1 AND id IN (SELECT decision FROM ended WHERE session = ?2)
    ORDER BY decided_at_ms DESC, id DESC LIMIT ?3";

/// The last decisions about a user, newest first.
pub(super) fn recent(db: &Connection, tenant: &TenantId, user: &UserId, limit: usize) -> rusqlite::Result<Vec<Value>> {
    db.prepare_cached(&format!("SELECT {SHOWN} FROM decisions {RECENT}"))?
        .query_map(params![tenant.as_str(), user.as_str(), limit], shown)?
        .collect()
}

/// The decisions that ended a session or would have, newest first, each with its user.
pub(super) fn by_session(db: &Connection, tenant: &TenantId, session: SessionId) -> rusqlite::Result<Vec<Value>> {
    db.prepare_cached(&format!("SELECT {SHOWN}, uid FROM decisions {BY_SESSION}"))?
        .query_map(params![tenant.as_str(), session.0, OF_SESSION_MAX], |row| {
            let mut decided = shown(row)?;
            if let Some(fields) = decided.as_object_mut() {
                fields.insert("uid".to_owned(), row.get::<_, String>(8)?.into());
            }
            Ok(decided)
        })?
        .collect()
}

/// Every decision that the filter lets through, in the order they were recorded.
pub(super) fn export(db: &Connection, filter: &ExportFilter, to: &mut Sink) -> anyhow::Result<()> {
    // One user's go by their index.
    let narrow = match (&filter.tenant, &filter.user) {
        (Some(_), Some(_)) => "AND tenant = ?2 AND uid = ?3",
        _ => "AND (?2 IS NULL OR tenant = ?2) AND (?3 IS NULL OR uid = ?3)",
    };
    let mut all = db.prepare(&format!(
        "SELECT {SHOWN}, id, tenant, uid, record_id, intent_seq, outcome_seq FROM decisions
         WHERE decided_at_ms >= ?1 {narrow} ORDER BY id"
    ))?;
    let since = filter.since.map_or(i64::MIN, Timestamp::as_millisecond);
    let (tenant, user) = (filter.tenant.as_ref().map(TenantId::as_str), filter.user.as_ref().map(UserId::as_str));
    let mut rows = all.query(params![since, tenant, user])?;
    while let Some(row) = rows.next()? {
        let mut line = shown(row)?;
        if let Some(fields) = line.as_object_mut() {
            fields.insert("id".to_owned(), row.get::<_, i64>(8)?.into());
            fields.insert("tenant".to_owned(), row.get::<_, String>(9)?.into());
            fields.insert("uid".to_owned(), row.get::<_, String>(10)?.into());
            fields.insert("record_id".to_owned(), row.get::<_, Option<String>>(11)?.into());
            let chain = json!({ "intent": row.get::<_, Option<i64>>(12)?, "outcome": row.get::<_, Option<i64>>(13)? });
            fields.insert("chain".to_owned(), chain);
        }
        if !to.line(&line) {
            break;
        }
    }
    Ok(())
}

/// The first user behind another one, and the newest recorded view of a user: two steps on one index.
const NEXT_USER: &str = "SELECT tenant, uid FROM decisions WHERE (tenant, uid) > (?1, ?2) ORDER BY tenant, uid LIMIT 1";
const NEWEST_VIEW: &str = "SELECT decided_at_ms, decision, sessions, outcomes FROM decisions
    WHERE tenant = ?1 AND uid = ?2 AND sessions IS NOT NULL ORDER BY decided_at_ms DESC, id DESC LIMIT 1";

/// Each user's newest recorded view, without the sessions that were ended since.
pub(super) fn views(db: &Connection, tenant: Option<&TenantId>, to: &mut Sink) -> anyhow::Result<()> {
    let mut at = (tenant.map(|tenant| tenant.as_str().to_owned()).unwrap_or_default(), String::new());
    let mut next = db.prepare(NEXT_USER)?;
    let mut newest = db.prepare(NEWEST_VIEW)?;
    loop {
        let mut rows = next.query([&at.0, &at.1])?;
        let Some(row) = rows.next()? else { return Ok(()) };
        at = (row.get(0)?, row.get(1)?);
        if tenant.is_some_and(|tenant| tenant.as_str() != at.0) {
            return Ok(());
        }
        let mut views = newest.query([&at.0, &at.1])?;
        let Some(row) = views.next()? else { continue };
        let view = view(&at, row)?;
        if !to.line(&view) {
            return Ok(());
        }
    }
}

fn view((tenant, uid): &(String, String), row: &Row<'_>) -> rusqlite::Result<Value> {
    let decision = json_of(row.get(1)?).unwrap_or_default();
    let sessions = json_of(row.get(2)?).unwrap_or_default();
    let outcomes = json_of(row.get(3)?).unwrap_or_default();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let is_gone = |session: &Value| {
        list(&outcomes).iter().any(|outcome| {
            let ended = outcome.get("ended").and_then(Value::as_str).unwrap_or_default();
            outcome.get("session") == session.get("session") && !matches!(ended, "failed" | "still_listed")
        })
    };
    let left: Vec<Value> = list(&sessions).into_iter().filter(|session| !is_gone(session)).collect();
    let verdicts = decision.get("verdicts").map(list).unwrap_or_default();
    let of_action = |action: &str| -> Vec<Value> {
        let of_it = verdicts.iter().filter(|verdict| verdict.get("action").and_then(Value::as_str) == Some(action));
        of_it.filter_map(|verdict| verdict.get("session").cloned()).collect()
    };
    let at = Timestamp::from_millisecond(row.get(0)?).unwrap_or(Timestamp::UNIX_EPOCH);
    Ok(json!({
        "tenant": tenant,
        "uid": uid,
        "decided_at": at.to_string(),
        "complete": decision.get("complete").and_then(Value::as_bool).unwrap_or(false),
        "sessions": left,
        "pinned": of_action("pinned"),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::schema::FORMAT;

    /// How SQLite goes about a statement, in its words.
    fn plan(statement: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let db = crate::sqlite::open(&folder.path().join("ledger.db"), &FORMAT).unwrap();
        let mut plan = db.prepare(&format!("EXPLAIN QUERY PLAN {statement}")).unwrap();
        let parameters = vec![1_i64; plan.parameter_count()];
        let steps = plan.query_map(rusqlite::params_from_iter(parameters), |row| row.get::<_, String>(3)).unwrap();
        steps.map(Result::unwrap).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_user_and_a_session_are_found_by_an_index() {
        let of_user = plan(&format!("SELECT {SHOWN} FROM decisions {RECENT}"));
        assert!(of_user.contains("USING INDEX decisions_of_user (tenant=? AND uid=?)"), "{of_user}");
        let of_session = plan(&format!("SELECT {SHOWN} FROM decisions {BY_SESSION}"));
        assert!(of_session.contains("INDEX ended_of_session (session=?)"), "{of_session}");
        assert!(of_session.contains("USING INTEGER PRIMARY KEY (rowid=?)"), "{of_session}");
        for statement in [NEXT_USER, NEWEST_VIEW] {
            let plan = plan(statement);
            assert!(plan.contains("INDEX decisions_of_user") && !plan.contains("SCAN"), "{plan}");
        }
    }

    #[test]
    fn a_step_of_ends_reads_that_step_alone() {
        let plan = plan(&super::super::held::ends_query());
        assert!(plan.contains("USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)") && !plan.contains("TEMP"), "{plan}");
    }
}
