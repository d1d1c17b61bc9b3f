//! Messages: the one form in which a login event is written, and tolerant reading of what others send.

mod foreign;
mod remains;
mod text;
mod webhook;

use std::borrow::Cow;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use self::foreign::{FOREIGN_BYTES_MAX, MEDIA_TYPES, read_foreign};
pub use self::remains::Remains;
pub use self::webhook::{EVENT_NAME_BYTES_MAX, WebhookBody, read_webhook};
use crate::model::{EventId, LoginEvent, Reason, TenantId, UserId};

/// Why a message cannot become a login event. The text names the field, never its content.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Unreadable {
    #[error("it is not JSON of the expected shape (line {line}, column {column})")]
    NotJson { line: usize, column: usize },
    #[error("it names no user: {0}")]
    NoUser(&'static str),
    #[error("`{0}` does not follow its grammar")]
    BadField(&'static str),
    #[error("it is larger than {FOREIGN_BYTES_MAX} bytes")]
    TooLarge,
    #[error("its content type is neither application/json nor application/cloudevents+json")]
    MediaType,
    /// A LoginRadius event that is no login. Nothing is to be done, so nothing is wrong with it either.
    #[error("it reports an event that is no login")]
    NotALogin,
}

impl From<serde_json::Error> for Unreadable {
    /// Only the place: serde's own text may quote the content.
    fn from(error: serde_json::Error) -> Self {
        Self::NotJson { line: error.line(), column: error.column() }
    }
}

/// The written form. `tenant` and `uid` say whom, the times say which login; nothing else about the user.
#[derive(Serialize, Deserialize)]
struct Written<'a> {
    #[serde(borrow)]
    tenant: Cow<'a, str>,
    #[serde(borrow)]
    uid: Cow<'a, str>,
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    login_at: Option<Timestamp>,
    #[serde(borrow)]
    reason: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rung: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    accepted_at: Option<Timestamp>,
}

/// What a message takes with a LoginRadius uid and event id, and some more.
const USUAL_BYTES: usize = 320;

/// Writes an event in the one form in which queues keep it.
pub fn write(event: &LoginEvent) -> Vec<u8> {
    let rung = match event.reason {
        Reason::Recheck { rung } => Some(rung),
        _ => None,
    };
    let written = Written {
        tenant: event.tenant.as_str().into(),
        uid: event.user.as_str().into(),
        id: event.id.as_str().into(),
        at: event.at,
        login_at: event.login_at,
        reason: event.reason.as_str().into(),
        rung,
        accepted_at: event.accepted_at,
    };
    // A struct of strings and numbers always serialises; an empty message would be dead-lettered, not lost.
    let mut message = Vec::with_capacity(USUAL_BYTES);
    match serde_json::to_writer(&mut message, &written) {
        Ok(()) => message,
        Err(_impossible) => Vec::new(),
    }
}

/// Reads what [`write()`] wrote.
pub fn read(body: &[u8]) -> Result<LoginEvent, Unreadable> {
    let written: Written<'_> = serde_json::from_slice(body)?;
    Ok(LoginEvent {
        tenant: TenantId::parse(&written.tenant).map_err(|_grammar| Unreadable::BadField("tenant"))?,
        user: UserId::parse(&written.uid).map_err(|_grammar| Unreadable::BadField("uid"))?,
        id: EventId::parse(&written.id).map_err(|_grammar| Unreadable::BadField("id"))?,
        at: written.at,
        login_at: written.login_at,
        reason: reason_named(&written.reason, written.rung).ok_or(Unreadable::BadField("reason"))?,
        accepted_at: written.accepted_at,
    })
}
fn reason_named(name: &str, rung: Option<u8>) -> Option<Reason> {
    match name {
        "login" => Some(Reason::Login),
        "recheck" => Some(Reason::Recheck { rung: rung.unwrap_or(0) }),
        "sweep" => Some(Reason::Sweep),
        "enforce" => Some(Reason::Enforce),
        "redrive" => Some(Reason::Redrive),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let at = |text: &str| text.parse::<Timestamp>().ok();
        let mut event = LoginEvent {
            tenant: TenantId::default_tenant(),
            user: UserId::parse("ann").unwrap(),
            id: EventId::parse("h-1").unwrap(),
            at: at("2019-06-11T20:27:56Z"),
            login_at: at("2019-06-11T20:27:56.9658619Z"),
            reason: Reason::Login,
            accepted_at: at("2023-11-14T22:13:20Z"),
        };
        for reason in [Reason::Login, Reason::Recheck { rung: 3 }, Reason::Sweep, Reason::Enforce, Reason::Redrive] {
            event.reason = reason;
            assert_eq!(read(&write(&event)), Ok(event.clone()));
        }
    }
}
