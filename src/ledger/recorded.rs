//! A recorded decision, as [`super::Ledger::recent`] shows it, read again.

use jiff::Timestamp;
use serde_json::Value;

use crate::model::SessionId;
use crate::policy::{Action, ReasonCode};

/// What is missing, or written as another version does, is `None`.
#[derive(Clone, Copy)]
pub struct Recorded<'a>(&'a Value);

/// What came of one session that a recorded decision was to end.
#[derive(Clone, Copy)]
pub struct RecordedEnd<'a> {
    decision: Recorded<'a>,
    outcome: &'a Value,
}

impl<'a> Recorded<'a> {
    pub fn new(shown: &'a Value) -> Self {
        Self(shown)
    }

    pub fn decided_at(self) -> Option<Timestamp> {
        text(self.0, "decided_at")?.parse().ok()
    }

    /// When it was closed, or decided where it was not.
    pub fn closed_at(self) -> Option<Timestamp> {
        text(self.0, "closed_at").or_else(|| text(self.0, "decided_at"))?.parse().ok()
    }

    /// In the order in which they were tried.
    pub fn ends(self) -> impl Iterator<Item = RecordedEnd<'a>> {
        list(self.0.get("outcomes")).map(move |outcome| RecordedEnd { decision: self, outcome })
    }

    /// All that it was to end.
    pub fn revocations(self) -> impl Iterator<Item = SessionId> + 'a {
        self.verdicts().filter(|verdict| is_revocation(verdict)).filter_map(session_of)
    }

    fn verdicts(self) -> impl Iterator<Item = &'a Value> {
        verdicts(self.0.get("decision"))
    }

    /// A session as it was listed.
    fn listed(self, id: &str) -> Option<&'a Value> {
        list(self.0.get("sessions")).find(|session| text(session, "session") == Some(id))
    }
}

impl<'a> RecordedEnd<'a> {
    pub fn session(self) -> Option<&'a str> {
        text(self.outcome, "session")
    }

    /// `revoked`, `already_gone`, …: see [`super::Ended`].
    pub fn ended(self) -> Option<&'a str> {
        text(self.outcome, "ended")
    }

    pub fn reason(self) -> Option<&'a str> {
        text(self.outcome, "reason")
    }

    pub fn reason_code(self) -> Option<ReasonCode> {
        let reason = self.reason()?;
        ReasonCode::ALL.into_iter().find(|code| code.as_str() == reason)
    }

    /// The reason that the decision gave.
    pub fn decided_reason(self) -> Option<&'a str> {
        text(self.verdict()?, "reason")
    }

    /// The session as it was listed.
    pub fn listed(self) -> Option<&'a Value> {
        self.decision.listed(self.session()?)
    }

    /// The newest session that stood against it, as it was listed.
    pub fn displacer(self) -> Option<&'a Value> {
        // Witnesses are the newest first.
        let newest = list(self.verdict()?.get("witnesses")).next()?.as_str()?;
        self.decision.listed(newest)
    }

    fn verdict(self) -> Option<&'a Value> {
        let session = self.session()?;
        self.decision.verdicts().find(|verdict| text(verdict, "session") == Some(session))
    }
}

/// The sessions that a written decision keeps, of those that it names.
pub fn kept_of(decision: &Value) -> impl Iterator<Item = SessionId> {
    verdicts(Some(decision)).filter(|verdict| !is_revocation(verdict)).filter_map(session_of)
}

/// A word of a listed session.
pub fn word(listed: &Value, key: &str) -> Option<String> {
    text(listed, key).map(str::to_owned)
}

fn verdicts(decision: Option<&Value>) -> impl Iterator<Item = &Value> {
    list(decision.and_then(|decision| decision.get("verdicts")))
}

fn is_revocation(verdict: &Value) -> bool {
    text(verdict, "action") == Some(Action::Revoke.as_str())
}

fn session_of(verdict: &Value) -> Option<SessionId> {
    SessionId::parse(text(verdict, "session")?).ok()
}

fn list(value: Option<&Value>) -> impl Iterator<Item = &Value> {
    value.and_then(Value::as_array).into_iter().flatten()
}

fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key)?.as_str()
}
