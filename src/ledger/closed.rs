//! What was closed behind a place in the chain. Each closing adds to the chain, whenever its decision was made and however
//! late its record has come: so whoever reads on from where they stopped misses none.

use anyhow::Context as _;
use rusqlite::{Connection, OptionalExtension as _, params};
use serde_json::Value;
use tokio::sync::watch;

use super::SqliteLedger;
use super::chain::Kind;
use super::read::{self, SHOWN, shown};
use crate::model::{TenantId, UserId};

/// Closings that one answer looks at.
const AT_ONCE_MAX: i64 = 500;

/// A decision that was executed, with what came of it.
#[derive(Clone, Debug)]
pub struct ClosedDecision {
    pub tenant: TenantId,
    pub user: UserId,
    /// As [`Ledger::recent`](super::Ledger::recent) shows it.
    pub decision: Value,
}

/// What was closed behind a place, in the order in which it was.
#[derive(Clone, Debug)]
pub struct ClosedSince {
    pub closed: Vec<ClosedDecision>,
    /// Where to read on.
    pub next: i64,
    /// Whether there is more already.
    pub more: bool,
}

impl SqliteLedger {
    /// The end of the chain as it was last written: it changes whenever something was closed, and with other records.
    pub fn ends(&self) -> watch::Receiver<i64> {
        self.ends.subscribe()
    }

    /// What was closed behind a place in the chain, read beside the writer. A place behind the end is one of an older
    /// ledger: then it is read from the beginning.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn closed_since(&self, place: i64) -> anyhow::Result<ClosedSince> {
        let path = self.path().to_owned();
        let read = tokio::task::spawn_blocking(move || closed_since(&read::connect(&path)?, place));
        read.await?.context("the ledger cannot be read")
    }
}

fn closed_since(db: &Connection, place: i64) -> anyhow::Result<ClosedSince> {
    let db = db.unchecked_transaction()?;
    let end: i64 = db.query_row("SELECT ifnull(max(seq), 0) FROM chain", [], |row| row.get(0))?;
    let place = if place > end { 0 } else { place };
    let closings: Vec<(i64, i64)> = db
        .prepare_cached("SELECT seq, decision FROM chain WHERE seq > ?1 AND kind = ?2 ORDER BY seq LIMIT ?3")?
        .query_map(params![place, Kind::Outcome.byte(), AT_ONCE_MAX], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let last = closings.last().map(|(seq, _)| *seq);
    let more = i64::try_from(closings.len()).unwrap_or(i64::MAX) >= AT_ONCE_MAX;
    let mut closed = Vec::new();
    for (_, id) in closings {
        let row = db
            .prepare_cached(&format!(
                "SELECT {SHOWN}, tenant, uid FROM decisions WHERE id = ?1 AND executed AND outcomes IS NOT NULL"
            ))?
            .query_row([id], |row| Ok((row.get::<_, String>("tenant")?, row.get::<_, String>("uid")?, shown(row)?)))
            .optional()?;
        // One that was forgotten meanwhile is nobody's any more.
        let Some((tenant, uid, decision)) = row else { continue };
        if let (Ok(tenant), Ok(user)) = (TenantId::parse(&tenant), UserId::parse(&uid)) {
            closed.push(ClosedDecision { tenant, user, decision });
        }
    }
    Ok(ClosedSince { closed, next: last.filter(|_| more).unwrap_or(end), more })
}
