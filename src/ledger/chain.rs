//! The chain over the records: each entry seals the hash of one record, and the entry before it, with a key. So a record
//! that was changed, removed, added or moved shows.
//!
//! ```text
//! hash = SHA-256(what it is, salt, every column behind its length)
//! mac  = HMAC-SHA256(key, mac before, seq, kind, decision, hash)
//! ```
//!
//! The salt is in the record, so without the record its hash says nothing of whom it was about.

use std::fmt;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context as _, bail};
use hmac::{Hmac, KeyInit as _, Mac as _};
use rusqlite::{Connection, OptionalExtension as _, params};
use sha2::{Digest as _, Sha256};

/// Where the key is kept unless `ledger.key_file` says otherwise.
const KEY_FILE: &str = "ledger.key";
/// Fewer bytes are no key.
const KEY_BYTES_MIN: usize = 32;
/// More are some other file.
const KEY_BYTES_MAX: u64 = 4_096;

/// What seals the chain. It is never printed.
#[derive(Clone)]
pub(super) struct Key(Hmac<Sha256>);

impl Key {
    /// Reads the key file; the one in the data folder is made where it is missing, for its owner alone.
    pub(super) fn read_or_make(data_dir: &Path, key_file: Option<&Path>) -> anyhow::Result<Self> {
        let own = data_dir.join(KEY_FILE);
        let path = key_file.unwrap_or(&own);
        if key_file.is_none() && !own.try_exists()? {
            make(&own).with_context(|| format!("cannot make the ledger's key {}", own.display()))?;
        }
        let shown = path.display();
        let metadata = std::fs::metadata(path).with_context(|| format!("cannot read the ledger's key {shown}"))?;
        if !metadata.is_file() || metadata.len() > KEY_BYTES_MAX {
            bail!("{shown} is no key of a ledger: a file with {KEY_BYTES_MIN} to {KEY_BYTES_MAX} bytes is needed");
        }
        let raw = std::fs::read(path).with_context(|| format!("cannot read the ledger's key {shown}"))?;
        let bytes = raw.trim_ascii();
        if bytes.len() < KEY_BYTES_MIN {
            bail!(
                "the ledger's key {shown} is shorter than {KEY_BYTES_MIN} bytes: make one with `openssl rand -hex 32`"
            );
        }
        Ok(Self(Hmac::new_from_slice(bytes)?))
    }

    /// The MAC of an entry.
    pub(super) fn seal(&self, before: &Seal, entry: &Entry) -> Seal {
        let mut mac = self.0.clone();
        mac.update(before);
        mac.update(&entry.seq.to_be_bytes());
        mac.update(&[entry.kind.byte()]);
        mac.update(&entry.decision.to_be_bytes());
        mac.update(&entry.hash);
        mac.finalize().into_bytes().into()
    }
}

fn make(path: &Path) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    writeln!(file, "{}", hex::encode(rand::random::<[u8; 32]>()))?;
    file.sync_all()
}

/// A MAC.
pub(super) type Seal = [u8; 32];

/// The seal before the first entry.
pub(super) const NO_SEAL: Seal = [0; 32];

/// What an entry is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The first entry: `decision` is the last one from before there was a chain, 0 for none.
    Begin,
    Intent,
    Outcome,
    /// A decision that was deleted because its user is to be forgotten.
    Forgotten,
    /// Decisions up to this one were removed because of their age or number.
    Anchor,
    /// The last entry that was removed with them: its seal is where the rest begins.
    Base,
}

impl Kind {
    const ALL: [Self; 6] = [Self::Begin, Self::Intent, Self::Outcome, Self::Forgotten, Self::Anchor, Self::Base];

    pub(super) fn byte(self) -> u8 {
        match self {
            Self::Begin => 0,
            Self::Intent => 1,
            Self::Outcome => 2,
            Self::Forgotten => 3,
            Self::Anchor => 4,
            Self::Base => 5,
        }
    }

    pub(super) fn of(stored: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| i64::from(kind.byte()) == stored)
    }
}

/// One entry, without its seal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) seq: i64,
    pub(super) kind: Kind,
    pub(super) decision: i64,
    pub(super) hash: [u8; 32],
}

/// The last entry: whoever noted it down elsewhere can tell later whether the chain was cut behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub seq: i64,
    pub mac: [u8; 32],
}

impl Head {
    pub(super) const NONE: Self = Self { seq: 0, mac: NO_SEAL };
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.seq, hex::encode(self.mac))
    }
}

/// Text that is no head of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a head is SEQ:MAC, a number and 64 hex digits, as the log and `soloist ledger verify` print it")]
pub struct BadHead;

impl FromStr for Head {
    type Err = BadHead;

    fn from_str(raw: &str) -> Result<Self, BadHead> {
        let (seq, mac) = raw.trim().split_once(':').ok_or(BadHead)?;
        let seq = seq.parse().ok().filter(|seq| *seq > 0).ok_or(BadHead)?;
        let mac = hex::decode(mac).ok().and_then(|mac| mac.try_into().ok()).ok_or(BadHead)?;
        Ok(Self { seq, mac })
    }
}

/// The end of the chain, where entries are added.
pub(super) struct Chain {
    key: Key,
    pub(super) head: Head,
}

impl Chain {
    /// The chain as the file has it. Where it has none yet, it begins behind the decisions that are there.
    pub(super) fn load(db: &Connection, key: Key) -> rusqlite::Result<Self> {
        let last = db
            .query_row("SELECT seq, mac FROM chain ORDER BY seq DESC LIMIT 1", [], |row| {
                Ok(Head { seq: row.get(0)?, mac: row.get(1)? })
            })
            .optional()?;
        let mut chain = Self { key, head: last.unwrap_or(Head::NONE) };
        if last.is_none() {
            let known: i64 = db.query_row("SELECT coalesce(max(id), 0) FROM decisions", [], |row| row.get(0))?;
            chain.append(db, Kind::Begin, known, mark(Kind::Begin, known).finish())?;
        }
        Ok(chain)
    }

    /// Seals a record into the chain, and says where.
    pub(super) fn append(
        &mut self,
        db: &Connection,
        kind: Kind,
        decision: i64,
        hash: [u8; 32],
    ) -> rusqlite::Result<i64> {
        let entry = Entry { seq: self.head.seq + 1, kind, decision, hash };
        let mac = self.key.seal(&self.head.mac, &entry);
        db.prepare_cached("INSERT INTO chain (seq, decision, kind, hash, mac) VALUES (?1, ?2, ?3, ?4, ?5)")?
            .execute(params![entry.seq, decision, kind.byte(), hash, mac])?;
        self.head = Head { seq: entry.seq, mac };
        Ok(entry.seq)
    }
}

/// A hash under way. Every column is behind its length, so that no two records have the same bytes.
pub(super) struct RecordHash(Sha256);

impl RecordHash {
    pub(super) fn new(what: &str) -> Self {
        Self(Sha256::new()).text(Some(b"soloist ledger 1")).text(Some(what.as_bytes()))
    }

    pub(super) fn text(mut self, column: Option<&[u8]>) -> Self {
        self.0.update([u8::from(column.is_some())]);
        if let Some(bytes) = column {
            self.0.update((bytes.len() as u64).to_be_bytes());
            self.0.update(bytes);
        }
        self
    }

    pub(super) fn number(mut self, column: i64) -> Self {
        self.0.update(column.to_be_bytes());
        self
    }

    pub(super) fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

/// The columns of a record that intent and outcome have in common.
#[derive(Clone, Copy)]
pub(super) struct Whose<'a> {
    pub(super) salt: &'a [u8],
    pub(super) tenant: &'a [u8],
    pub(super) uid: &'a [u8],
    pub(super) record_id: Option<&'a [u8]>,
}

impl Whose<'_> {
    fn hash(self, what: &str) -> RecordHash {
        RecordHash::new(what).text(Some(self.salt)).text(Some(self.tenant)).text(Some(self.uid)).text(self.record_id)
    }
}

/// What an intent consists of.
#[derive(Clone, Copy)]
pub(super) struct IntentColumns<'a> {
    pub(super) decided_at_ms: i64,
    pub(super) looked: &'a [u8],
    pub(super) executed: bool,
    pub(super) held: Option<&'a [u8]>,
    pub(super) decision: &'a [u8],
    pub(super) sessions: Option<&'a [u8]>,
}

pub(super) fn intent_hash(whose: Whose<'_>, of: IntentColumns<'_>) -> [u8; 32] {
    let hash = whose.hash("intent").number(of.decided_at_ms).text(Some(of.looked)).number(i64::from(of.executed));
    hash.text(of.held).text(Some(of.decision)).text(of.sessions).finish()
}

pub(super) fn outcome_hash(whose: Whose<'_>, outcomes: &[u8], closed_at_ms: i64) -> [u8; 32] {
    whose.hash("outcome").text(Some(outcomes)).number(closed_at_ms).finish()
}

/// What an entry that has no record of its own hashes first.
pub(super) fn mark(kind: Kind, decision: i64) -> RecordHash {
    RecordHash::new("mark").number(i64::from(kind.byte())).number(decision)
}

/// The hash of an anchor: up to which decision records were removed, and where the chain goes on.
pub(super) fn anchor_hash(decision: i64, base: Head) -> [u8; 32] {
    mark(Kind::Anchor, decision).number(base.seq).text(Some(&base.mac)).finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_as_it_is_printed() {
        let head = Head { seq: 42, mac: [0xab; 32] };
        assert_eq!(head.to_string().parse(), Ok(head));
        for wrong in ["", "42", "42:", "0:ab", ":ab", "42:abab", "-1:ab"] {
            assert_eq!(wrong.parse::<Head>(), Err(BadHead), "{wrong}");
        }
    }

    #[test]
    fn a_key_is_made_once_for_its_owner_alone_and_a_short_one_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        Key::read_or_make(folder.path(), None).unwrap();
        let path = folder.path().join(KEY_FILE);
        let made = std::fs::read(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        Key::read_or_make(folder.path(), None).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), made);
        std::fs::write(&path, "too short").unwrap();
        assert!(Key::read_or_make(folder.path(), None).is_err());
        assert!(Key::read_or_make(folder.path(), Some(&folder.path().join("missing"))).is_err());
    }

    #[test]
    fn columns_cannot_flow_into_each_other() {
        let hash = |a: &str, b: Option<&str>| {
            RecordHash::new("x").text(Some(a.as_bytes())).text(b.map(str::as_bytes)).finish()
        };
        assert_ne!(hash("ab", Some("c")), hash("a", Some("bc")));
        assert_ne!(hash("a", None), hash("a", Some("")));
    }
}
