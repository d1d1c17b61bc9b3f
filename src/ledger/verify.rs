//! Whether the chain and the records still fit: what was changed, removed, added or moved, by number.

use rusqlite::Connection;
use rusqlite::types::ValueRef;
use serde::Serialize;

use super::chain::{self, Entry, Head, IntentColumns, Key, Kind, NO_SEAL, Whose};

/// Problems that are told one by one; the others are only counted.
const PROBLEMS_TOLD_MAX: usize = 20;

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Verified {
    /// Decisions in the ledger.
    pub decisions: u64,
    /// Of them, those from before there was a chain: nothing can be said of them.
    pub before_chain: u64,
    /// Entries of the chain.
    pub entries: u64,
    /// Decisions that were deleted because their user was to be forgotten.
    pub forgotten: u64,
    /// Decisions up to this number were removed by age, number or size; 0 for none.
    pub removed_through: i64,
    /// `SEQ:MAC` of the last entry.
    pub head: String,
    /// What does not fit, the first ones.
    pub problems: Vec<String>,
    /// How many there are.
    pub problem_count: u64,
}

impl Verified {
    fn problem(&mut self, text: String) {
        self.problem_count += 1;
        if self.problems.len() < PROBLEMS_TOLD_MAX {
            self.problems.push(text);
        }
    }
}

/// Checks everything, in one reading transaction. With `head`, also whether the chain still has that entry.
pub(super) fn verify(db: &mut Connection, key: &Key, head: Option<Head>) -> rusqlite::Result<Verified> {
    let db = db.transaction()?;
    let mut found = Verified::default();
    check_file(&db, &mut found)?;
    let bounds = Bounds::read(&db)?;
    found.removed_through = bounds.removed_through;
    check_chain(&db, key, &bounds, &mut found)?;
    check_rows(&db, &bounds, &mut found)?;
    if let Some(head) = head {
        check_head(&db, head, &mut found)?;
    }
    Ok(found)
}

/// Damage below the level of records.
fn check_file(db: &Connection, found: &mut Verified) -> rusqlite::Result<()> {
    let mut pragma = db.prepare(&format!("PRAGMA integrity_check({PROBLEMS_TOLD_MAX})"))?;
    let mut rows = pragma.query([])?;
    while let Some(row) = rows.next()? {
        let text: String = row.get(0)?;
        if text != "ok" {
            found.problem(format!("the file is damaged: {text}"));
        }
    }
    Ok(())
}

/// What the chain says of its own beginning.
struct Bounds {
    /// Decisions up to this one may lack entries: they are from before the chain.
    before_chain: i64,
    /// Decisions up to this one may be gone.
    removed_through: i64,
    /// The newest anchor.
    anchor: Option<i64>,
}

impl Bounds {
    fn read(db: &Connection) -> rusqlite::Result<Self> {
        let of_kind = |kind: Kind| {
            let newest = "SELECT seq, decision FROM chain WHERE kind = ?1 ORDER BY seq DESC LIMIT 1";
            let mut found = db.prepare(newest)?;
            let mut rows = found.query([kind.byte()])?;
            let row = rows.next()?;
            row.map(|row| Ok::<_, rusqlite::Error>((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))).transpose()
        };
        let anchor = of_kind(Kind::Anchor)?;
        Ok(Self {
            before_chain: of_kind(Kind::Begin)?.map_or(0, |(_, decision)| decision),
            removed_through: anchor.map_or(0, |(_, decision)| decision),
            anchor: anchor.map(|(seq, _)| seq),
        })
    }
}

const CHAIN: &str = "
SELECT c.seq, c.decision, c.kind, c.hash, c.mac,
    d.id, d.tenant, d.uid, d.record_id, d.salt, d.intent_seq, d.outcome_seq,
    d.decided_at_ms, d.looked, d.executed, d.held, d.decision, d.sessions, d.outcomes, d.closed_at_ms
FROM chain AS c LEFT JOIN decisions AS d ON d.id = c.decision ORDER BY c.seq";

fn check_chain(db: &Connection, key: &Key, bounds: &Bounds, found: &mut Verified) -> rusqlite::Result<()> {
    let mut chain = db.prepare(CHAIN)?;
    let mut rows = chain.query([])?;
    let mut before = Head::NONE;
    let mut base = Head::NONE;
    // A forgotten decision's older entries come before its tombstone, so they wait for it here.
    let mut missing = std::collections::BTreeMap::new();
    while let Some(row) = rows.next()? {
        found.entries += 1;
        let seq: i64 = row.get(0)?;
        let (Some(entry), Some(mac)) = (read_entry(row)?, bytes_of(row.get_ref(4)?)) else {
            found.problem(format!("entry {seq} of the chain cannot be read: it was changed"));
            continue;
        };
        let is_first = before == Head::NONE;
        if entry.kind == Kind::Base && is_first {
            (before, base) = (Head { seq, mac }, Head { seq, mac });
            if entry != (Entry { seq, kind: Kind::Base, decision: 0, hash: [0; 32] }) {
                found.problem(format!("entry {seq}, at which the chain begins, was changed"));
            }
            continue;
        }
        if seq != before.seq + 1 {
            let gone = format!("entries {} to {} of the chain were removed", before.seq + 1, seq - 1);
            found.problem(gone);
        } else if key.seal(&before.mac, &entry) != mac {
            let whose = "was changed, added or moved, or the key is not the one that it was sealed with";
            found.problem(format!("entry {seq} of the chain {whose}"));
        }
        before = Head { seq, mac };
        check_entry(row, &entry, bounds, base, &mut missing, found)?;
    }
    found.head = before.to_string();
    for (decision, seq) in missing {
        found.problem(format!("decision {decision} was removed (entry {seq} of the chain is about it)"));
    }
    if before.mac == NO_SEAL {
        found.problem("there is no chain: all of it was removed".to_owned());
    }
    if bounds.anchor.is_none() && base != Head::NONE {
        found.problem(format!("all before entry {} was removed, and no anchor says so", base.seq));
    }
    Ok(())
}

/// Whether an entry is about what its record says.
fn check_entry(
    row: &rusqlite::Row<'_>,
    entry: &Entry,
    bounds: &Bounds,
    base: Head,
    missing: &mut std::collections::BTreeMap<i64, i64>,
    found: &mut Verified,
) -> rusqlite::Result<()> {
    let Entry { seq, kind, decision, hash } = *entry;
    let is_there = row.get::<_, Option<i64>>(5)?.is_some();
    match kind {
        Kind::Begin if hash != chain::mark(kind, decision).finish() || seq != 1 => {
            found.problem(format!("entry {seq}, at which the chain begins, was changed"));
        }
        Kind::Base => found.problem(format!("entry {seq} of the chain was changed")),
        Kind::Anchor if bounds.anchor == Some(seq) && hash != chain::anchor_hash(decision, base) => {
            found.problem(format!("more was removed than the anchor at entry {seq} says"));
        }
        Kind::Begin | Kind::Anchor => {}
        Kind::Forgotten => {
            found.forgotten += 1;
            missing.remove(&decision);
            if is_there || hash != chain::mark(kind, decision).finish() {
                found.problem(format!("decision {decision} was forgotten, and is there again"));
            }
        }
        Kind::Intent | Kind::Outcome if !is_there => {
            if decision > bounds.removed_through {
                missing.entry(decision).or_insert(seq);
            }
        }
        Kind::Intent => {
            if row.get::<_, Option<i64>>(10)? != Some(seq) || intent_hash(row)? != Some(hash) {
                found.problem(format!("decision {decision} was changed"));
            }
        }
        // An outcome that was concluded from a listing may have been replaced by the real one.
        Kind::Outcome => match row.get::<_, Option<i64>>(11)? {
            Some(of_row) if of_row > seq => {}
            Some(of_row) if of_row == seq && outcome_hash(row)? == Some(hash) => {}
            _ => found.problem(format!("what came of decision {decision} was changed")),
        },
    }
    Ok(())
}

fn read_entry(row: &rusqlite::Row<'_>) -> rusqlite::Result<Option<Entry>> {
    let (kind, hash) = (Kind::of(row.get(2)?), bytes_of(row.get_ref(3)?));
    let (seq, decision) = (row.get(0)?, row.get(1)?);
    Ok(kind.zip(hash).map(|(kind, hash)| Entry { seq, kind, decision, hash }))
}

fn bytes_of(value: ValueRef<'_>) -> Option<[u8; 32]> {
    value.as_blob().ok()?.try_into().ok()
}

/// The bytes of a column as they are stored, whether they are still text or not.
fn stored<'a>(row: &'a rusqlite::Row<'_>, at: usize) -> rusqlite::Result<Option<&'a [u8]>> {
    Ok(match row.get_ref(at)? {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Some(bytes),
        _ => None,
    })
}

fn whose<'a>(row: &'a rusqlite::Row<'_>) -> rusqlite::Result<Option<Whose<'a>>> {
    let (salt, tenant, uid) = (stored(row, 9)?, stored(row, 6)?, stored(row, 7)?);
    let record_id = stored(row, 8)?;
    let all = salt.zip(tenant).zip(uid);
    Ok(all.map(|((salt, tenant), uid)| Whose { salt, tenant, uid, record_id }))
}

fn intent_hash(row: &rusqlite::Row<'_>) -> rusqlite::Result<Option<[u8; 32]>> {
    let (Some(whose), Some(looked), Some(decision)) = (whose(row)?, stored(row, 13)?, stored(row, 16)?) else {
        return Ok(None);
    };
    let executed: i64 = row.get(14)?;
    if executed != i64::from(executed == 1) {
        return Ok(None);
    }
    let columns = IntentColumns {
        decided_at_ms: row.get(12)?,
        looked,
        executed: executed == 1,
        held: stored(row, 15)?,
        decision,
        sessions: stored(row, 17)?,
    };
    Ok(Some(chain::intent_hash(whose, columns)))
}

fn outcome_hash(row: &rusqlite::Row<'_>) -> rusqlite::Result<Option<[u8; 32]>> {
    let closed_at_ms: Option<i64> = row.get(19)?;
    let parts = whose(row)?.zip(stored(row, 18)?).zip(closed_at_ms);
    Ok(parts.map(|((whose, outcomes), closed_at_ms)| chain::outcome_hash(whose, outcomes, closed_at_ms)))
}

/// A row whose entries are not there, or are about something else, was added or changed.
const ROWS: &str = "
SELECT d.id,
    i.seq IS NOT NULL, d.intent_seq IS NOT NULL,
    o.seq IS NOT NULL, d.outcomes IS NOT NULL,
    d.looked = 'unknown' AND d.executed = 1 AND d.decision = 'null' AND d.sessions IS NULL AND d.held IS NULL
FROM decisions AS d
LEFT JOIN chain AS i ON i.seq = d.intent_seq AND i.kind = 1 AND i.decision = d.id
LEFT JOIN chain AS o ON o.seq = d.outcome_seq AND o.kind = 2 AND o.decision = d.id
ORDER BY d.id";

fn check_rows(db: &Connection, bounds: &Bounds, found: &mut Verified) -> rusqlite::Result<()> {
    let mut decisions = db.prepare(ROWS)?;
    let mut rows = decisions.query([])?;
    while let Some(row) = rows.next()? {
        found.decisions += 1;
        let id: i64 = row.get(0)?;
        let (has_intent, names_intent): (bool, bool) = (row.get(1)?, row.get(2)?);
        let (has_outcome, has_outcomes): (bool, bool) = (row.get(3)?, row.get(4)?);
        let is_old = id <= bounds.before_chain && !names_intent;
        found.before_chain += u64::from(is_old);
        let awaits_intent = has_outcome && !names_intent && row.get::<_, Option<bool>>(5)? == Some(true);
        if id <= bounds.removed_through || !(has_intent || is_old || awaits_intent) {
            found.problem(format!("decision {id} was added"));
        } else if has_outcomes != has_outcome && !is_old {
            found.problem(format!("what came of decision {id} was changed"));
        }
    }
    Ok(())
}

fn check_head(db: &Connection, head: Head, found: &mut Verified) -> rusqlite::Result<()> {
    let mut entry = db.prepare("SELECT mac FROM chain WHERE seq = ?1")?;
    let mut rows = entry.query([head.seq])?;
    let (first, last): (Option<i64>, Option<i64>) =
        db.query_row("SELECT min(seq), max(seq) FROM chain", [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    match rows.next()?.map(|row| row.get_ref(0)).transpose()?.map(bytes_of) {
        Some(mac) if mac == Some(head.mac) => {}
        Some(_) => found.problem(format!("entry {} is not the one of this head: the chain was rewritten", head.seq)),
        None if last.is_none_or(|last| last < head.seq) => {
            let ends = last.unwrap_or(0);
            found.problem(format!("the chain ends at entry {ends}, before this head: its end was removed"));
        }
        None if first.is_some_and(|first| head.seq < first) => {
            let first = first.unwrap_or(0);
            found.problem(format!(
                "this head is older than what is kept, which begins at entry {first}: give a newer one"
            ));
        }
        None => found.problem(format!("entry {} of the chain was removed", head.seq)),
    }
    Ok(())
}
