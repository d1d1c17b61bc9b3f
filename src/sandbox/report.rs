//! What the sandbox says about what happened in it. How it judges is told in `judge`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{session::Credentials, webhooks::WebhookCounts};

/// Which sessions the rule keeps.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// The newest.
    #[default]
    Newest,
    /// The oldest.
    Oldest,
}

/// What happened so far, measured against a limit of sessions per user.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The limit that was asked about.
    pub limit: usize,
    /// The sessions that the rule keeps.
    pub keep: Keep,
    /// Users that exist.
    pub users: usize,
    /// Sessions that are alive.
    pub live_sessions: usize,
    /// Sessions that ever were, by state: `live`, `revoked`, `logged_out`, `refreshed`, `expired`.
    pub sessions_by_state: BTreeMap<String, usize>,
    /// Users with more live sessions than the limit.
    pub over_limit: Vec<String>,
    /// Users who have none left although they did not log out.
    pub emptied: Vec<String>,
    /// Sessions that should not have been revoked.
    pub wrong_revocations: Vec<Wrong>,
    /// Sessions that were revoked because of rows that were listed but dead.
    pub misled_revocations: Vec<Wrong>,
    /// Revocations by the credentials they came with.
    pub revocations_by_credentials: BTreeMap<String, usize>,
    /// Revocations that left the token refreshable, so that the session could come back.
    pub refreshable_after_revocation: usize,
    /// Vendor calls by operation.
    pub calls: BTreeMap<String, u64>,
    /// Vendor calls by operation and status, such as `list 200`; `lost` where no answer arrived.
    pub answers: BTreeMap<String, u64>,
    /// The largest number of vendor calls within any one second.
    pub most_calls_in_a_second: usize,
    /// Webhooks out.
    pub webhooks: WebhookCounts,
    /// Every user.
    pub by_user: Vec<UserReport>,
}

/// One user of a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserReport {
    /// The account id.
    pub uid: String,
    /// Sessions that are alive.
    pub live: usize,
    /// More than the limit.
    pub over_limit: bool,
    /// None, although he did not log out.
    pub emptied: bool,
    /// Sessions that were revoked.
    pub revoked: usize,
    /// Of these, the wrong ones.
    pub wrong: usize,
}

/// A revocation that the rule did not ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wrong {
    /// The account id.
    pub uid: String,
    /// The session id.
    pub session: String,
    /// When it was revoked.
    pub at: Timestamp,
    /// Where its window began.
    pub listed_at: Timestamp,
    /// How many witnesses it had.
    pub witnesses: usize,
    /// With what credentials it was revoked.
    pub credentials: Credentials,
}
