//! A session as the ledger remembers it: its id, its login, device words and a coarse place. Never its token.

use jiff::Timestamp;
use serde::Serialize;

use super::as_text;
use crate::model::{Session, SessionId, View};

/// Bytes of one word of the listing that are kept.
pub(super) const WORD_BYTES_MAX: usize = 120;

/// One session of the view that a decision was made from. An address is here only until the ledger writes it, which
/// leaves it out unless `ledger.keep_ip` says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SeenSession {
    #[serde(serialize_with = "as_text")]
    pub session: SessionId,
    pub login_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub os: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub browser: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub city: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub country: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
}

impl SeenSession {
    /// Every session of a view, in its order.
    pub fn all(view: &View) -> Vec<Self> {
        view.sessions.iter().map(Self::of).collect()
    }

    fn of(session: &Session) -> Self {
        let device = &session.device;
        let word = |raw: &Option<String>| raw.as_deref().map(clean).filter(|word| !word.is_empty());
        Self {
            session: session.id(),
            login_at: session.login_at,
            device_type: word(&device.device_type),
            device: word(&device.device),
            os: word(&device.os),
            browser: word(&device.browser),
            city: word(&device.city),
            country: word(&device.country),
            ip: word(&device.ip),
        }
    }
}

/// A word from outside, bounded and without control characters.
pub(super) fn clean(raw: &str) -> String {
    let end = raw.floor_char_boundary(WORD_BYTES_MAX);
    raw.get(..end).unwrap_or_default().chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_bounded_and_steers_no_terminal() {
        assert_eq!(clean("\u{1b}[31miPad\r\n\0"), "[31miPad");
        assert_eq!(clean(&"é".repeat(100)), "é".repeat(WORD_BYTES_MAX / 2));
        assert_eq!(clean(""), "");
    }
}
