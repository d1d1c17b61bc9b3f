//! What came out: one verdict a session, each with its reason and its witnesses, in the form `soloist decide` prints.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::ser::{Serialize, SerializeStruct as _, Serializer};

use super::{Mode, PolicyVersion, ResolvedPolicy, Source, Witnesses};
use crate::model::TokenDigest;

/// The whole decision about one user. It says what the rule wants; what of it is executed is the worker's matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub id: DecisionId,
    pub policy: DecidedBy,
    pub mode: Mode,
    /// Whether the view was complete.
    pub complete: bool,
    /// Newest login first; unknown login times last, by session id.
    pub verdicts: Vec<Verdict>,
    /// Why nothing was decided: every countable session is kept.
    pub refused: Option<Refusal>,
    /// Sessions above the limit that this decision cannot end. The sum of
    ///
    /// * pinned sessions that the caps would end,
    /// * where the decision was refused, also all others that the caps would end,
    /// * sessions of unknown login time, as far as they do not fit under the limit beside the devices that stay
    ///   (each is taken for a device of its own; bucket and per-device caps are not asked).
    pub surplus_unresolved: usize,
    /// Set when the view was incomplete: rows may be missing, so too little may have been ended.
    pub recheck_after: Option<Duration>,
}

impl Decision {
    /// What is to be ended, oldest login first: that is the order of execution.
    pub fn revocations(&self) -> impl DoubleEndedIterator<Item = &Verdict> {
        self.verdicts.iter().rev().filter(|verdict| verdict.action == Action::Revoke)
    }
}

/// SHA-256 over everything the decision depends on.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct DecisionId(pub [u8; 32]);

impl fmt::Display for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The policy that was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecidedBy {
    pub name: Arc<str>,
    pub version: PolicyVersion,
    pub source: Source,
}

impl DecidedBy {
    pub(super) fn of(policy: &ResolvedPolicy) -> Self {
        Self { name: Arc::clone(&policy.name), version: policy.version, source: policy.source }
    }
}

/// What becomes of one session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub digest: TokenDigest,
    pub login_at: Option<Timestamp>,
    pub action: Action,
    pub reason: Option<ReasonCode>,
    pub witnesses: Witnesses,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    Keep,
    Revoke,
    /// Ignored: neither counts nor is ended.
    Exempt,
    /// Counts, and is not ended whatever the caps say.
    Pinned,
    /// Its login time is unknown, so nothing can be said.
    Defer,
}

impl Action {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Revoke => "revoke",
            Self::Exempt => "exempt",
            Self::Pinned => "pinned",
            Self::Defer => "defer",
        }
    }
}

/// Why a session ends. The rule gives the first four; people give the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReasonCode {
    DisplacedByNewerLogin,
    BucketLimit,
    SameDeviceNewer,
    RejectedOverLimit,
    ChosenByUser,
    Admin,
}

impl ReasonCode {
    pub const ALL: [Self; 6] = [
        Self::DisplacedByNewerLogin,
        Self::BucketLimit,
        Self::SameDeviceNewer,
        Self::RejectedOverLimit,
        Self::ChosenByUser,
        Self::Admin,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::DisplacedByNewerLogin => "displaced_by_newer_login",
            Self::BucketLimit => "bucket_limit",
            Self::SameDeviceNewer => "same_device_newer",
            Self::RejectedOverLimit => "rejected_over_limit",
            Self::ChosenByUser => "chosen_by_user",
            Self::Admin => "admin",
        }
    }

    /// Whether newer sessions displaced it. One that is turned away has not been kicked by anybody who came.
    pub fn is_eviction(self) -> bool {
        matches!(self, Self::DisplacedByNewerLogin | Self::BucketLimit | Self::SameDeviceNewer)
    }
}

/// Why the rule would not decide. Only `reject_newest` refuses: it must not turn a login away on half the facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    IncompleteView,
    UnknownLoginTime,
}

impl Refusal {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::IncompleteView => "reject_newest needs the complete list of sessions, and this one is incomplete",
            Self::UnknownLoginTime => "reject_newest needs every login time, and a session has none that can be read",
        }
    }
}

impl Serialize for Decision {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_struct("Decision", 8)?;
        out.serialize_field("id", &self.id.to_string())?;
        out.serialize_field("policy", &self.policy)?;
        out.serialize_field("mode", self.mode.as_str())?;
        out.serialize_field("complete", &self.complete)?;
        out.serialize_field("verdicts", &self.verdicts)?;
        out.serialize_field("refused", &self.refused.map(Refusal::as_str))?;
        out.serialize_field("surplus_unresolved", &self.surplus_unresolved)?;
        out.serialize_field("recheck_after", &self.recheck_after.map(|after| after.as_secs()))?;
        out.end()
    }
}

impl Serialize for DecidedBy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_struct("DecidedBy", 3)?;
        out.serialize_field("name", &*self.name)?;
        out.serialize_field("version", &self.version.to_string())?;
        out.serialize_field("source", self.source.as_str())?;
        out.end()
    }
}

impl Serialize for Verdict {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_struct("Verdict", 4)?;
        out.serialize_field("session", &self.digest.session_id().to_string())?;
        out.serialize_field("action", self.action.as_str())?;
        out.serialize_field("reason", &self.reason.map(ReasonCode::as_str))?;
        out.serialize_field("witnesses", &self.witnesses)?;
        out.end()
    }
}
