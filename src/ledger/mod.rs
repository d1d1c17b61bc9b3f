//! Evidence: what was decided about whom, and what came of it. Losing it loses history, never safety.
//!
//! It holds session ids, device words, coarse places and times; no token, no e-mail address, and no IP address unless
//! `ledger.keep_ip` says so.
//!
//! | file | job |
//! |---|---|
//! | `sqlite` | the ledger of this machine, as others use it |
//! | `writer` | its thread: one transaction for all that has gathered |
//! | `schema`, `rows` | its tables; writing a record into them |
//! | `chain`, `verify` | every record sealed by a MAC; whether all still fit |
//! | `retain` | what leaves it: by age, number and size, or because a user is to be forgotten |
//! | `read` | what is read beside the writer: exports, recorded views |
//! | `closed` | the ended sessions as they come, for who is to tell others |
//! | `seen`, `record`, `last` | a session as it is remembered; records of other machines; what needs no second record |
//! | `recorded` | a recorded decision, read again |
//! | `remote` | the ledger of a process that keeps none |
//! | `endings`, `remembering` | the ends of the last day, in memory, and the ledger that tells of them |

mod chain;
mod closed;
mod endings;
mod held;
mod last;
mod read;
mod record;
mod recorded;
mod remembering;
mod remote;
mod retain;
mod rows;
mod schema;
mod seen;
mod sqlite;
mod users;
mod verify;
mod writer;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::Serialize;
use uuid::Uuid;

pub use self::chain::{BadHead, Head};
pub use self::closed::{ClosedDecision, ClosedSince};
pub use self::endings::{Displacer, Ending, Endings, KNOWN_FOR, Known, Waiting, endings_of};
pub use self::read::{ExportFilter, JsonLines};
pub use self::record::BadRecord;
pub use self::recorded::{Recorded, RecordedEnd, kept_of, word};
pub use self::remembering::Remembering;
pub use self::remote::{Courier, RemoteLedger};
pub use self::seen::SeenSession;
pub use self::sqlite::{Erased, LedgerOptions, LedgerThread, SqliteLedger};
pub use self::users::{Imported, KnownUser, Seen, Source, UserCount};
pub use self::verify::Verified;
use crate::model::{Reason, SessionId, TenantId, UserId};
use crate::policy::{Decision, ReasonCode};

/// Names a recorded decision.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum IntentId {
    /// A row of this machine's ledger.
    Row(i64),
    /// A record on its way to another machine's. It says whose it is, since its outcome may be the first to arrive.
    Record { id: Uuid, tenant: TenantId, user: UserId },
}

/// What is about to be done, and on what grounds.
#[derive(Clone, Debug)]
pub struct Intent {
    pub tenant: TenantId,
    pub user: UserId,
    pub looked: Reason,
    pub decision: Decision,
    /// Every session of the view that the decision was made from.
    pub sessions: Vec<SeenSession>,
    /// False where the decision is only recorded: something holds it, or it ends nobody.
    pub executed: bool,
    /// Why a decision that would end somebody is not executed.
    pub held: Option<Held>,
}

/// What keeps a decision from being executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Held {
    /// The policy's mode.
    Observe,
    /// The user is not among the share of users whom the policy is enforced for.
    Canary,
    /// The tenant's revocations of this hour are spent.
    Budget,
    /// Clients of this user end each other again and again.
    Contended,
    /// What the worker must obey is too old.
    StaleDirectives,
    /// `reject_newest` ends nobody outside a login.
    NotALogin,
}

impl Held {
    pub const ALL: [Self; 6] =
        [Self::Observe, Self::Canary, Self::Budget, Self::Contended, Self::StaleDirectives, Self::NotALogin];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Canary => "canary",
            Self::Budget => "budget",
            Self::Contended => "contended",
            Self::StaleDirectives => "stale_directives",
            Self::NotALogin => "not_a_login",
        }
    }
}

/// What came of one session that was to be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    Revoked,
    AlreadyGone,
    Failed,
    /// Nobody wrote down what came of it, and the next listing no longer showed it.
    GoneAtNextListing,
    /// Nobody wrote down what came of it, and the next listing still showed it.
    StillListed,
}

/// The end of one session of an intent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Outcome {
    #[serde(serialize_with = "as_text")]
    pub session: SessionId,
    pub ended: Ended,
    #[serde(serialize_with = "as_code")]
    pub reason: Option<ReasonCode>,
}

fn as_text<S: serde::Serializer>(id: &SessionId, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(id)
}

#[expect(clippy::ref_option, clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference to the field")]
fn as_code<S: serde::Serializer>(code: &Option<ReasonCode>, to: S) -> Result<S::Ok, S::Error> {
    code.map(ReasonCode::as_str).serialize(to)
}

/// The evidence cannot be kept now.
#[derive(Debug, thiserror::Error)]
#[error("the ledger is unavailable")]
pub struct LedgerError(#[source] anyhow::Error);

#[async_trait]
pub trait Ledger: Send + Sync {
    /// Returns only when the intent is durable, or lost where that is allowed ([`RemoteLedger::new`]).
    async fn intend(&self, intent: Intent) -> Result<IntentId, LedgerError>;

    /// Remembers a decision that ends nobody. It never waits and is dropped where it would have to; so is one that the
    /// user's last recorded decision is equal to.
    fn note(&self, intent: Intent);

    /// One session of an intent has been ended. It is for those who wait to hear of it: [`Ledger::outcome`] records it.
    fn ended(&self, _: &IntentId, _: &Outcome) {}

    /// Closes an intent with what came of it.
    async fn outcome(&self, intent: IntentId, outcomes: &[Outcome]) -> Result<(), LedgerError>;

    /// Returns only when the user is durably known to have been seen, or that is lost where it is allowed. An event is
    /// settled after it, so that a user of whom one was ever accepted is known to the sweep.
    async fn seen(&self, tenant: &TenantId, user: &UserId, seen: Seen) -> Result<(), LedgerError>;

    /// The last decisions about a user, newest first, as JSON objects.
    async fn recent(
        &self,
        tenant: &TenantId,
        user: &UserId,
        limit: usize,
    ) -> Result<Vec<serde_json::Value>, LedgerError>;

    /// The last decisions of a tenant that ended sessions since then, oldest first, as [`Ledger::recent`] shows them;
    /// none where this process keeps no ledger.
    async fn ends_since(
        &self,
        tenant: &TenantId,
        since: Timestamp,
    ) -> Result<Vec<(UserId, serde_json::Value)>, LedgerError>;
}
