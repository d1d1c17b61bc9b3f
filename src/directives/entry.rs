//! One thing that was decided at run time: by whom, why, until when; and the one form in which it is written.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::model::{SessionId, TenantId, UserId};
use crate::policy::Mode;

/// Reasons and owners that people write; longer ones are refused.
const TEXT_BYTES_MAX: usize = 500;

/// What was decided about a tenant or a user.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// The mode of the whole tenant. One that does less also caps its rules and overrides.
    Mode(Mode),
    /// `canary_percent` of the tenant's policy, as it is written there.
    Canary(Value),
    /// Another policy for one user: the keys of `[policy]` that differ.
    Override { user: UserId, policy: Map<String, Value> },
    /// Sessions that are not ended: the keys of `[[policy.exemptions]]` that say whose, and the effect.
    Exemption { who: Map<String, Value> },
    /// A session that is not ended, and counts.
    Pin { user: UserId, session: SessionId },
    /// The guard found that the user's devices end each other for ever.
    Contended { user: UserId },
    /// The budget was used up: the tenant is only observed until a person resumes it.
    Brake,
}

impl What {
    /// The name of the entry that says this of a tenant.
    pub fn key(&self, tenant: &TenantId) -> String {
        match self {
            Self::Mode(_) => format!("mode/{tenant}"),
            Self::Canary(_) => format!("canary/{tenant}"),
            Self::Override { user, .. } => format!("override/{tenant}/{user}"),
            Self::Exemption { who } => format!("exemption/{tenant}/{}", named(who)),
            Self::Pin { user, session } => format!("pin/{tenant}/{user}/{session}"),
            Self::Contended { user } => format!("contended/{tenant}/{user}"),
            Self::Brake => format!("brake/{tenant}"),
        }
    }
}

/// A decision of a person or a brake that every worker obeys.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub tenant: TenantId,
    pub what: What,
    pub owner: String,
    pub reason: String,
    pub made_at: Timestamp,
    /// From this instant on it is as if it had not been made.
    pub expires: Option<Timestamp>,
}

/// What is wrong with an entry. It quotes no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadEntry(pub String);

impl Entry {
    /// Names what it is about; a later entry of the same name takes its place.
    pub fn key(&self) -> String {
        self.what.key(&self.tenant)
    }

    /// The user it is about, where it is about one.
    pub fn user(&self) -> Option<&UserId> {
        match &self.what {
            What::Override { user, .. } | What::Pin { user, .. } | What::Contended { user } => Some(user),
            What::Mode(_) | What::Canary(_) | What::Exemption { .. } | What::Brake => None,
        }
    }

    /// Whether it is about this user by name; an exemption may be about others, too.
    pub fn names(&self, user: &UserId) -> bool {
        match &self.what {
            What::Exemption { who } => who.get("uid").and_then(Value::as_str) == Some(user.as_str()),
            _ => self.user() == Some(user),
        }
    }

    /// Whether owner and reason can be kept and logged as they are.
    ///
    /// # Errors
    /// Which of them cannot.
    pub fn check_word(owner: &str, reason: &str) -> Result<(), BadEntry> {
        for (name, text) in [("owner", owner), ("reason", reason)] {
            let fits = !text.trim().is_empty() && text.len() <= TEXT_BYTES_MAX && !text.chars().any(char::is_control);
            if !fits {
                return Err(BadEntry(format!("`{name}` must be a text of 1 to {TEXT_BYTES_MAX} bytes on one line")));
            }
        }
        Ok(())
    }

    /// Whether it is about all users of a tenant.
    pub fn is_of_all(&self) -> bool {
        matches!(self.what, What::Mode(_) | What::Canary(_))
    }

    /// Whether sessions may be ended by it that were only observed before.
    pub fn enforces(&self) -> bool {
        matches!(self.what, What::Mode(Mode::Enforce) | What::Canary(_))
    }

    pub fn holds(&self, now: Timestamp) -> bool {
        self.expires.is_none_or(|expires| now < expires)
    }

    /// The written form; read again, it gives the same entry.
    pub fn to_json(&self) -> Value {
        let mut written = Written {
            kind: Kind::of(&self.what),
            tenant: self.tenant.as_str().to_owned(),
            uid: self.user().map(|user| user.as_str().to_owned()),
            session: None,
            mode: None,
            percent: None,
            policy: None,
            who: None,
            owner: self.owner.clone(),
            reason: self.reason.clone(),
            made_at: Some(self.made_at),
            expires: self.expires,
        };
        match &self.what {
            What::Mode(mode) => written.mode = Some(mode.as_str().to_owned()),
            What::Canary(percent) => written.percent = Some(percent.clone()),
            What::Override { policy, .. } => written.policy = Some(policy.clone()),
            What::Exemption { who } => written.who = Some(who.clone()),
            What::Pin { session, .. } => written.session = Some(session.to_string()),
            What::Contended { .. } | What::Brake => {}
        }
        // A struct of strings, numbers and maps of them always serialises.
        serde_json::to_value(written).unwrap_or_default()
    }

    /// Reads the written form; `now` is when it was made, where it does not say so itself.
    pub fn read(written: Value, now: Timestamp) -> Result<Self, BadEntry> {
        let written: Written = serde_json::from_value(written).map_err(|error| BadEntry(grammar_of(&error)))?;
        let bad = |problem: &str| BadEntry(problem.to_owned());
        let tenant = TenantId::parse(&written.tenant).map_err(|error| BadEntry(error.to_string()))?;
        let user = || {
            let raw = written.uid.as_deref().ok_or_else(|| bad("`uid` is missing"))?;
            UserId::parse(raw).map_err(|error| BadEntry(error.to_string()))
        };
        let what = match written.kind {
            Kind::Mode => {
                let mode = Mode::ALL.into_iter().find(|mode| Some(mode.as_str()) == written.mode.as_deref());
                What::Mode(mode.ok_or_else(|| bad("`mode` must be enforce, observe or off"))?)
            }
            Kind::Canary => What::Canary(written.percent.clone().ok_or_else(|| bad("`percent` is missing"))?),
            Kind::Override => What::Override {
                user: user()?,
                policy: written.policy.clone().ok_or_else(|| bad("`policy` is missing"))?,
            },
            Kind::Exemption => What::Exemption { who: written.who.clone().ok_or_else(|| bad("`who` is missing"))? },
            Kind::Pin => {
                let raw = written.session.as_deref().ok_or_else(|| bad("`session` is missing"))?;
                let session = SessionId::parse(raw).map_err(|error| BadEntry(error.to_string()))?;
                What::Pin { user: user()?, session }
            }
            Kind::Contended => What::Contended { user: user()? },
            Kind::Brake => What::Brake,
        };
        Self::check_word(&written.owner, &written.reason)?;
        if matches!(what, What::Exemption { .. }) && written.expires.is_none() {
            return Err(bad("an exemption needs `expires`"));
        }
        let made_at = written.made_at.unwrap_or(now);
        Ok(Self { tenant, what, owner: written.owner, reason: written.reason, made_at, expires: written.expires })
    }
}

/// What an exemption is about, for its key: `uid=ann`, `role=tester`.
fn named(who: &Map<String, Value>) -> String {
    let shown = |key: &str| Some(format!("{key}={}", who.get(key)?.as_str()?));
    let parts: Vec<String> =
        ["uid", "role", "email_domain", "custom_field", "equals"].into_iter().filter_map(shown).collect();
    parts.join(",")
}

/// Serde's text without the value that it quotes.
fn grammar_of(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let end = text.find(['"', '\'']).unwrap_or(text.len());
    let known = text.contains("unknown field") || text.contains("missing field") || text.contains("unknown variant");
    if known { text } else { format!("not of the form of a directive: {}", text.get(..end).unwrap_or_default().trim()) }
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Mode,
    Canary,
    Override,
    Exemption,
    Pin,
    Contended,
    Brake,
}

impl Kind {
    fn of(what: &What) -> Self {
        match what {
            What::Mode(_) => Self::Mode,
            What::Canary(_) => Self::Canary,
            What::Override { .. } => Self::Override,
            What::Exemption { .. } => Self::Exemption,
            What::Pin { .. } => Self::Pin,
            What::Contended { .. } => Self::Contended,
            What::Brake => Self::Brake,
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    kind: Kind,
    #[serde(default = "default_tenant")]
    tenant: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    percent: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<Map<String, Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    who: Option<Map<String, Value>>,
    owner: String,
    reason: String,
    made_at: Option<Timestamp>,
    expires: Option<Timestamp>,
}

fn default_tenant() -> String {
    TenantId::DEFAULT.to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(mut written: Value) -> Result<Entry, BadEntry> {
        written["owner"] = json!("ops");
        written["reason"] = json!("a test");
        Entry::read(written, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn every_kind_is_read_as_it_was_written() {
        let session = "0".repeat(32);
        for written in [
            json!({"kind": "mode", "mode": "observe"}),
            json!({"kind": "canary", "percent": 1, "tenant": "acme"}),
            json!({"kind": "override", "uid": "ann", "policy": {"limit": 3}, "expires": "2030-01-01T00:00:00Z"}),
            json!({"kind": "exemption", "who": {"role": "tester"}, "expires": "2030-01-01T00:00:00Z"}),
            json!({"kind": "pin", "uid": "ann", "session": session}),
            json!({"kind": "contended", "uid": "ann"}),
            json!({"kind": "brake"}),
        ] {
            let entry = read(written).unwrap();
            assert_eq!(Entry::read(entry.to_json(), Timestamp::MAX).unwrap(), entry);
        }
    }

    #[test]
    fn a_wrong_entry_is_told_what_is_wrong_without_its_values() {
        for (written, expected) in [
            (json!({"kind": "canary-7"}), "unknown variant"),
            (json!({"kind": "mode", "mode": "canary-7"}), "enforce, observe or off"),
            (json!({"kind": "pin", "uid": "a/b", "session": "canary-7"}), "32 hex digits"),
            (json!({"kind": "override", "policy": {}}), "`uid` is missing"),
            (json!({"kind": "exemption", "who": {"uid": "ann"}}), "needs `expires`"),
            (json!({"kind": "brake", "expires": 7}), "not of the form"),
        ] {
            let problem = read(written).unwrap_err().to_string();
            assert!(problem.contains(expected), "{problem}");
        }
        let nobody = json!({"kind": "brake", "owner": " ", "reason": "x"});
        assert!(Entry::read(nobody, Timestamp::UNIX_EPOCH).unwrap_err().to_string().contains("`owner`"));
    }
}
