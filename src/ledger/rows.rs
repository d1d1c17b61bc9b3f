//! Writing records: each into its row, and sealed into the chain in the same transaction.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::chain::{self, Chain, Head, IntentColumns, Kind, Whose};
use super::record::{StoredIntent, StoredOutcome};
use super::{Ended, Held, Intent};
use crate::model::SessionId;

/// Intents of one user that one listing closes.
const OPEN_CLOSED_MAX: i64 = 64;
const SALT_BYTES: usize = 16;

/// The end of the file as the writer knows it.
pub(super) struct Book {
    pub(super) chain: Chain,
    /// The number that the next decision gets.
    pub(super) next_id: i64,
    pub(super) keep_ip: bool,
}

/// Where a book was before a transaction, to go back there when it fails.
#[derive(Clone, Copy)]
pub(super) struct Place {
    head: Head,
    next_id: i64,
}

impl Book {
    pub(super) fn load(db: &Connection, chain: Chain, keep_ip: bool) -> rusqlite::Result<Self> {
        let next_id = db.query_row(
            "SELECT max((SELECT next FROM ids), (SELECT coalesce(max(id), 0) + 1 FROM decisions))",
            [],
            |row| row.get(0),
        )?;
        Ok(Self { chain, next_id, keep_ip })
    }

    pub(super) fn place(&self) -> Place {
        Place { head: self.chain.head, next_id: self.next_id }
    }

    pub(super) fn go_back(&mut self, to: Place) {
        (self.chain.head, self.next_id) = (to.head, to.next_id);
    }
}

/// A decision made here.
pub(super) fn intend(db: &Connection, book: &mut Book, intent: &Intent, now_ms: i64) -> rusqlite::Result<i64> {
    let failed = |error| rusqlite::Error::ToSqlConversionFailure(Box::new(error));
    let mut seen = intent.sessions.clone();
    if !book.keep_ip {
        for session in &mut seen {
            session.ip = None;
        }
    }
    let ended = intent.decision.revocations().map(|verdict| verdict.digest.session_id());
    let new = NewDecision {
        tenant: intent.tenant.as_str(),
        uid: intent.user.as_str(),
        record_id: None,
        decided_at_ms: now_ms,
        looked: intent.looked.as_str(),
        executed: intent.executed,
        held: intent.held.map(Held::as_str),
        decision: &serde_json::to_string(&intent.decision).map_err(failed)?,
        sessions: Some(&serde_json::to_string(&seen).map_err(failed)?),
        ended: &ended.collect::<Vec<_>>(),
        listed: intent.decision.complete.then(|| seen.iter().map(|session| session.session).collect()),
    };
    insert(db, book, &new)
}

/// A decision made elsewhere. Whichever half of a record comes first makes the row, the other one fills it up, and a
/// repeated one changes nothing.
pub(super) fn take_in_intent(db: &Connection, book: &mut Book, intent: &StoredIntent) -> rusqlite::Result<()> {
    let new = NewDecision {
        tenant: intent.tenant.as_str(),
        uid: intent.user.as_str(),
        record_id: Some(&intent.id),
        decided_at_ms: intent.decided_at_ms,
        looked: &intent.looked,
        executed: intent.executed,
        held: intent.held.as_deref(),
        decision: &intent.decision,
        sessions: intent.sessions.as_deref(),
        ended: &intent.ended,
        listed: intent.listed.clone(),
    };
    match row_of_record(db, &intent.id)? {
        None => insert(db, book, &new).map(drop),
        Some((id, None)) => fill_up(db, book, id, &new),
        Some((_, Some(_))) => Ok(()),
    }
}

/// What came of a decision made elsewhere. Without its intent it is shown as an unknown decision: what was ended is known
/// all the same.
pub(super) fn take_in_outcome(db: &Connection, book: &mut Book, outcome: &StoredOutcome) -> rusqlite::Result<()> {
    let known = row_of_record(db, &outcome.id)?.map(|(id, _)| id);
    let id = known.map_or_else(|| insert_without_intent(db, book, outcome), Ok)?;
    let is_open: bool = db
        .prepare_cached("SELECT outcomes IS NULL OR by_listing FROM decisions WHERE id = ?1")?
        .query_row([id], |row| row.get(0))?;
    if is_open { close(db, book, id, &outcome.outcomes, outcome.closed_at_ms, false) } else { Ok(()) }
}

fn insert_without_intent(db: &Connection, book: &mut Book, outcome: &StoredOutcome) -> rusqlite::Result<i64> {
    let id = book.next_id;
    db.prepare_cached(
        "INSERT INTO decisions (id, decided_at_ms, tenant, uid, looked, executed, decision, record_id, salt)
         VALUES (?1, ?2, ?3, ?4, 'unknown', TRUE, 'null', ?5, ?6)",
    )?
    .execute(params![
        id,
        outcome.closed_at_ms,
        outcome.tenant.as_str(),
        outcome.user.as_str(),
        outcome.id,
        salt()
    ])?;
    book.next_id = id + 1;
    note_ended(db, id, &outcome.ended)?;
    Ok(id)
}

/// What came of a decision. One that is no longer there has nothing to close.
pub(super) fn close(
    db: &Connection,
    book: &mut Book,
    id: i64,
    outcomes: &str,
    closed_at_ms: i64,
    by_listing: bool,
) -> rusqlite::Result<()> {
    let row = db
        .prepare_cached("SELECT tenant, uid, record_id, salt FROM decisions WHERE id = ?1")?
        .query_row([id], |row| {
            let text = |at| row.get::<_, Option<String>>(at);
            Ok((text(0)?, text(1)?, text(2)?, row.get::<_, Option<Vec<u8>>>(3)?))
        })
        .optional()?;
    let Some((tenant, uid, record_id, salt_of_row)) = row else { return Ok(()) };
    // A decision from before the chain has none.
    let salt = salt_of_row.unwrap_or_else(|| salt().to_vec());
    let whose = Whose {
        salt: &salt,
        tenant: tenant.as_deref().unwrap_or_default().as_bytes(),
        uid: uid.as_deref().unwrap_or_default().as_bytes(),
        record_id: record_id.as_deref().map(str::as_bytes),
    };
    let hash = chain::outcome_hash(whose, outcomes.as_bytes(), closed_at_ms);
    let seq = book.chain.append(db, Kind::Outcome, id, hash)?;
    db.prepare_cached(
        "UPDATE decisions SET outcomes = ?2, closed_at_ms = ?3, outcome_seq = ?4, by_listing = ?5, salt = ?6
         WHERE id = ?1",
    )?
    .execute(params![id, outcomes, closed_at_ms, seq, by_listing, salt])?;
    Ok(())
}

/// What a row is made of.
struct NewDecision<'a> {
    tenant: &'a str,
    uid: &'a str,
    record_id: Option<&'a str>,
    decided_at_ms: i64,
    looked: &'a str,
    executed: bool,
    held: Option<&'a str>,
    decision: &'a str,
    sessions: Option<&'a str>,
    /// The sessions that it ends, or would.
    ended: &'a [SessionId],
    /// All sessions that were listed, where none can be missing.
    listed: Option<Vec<SessionId>>,
}

impl NewDecision<'_> {
    fn hash(&self, salt: &[u8]) -> [u8; 32] {
        let whose = Whose {
            salt,
            tenant: self.tenant.as_bytes(),
            uid: self.uid.as_bytes(),
            record_id: self.record_id.map(str::as_bytes),
        };
        let columns = IntentColumns {
            decided_at_ms: self.decided_at_ms,
            looked: self.looked.as_bytes(),
            executed: self.executed,
            held: self.held.map(str::as_bytes),
            decision: self.decision.as_bytes(),
            sessions: self.sessions.map(str::as_bytes),
        };
        chain::intent_hash(whose, columns)
    }
}

fn insert(db: &Connection, book: &mut Book, new: &NewDecision<'_>) -> rusqlite::Result<i64> {
    let (id, salt) = (book.next_id, salt());
    close_open(db, book, new)?;
    let seq = book.chain.append(db, Kind::Intent, id, new.hash(&salt))?;
    db.prepare_cached(
        "INSERT INTO decisions
         (id, decided_at_ms, tenant, uid, looked, executed, held, decision, sessions, record_id, salt, intent_seq)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
    )?
    .execute(params![
        id,
        new.decided_at_ms,
        new.tenant,
        new.uid,
        new.looked,
        new.executed,
        new.held,
        new.decision,
        new.sessions,
        new.record_id,
        salt,
        seq
    ])?;
    book.next_id = id + 1;
    note_ended(db, id, new.ended)?;
    Ok(id)
}

/// Gives an outcome that came first its intent.
fn fill_up(db: &Connection, book: &mut Book, id: i64, new: &NewDecision<'_>) -> rusqlite::Result<()> {
    let salt: Option<Vec<u8>> =
        db.prepare_cached("SELECT salt FROM decisions WHERE id = ?1")?.query_row([id], |row| row.get(0))?;
    let salt = salt.unwrap_or_else(|| self::salt().to_vec());
    let seq = book.chain.append(db, Kind::Intent, id, new.hash(&salt))?;
    db.prepare_cached(
        "UPDATE decisions SET decided_at_ms = ?2, looked = ?3, executed = ?4, held = ?5, decision = ?6, sessions = ?7,
         salt = ?8, intent_seq = ?9 WHERE id = ?1",
    )?
    .execute(params![
        id,
        new.decided_at_ms,
        new.looked,
        new.executed,
        new.held,
        new.decision,
        new.sessions,
        salt,
        seq
    ])?;
    db.prepare_cached("DELETE FROM ended WHERE decision = ?1")?.execute([id])?;
    note_ended(db, id, new.ended)
}

/// The row of a record, and its intent's place in the chain where it has come.
fn row_of_record(db: &Connection, record_id: &str) -> rusqlite::Result<Option<(i64, Option<i64>)>> {
    // A row from before the chain has its intent, but no place.
    db.prepare_cached(
        "SELECT id, coalesce(intent_seq, CASE WHEN decision <> 'null' THEN 0 END) FROM decisions WHERE record_id = ?1",
    )?
    .query_row([record_id], |row| Ok((row.get(0)?, row.get(1)?)))
    .optional()
}

fn note_ended(db: &Connection, id: i64, sessions: &[SessionId]) -> rusqlite::Result<()> {
    for session in sessions {
        db.prepare_cached("INSERT INTO ended (decision, session) VALUES (?1, ?2)")?.execute(params![id, session.0])?;
    }
    Ok(())
}

/// Intents of this user that nobody has closed: whoever wrote them may have died before the outcome. What this listing no
/// longer shows is gone, the rest is not. Where somebody is only slow, the real outcome takes the place of this one.
fn close_open(db: &Connection, book: &mut Book, new: &NewDecision<'_>) -> rusqlite::Result<()> {
    let Some(listed) = &new.listed else { return Ok(()) };
    // Of what was decided here the order is known, whatever the clock has shown.
    let open: Vec<i64> = db
        .prepare_cached(
            "SELECT id FROM decisions WHERE tenant = ?1 AND uid = ?2 AND executed = 1 AND outcomes IS NULL
             AND (decided_at_ms <= ?3 OR (?4 AND record_id IS NULL)) LIMIT ?5",
        )?
        .query_map(params![new.tenant, new.uid, new.decided_at_ms, new.record_id.is_none(), OPEN_CLOSED_MAX], |row| {
            row.get(0)
        })?
        .collect::<rusqlite::Result<_>>()?;
    for id in open {
        let sessions: Vec<[u8; 16]> = db
            .prepare_cached("SELECT session FROM ended WHERE decision = ?1 ORDER BY rowid")?
            .query_map([id], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        let outcomes: Vec<super::Outcome> = sessions
            .into_iter()
            .map(|session| {
                let session = SessionId(session);
                let ended = if listed.contains(&session) { Ended::StillListed } else { Ended::GoneAtNextListing };
                super::Outcome { session, ended, reason: None }
            })
            .collect();
        let written = serde_json::to_string(&outcomes)
            .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
        close(db, book, id, &written, new.decided_at_ms, true)?;
    }
    Ok(())
}

fn salt() -> [u8; SALT_BYTES] {
    rand::random()
}
