//! Records: what a worker without a ledger of its own sends, written from a decision and read strictly, field by field.
//!
//! A record is stored as it was understood, never as it came: no field that we do not know and no word that could be a
//! token gets past [`read`].

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};
use uuid::Uuid;

use super::users::SeenUser;
use super::{Held, Intent, Outcome, SeenSession, seen};
use crate::model::{SessionId, TenantId, UserId};
use crate::policy::{Action, Decision, Witnesses};

/// The largest record, well below the 16 MiB that a broker takes.
const BYTES_MAX: usize = 4 << 20;

/// Bytes that are no record of ours. The text quotes nothing of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the record {problem}")]
pub struct BadRecord {
    problem: &'static str,
}

/// A record as it goes into the file.
pub(super) enum Record {
    Intent(StoredIntent),
    Outcome(StoredOutcome),
    Seen(SeenUser),
}

pub(super) struct StoredIntent {
    pub(super) id: String,
    pub(super) tenant: TenantId,
    pub(super) user: UserId,
    pub(super) looked: String,
    pub(super) executed: bool,
    pub(super) decided_at_ms: i64,
    pub(super) decision: String,
    /// A JSON list of what [`SeenSession`] writes.
    pub(super) sessions: Option<String>,
    pub(super) held: Option<String>,
    /// The sessions that it ends, or would.
    pub(super) ended: Vec<SessionId>,
    /// All sessions that were listed, where none can be missing.
    pub(super) listed: Option<Vec<SessionId>>,
}

pub(super) struct StoredOutcome {
    pub(super) id: String,
    pub(super) tenant: TenantId,
    pub(super) user: UserId,
    pub(super) closed_at_ms: i64,
    pub(super) outcomes: String,
    pub(super) ended: Vec<SessionId>,
}

/// Writes an intent, without its sessions and its witnesses where they are too many to send.
pub(super) fn intent(id: Uuid, intent: &Intent, decided_at: Timestamp) -> serde_json::Result<Vec<u8>> {
    let written = |decision: &Decision, sessions: Option<&[SeenSession]>| {
        serde_json::to_vec(&WrittenIntent {
            id: id.to_string(),
            tenant: intent.tenant.as_str(),
            uid: intent.user.as_str(),
            looked: intent.looked.as_str(),
            executed: intent.executed,
            decided_at,
            decision,
            sessions,
            held: intent.held.map(Held::as_str),
        })
    };
    let whole = written(&intent.decision, Some(&intent.sessions))?;
    if whole.len() <= BYTES_MAX {
        return Ok(whole);
    }
    let mut decision = intent.decision.clone();
    for verdict in &mut decision.verdicts {
        verdict.witnesses = Witnesses::default();
    }
    written(&decision, None)
}

/// Writes what came of an intent.
pub(super) fn outcome(
    id: Uuid,
    tenant: &TenantId,
    user: &UserId,
    outcomes: &[Outcome],
    closed_at: Timestamp,
) -> serde_json::Result<Vec<u8>> {
    let (tenant, uid) = (tenant.as_str(), user.as_str());
    serde_json::to_vec(&WrittenOutcome { id: id.to_string(), tenant, uid, closed_at, outcomes })
}

/// Writes that a user was seen.
pub(super) fn seen(seen: &SeenUser) -> serde_json::Result<Vec<u8>> {
    let seen_at = Timestamp::from_millisecond(seen.at_ms).unwrap_or(Timestamp::UNIX_EPOCH);
    serde_json::to_vec(&WrittenSeen {
        tenant: seen.tenant.as_str(),
        uid: seen.user.as_str(),
        seen_at,
        listed: seen.listed,
    })
}

/// Reads a record, or says what is wrong with it. Addresses are left out unless they are to be kept.
pub(super) fn read(raw: &[u8], keep_ip: bool) -> Result<Record, BadRecord> {
    let bad = |problem| BadRecord { problem };
    if raw.len() > BYTES_MAX {
        return Err(bad("is larger than any of ours"));
    }
    let as_problem = |error: serde_json::Error| bad(if error.is_data() { "is not of our form" } else { "is not JSON" });
    let stored = match serde_json::from_slice(raw).map_err(as_problem)? {
        ReadRecord::Intent(read) => stored_intent(*read, keep_ip).map(Record::Intent),
        ReadRecord::Outcome(read) => stored_outcome(read).map(Record::Outcome),
        ReadRecord::Seen(read) => Ok(Record::Seen(SeenUser {
            tenant: read.tenant,
            user: read.uid,
            at_ms: read.seen_at.as_millisecond(),
            listed: read.listed,
        })),
    };
    stored.map_err(|_error| bad("cannot be written again"))
}

fn stored_intent(mut read: ReadIntent, keep_ip: bool) -> serde_json::Result<StoredIntent> {
    if !keep_ip {
        for session in read.sessions.iter_mut().flatten() {
            session.ip = None;
        }
    }
    let revoked = read.decision.verdicts.iter().filter(|verdict| verdict.action.0 == Action::Revoke.as_str());
    let complete = read.sessions.as_ref().filter(|_| read.decision.complete);
    Ok(StoredIntent {
        // Oldest login first, as they are ended.
        ended: revoked.rev().filter_map(|verdict| verdict.session.id()).collect(),
        listed: complete.map(|sessions| sessions.iter().filter_map(|seen| seen.session.id()).collect()),
        decision: serde_json::to_string(&read.decision)?,
        id: read.id.to_string(),
        tenant: read.tenant,
        user: read.uid,
        looked: read.looked.0,
        executed: read.executed,
        decided_at_ms: read.decided_at.as_millisecond(),
        sessions: read.sessions.map(|seen| serde_json::to_string(&seen)).transpose()?,
        held: read.held.map(|held| held.0),
    })
}

fn stored_outcome(read: ReadOutcome) -> serde_json::Result<StoredOutcome> {
    Ok(StoredOutcome {
        ended: read.outcomes.iter().filter_map(|end| end.session.id()).collect(),
        outcomes: serde_json::to_string(&read.outcomes)?,
        id: read.id.to_string(),
        tenant: read.tenant,
        user: read.uid,
        closed_at_ms: read.closed_at.as_millisecond(),
    })
}

#[derive(Serialize)]
#[serde(tag = "record", rename = "intent")]
struct WrittenIntent<'a> {
    id: String,
    tenant: &'a str,
    uid: &'a str,
    looked: &'a str,
    executed: bool,
    decided_at: Timestamp,
    decision: &'a Decision,
    sessions: Option<&'a [SeenSession]>,
    held: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(tag = "record", rename = "outcome")]
struct WrittenOutcome<'a> {
    id: String,
    tenant: &'a str,
    uid: &'a str,
    closed_at: Timestamp,
    outcomes: &'a [Outcome],
}

#[derive(Serialize)]
#[serde(tag = "record", rename = "seen")]
struct WrittenSeen<'a> {
    tenant: &'a str,
    uid: &'a str,
    seen_at: Timestamp,
    listed: bool,
}

#[derive(Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
enum ReadRecord {
    Intent(Box<ReadIntent>),
    Outcome(ReadOutcome),
    Seen(ReadSeenUser),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReadIntent {
    #[serde(deserialize_with = "uuid")]
    id: Uuid,
    #[serde(deserialize_with = "tenant")]
    tenant: TenantId,
    #[serde(deserialize_with = "user")]
    uid: UserId,
    looked: Words,
    executed: bool,
    decided_at: Timestamp,
    decision: ReadDecision,
    /// Older workers send neither.
    sessions: Option<Vec<ReadSeen>>,
    held: Option<Words>,
}

/// What [`SeenSession`] writes.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct ReadSeen {
    session: Hex<32>,
    login_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    device_type: Option<Word>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    device: Option<Word>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    os: Option<Word>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    browser: Option<Word>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    city: Option<Word>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    country: Option<Word>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ip: Option<Word>,
}

/// A word of the listing, as [`SeenSession`] keeps it.
#[derive(Deserialize, Serialize)]
#[serde(from = "String")]
struct Word(String);

impl From<String> for Word {
    fn from(raw: String) -> Self {
        Self(seen::clean(&raw))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReadOutcome {
    #[serde(deserialize_with = "uuid")]
    id: Uuid,
    #[serde(deserialize_with = "tenant")]
    tenant: TenantId,
    #[serde(deserialize_with = "user")]
    uid: UserId,
    closed_at: Timestamp,
    outcomes: Vec<ReadEnd>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReadSeenUser {
    #[serde(deserialize_with = "tenant")]
    tenant: TenantId,
    #[serde(deserialize_with = "user")]
    uid: UserId,
    seen_at: Timestamp,
    listed: bool,
}

/// What [`Decision`] writes, field by field in its order.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct ReadDecision {
    id: Hex<64>,
    policy: ReadPolicy,
    mode: Words,
    complete: bool,
    verdicts: Vec<ReadVerdict>,
    refused: Option<Words>,
    surplus_unresolved: u64,
    recheck_after: Option<u64>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct ReadPolicy {
    /// As somebody wrote it into the configuration: the one free text.
    name: String,
    version: Hex<64>,
    source: Words,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct ReadVerdict {
    session: Hex<32>,
    action: Words,
    reason: Option<Words>,
    witnesses: Vec<Hex<32>>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct ReadEnd {
    session: Hex<32>,
    ended: Words,
    reason: Option<Words>,
}

/// A word of ours or a sentence of them. Those of a newer worker pass; without digits and capitals no token does.
#[derive(Deserialize, Serialize)]
#[serde(try_from = "String")]
struct Words(String);

impl TryFrom<String> for Words {
    type Error = &'static str;

    fn try_from(raw: String) -> Result<Self, Self::Error> {
        const BYTES_MAX: usize = 200;
        let follows = |c: u8| c.is_ascii_lowercase() || matches!(c, b'_' | b' ' | b',');
        let good = !raw.is_empty() && raw.len() <= BYTES_MAX && raw.bytes().all(follows);
        if good { Ok(Self(raw)) } else { Err("not a word of ours") }
    }
}

/// The lower-case hex digits of an id.
#[derive(Deserialize, Serialize)]
#[serde(try_from = "String")]
struct Hex<const DIGITS: usize>(String);

impl<const DIGITS: usize> TryFrom<String> for Hex<DIGITS> {
    type Error = &'static str;

    fn try_from(raw: String) -> Result<Self, Self::Error> {
        let good = raw.len() == DIGITS && raw.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
        if good { Ok(Self(raw)) } else { Err("not an id") }
    }
}

impl Hex<32> {
    fn id(&self) -> Option<SessionId> {
        SessionId::parse(&self.0).ok()
    }
}

fn uuid<'de, D: Deserializer<'de>>(from: D) -> Result<Uuid, D::Error> {
    Uuid::try_parse(&String::deserialize(from)?).map_err(serde::de::Error::custom)
}

fn tenant<'de, D: Deserializer<'de>>(from: D) -> Result<TenantId, D::Error> {
    TenantId::parse(&String::deserialize(from)?).map_err(serde::de::Error::custom)
}

fn user<'de, D: Deserializer<'de>>(from: D) -> Result<UserId, D::Error> {
    UserId::parse(&String::deserialize(from)?).map_err(serde::de::Error::custom)
}
