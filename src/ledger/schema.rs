//! The ledger's file: its tables, and how an older one comes to them.

use super::{held, users};
use crate::sqlite::Format;

pub(super) const FORMAT: Format = Format {
    name: "ledger",
    application_id: 0x536f_6c6c,
    schema: SCHEMA,
    migrations: &[RECORDS, SESSIONS, held::INDEX, users::SCHEMA, EVIDENCE],
};

const SCHEMA: &str = "
CREATE TABLE decisions (
    id            INTEGER PRIMARY KEY,
    decided_at_ms INTEGER NOT NULL,
    tenant        TEXT NOT NULL,
    uid           TEXT NOT NULL,
    looked        TEXT NOT NULL,
    executed      INTEGER NOT NULL,
    decision      TEXT NOT NULL,
    outcomes      TEXT,
    closed_at_ms  INTEGER
) STRICT;
CREATE INDEX decisions_of_user ON decisions (tenant, uid, id);
";

/// Records of other machines come late and twice: they have an id, and their place is by time. Decisions made here have
/// no id, so that they pay for no index of random ids.
const RECORDS: &str = "
ALTER TABLE decisions ADD COLUMN record_id TEXT;
CREATE UNIQUE INDEX decisions_of_record ON decisions (record_id) WHERE record_id IS NOT NULL;
DROP INDEX decisions_of_user;
CREATE INDEX decisions_of_user ON decisions (tenant, uid, decided_at_ms);
";

/// What each decision was made from, and what kept it from being executed. Both are unknown of older ones.
const SESSIONS: &str = "
ALTER TABLE decisions ADD COLUMN sessions TEXT;
ALTER TABLE decisions ADD COLUMN held TEXT;
";

/// Where each decision is sealed in the chain, and by session, the decisions that ended it or would have.
///
/// `by_listing` marks outcomes that were concluded from a later listing: the real ones win when they come. `ids` keeps
/// the number of a decision that was deleted from being given again.
const EVIDENCE: &str = "
ALTER TABLE decisions ADD COLUMN salt BLOB;
ALTER TABLE decisions ADD COLUMN intent_seq INTEGER;
ALTER TABLE decisions ADD COLUMN outcome_seq INTEGER;
ALTER TABLE decisions ADD COLUMN by_listing INTEGER NOT NULL DEFAULT 0;
CREATE INDEX decisions_open ON decisions (tenant, uid) WHERE executed = 1 AND outcomes IS NULL;
CREATE TABLE chain (
    seq      INTEGER PRIMARY KEY,
    decision INTEGER NOT NULL,
    kind     INTEGER NOT NULL,
    hash     BLOB NOT NULL,
    mac      BLOB NOT NULL
) STRICT;
CREATE TABLE ids (next INTEGER NOT NULL) STRICT;
INSERT INTO ids SELECT coalesce(max(id), 0) + 1 FROM decisions;
CREATE TABLE ended (decision INTEGER NOT NULL, session BLOB NOT NULL) STRICT;
CREATE INDEX ended_of_session ON ended (session);
CREATE INDEX ended_of_decision ON ended (decision);
INSERT INTO ended (decision, session)
SELECT known.id, unhex(verdict.value ->> 'session')
FROM (SELECT id, decision FROM decisions WHERE json_valid(decision)) AS known,
    json_each(known.decision, '$.verdicts') AS verdict
WHERE verdict.value ->> 'action' = 'revoke' AND length(unhex(verdict.value ->> 'session')) = 16;
";
