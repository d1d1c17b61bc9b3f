//! Evidence: what was decided about whom, and what came of it. Losing it loses history, never safety.
//!
//! It holds session ids, device words and times; no token, no e-mail address, no IP address.

mod record;
mod remote;
mod sqlite;

use async_trait::async_trait;
use serde::Serialize;
use uuid::Uuid;

pub use self::record::BadRecord;
pub use self::remote::{Courier, RemoteLedger};
pub use self::sqlite::{LedgerThread, SqliteLedger};
use crate::model::{Reason, SessionId, TenantId, UserId};
use crate::policy::{Decision, ReasonCode};

/// Names a recorded decision.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// False where the decision is only recorded: observe mode, outside the canary, a dry run.
    pub executed: bool,
}

/// What came of one session that was to be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    Revoked,
    AlreadyGone,
    Failed,
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

    /// Closes an intent with what came of it.
    async fn outcome(&self, intent: IntentId, outcomes: &[Outcome]) -> Result<(), LedgerError>;

    /// The last decisions about a user, newest first, as JSON objects.
    async fn recent(
        &self,
        tenant: &TenantId,
        user: &UserId,
        limit: usize,
    ) -> Result<Vec<serde_json::Value>, LedgerError>;
}
