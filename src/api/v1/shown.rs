//! How sessions and reasons look in answers.

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use crate::model::{Session, SessionDevice};
use crate::policy::{Action, ReasonCode};
use crate::worker::Evaluation;

/// One session as its user sees it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct ShownSession {
    /// 32 hex digits; good only together with its user.
    #[schema(example = "0f1e2d3c4b5a69788796a5b4c3d2e1f0")]
    pub(super) session: String,
    /// This is the one that asks.
    pub(super) current: bool,
    /// Words for people.
    #[schema(example = "Chrome on Windows")]
    pub(super) label: String,
    pub(super) browser: Option<String>,
    pub(super) os: Option<String>,
    pub(super) device: Option<String>,
    pub(super) device_type: Option<String>,
    pub(super) city: Option<String>,
    pub(super) country: Option<String>,
    pub(super) ip: Option<String>,
    /// RFC 3339, in UTC.
    pub(super) login_at: Option<Timestamp>,
    /// Sessions of the same device that this one stands for, itself included.
    pub(super) sessions: u64,
}

impl ShownSession {
    pub(super) fn of(session: &Session, current: bool) -> Self {
        let SessionDevice { browser, os, device, device_type, city, country, ip } = session.device.clone();
        Self {
            session: session.id().to_string(),
            current,
            label: label(&session.device),
            browser,
            os,
            device,
            device_type,
            city,
            country,
            ip,
            login_at: session.login_at,
            sessions: 1,
        }
    }
}

/// A device in an answer to somebody who may not know everything of it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct ShownDevice {
    pub(super) session: String,
    #[schema(example = "Safari on iOS")]
    pub(super) label: String,
    pub(super) device_type: Option<String>,
    pub(super) os: Option<String>,
    pub(super) browser: Option<String>,
    pub(super) login_at: Option<Timestamp>,
}

impl ShownDevice {
    fn of(session: &Session) -> Self {
        let SessionDevice { browser, os, device_type, .. } = session.device.clone();
        Self {
            session: session.id().to_string(),
            label: label(&session.device),
            device_type,
            os,
            browser,
            login_at: session.login_at,
        }
    }
}

/// Those whom the decision would end.
pub(super) fn would_end(evaluation: &Evaluation) -> Vec<ShownDevice> {
    let verdicts = evaluation.decision.iter().flat_map(|decision| &decision.verdicts);
    let ends: Vec<_> = verdicts.filter(|verdict| verdict.action == Action::Revoke).map(|v| v.digest).collect();
    evaluation.view.sessions.iter().filter(|session| ends.contains(&session.digest)).map(ShownDevice::of).collect()
}

/// "Chrome on Windows", as far as it is known.
pub(super) fn label(device: &SessionDevice) -> String {
    let word = |raw: &Option<String>| {
        let word =
            raw.as_deref().map(str::trim).filter(|word| !word.is_empty() && !word.eq_ignore_ascii_case("unknown"));
        word.map(|word| word.chars().filter(|c| !c.is_control()).take(LABEL_WORD_CHARS_MAX).collect::<String>())
    };
    let on = word(&device.os).or_else(|| word(&device.device)).or_else(|| word(&device.device_type));
    match (word(&device.browser), on) {
        (Some(browser), Some(on)) => format!("{browser} on {on}"),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => "Unknown device".to_owned(),
    }
}

/// Characters of one word of a label.
const LABEL_WORD_CHARS_MAX: usize = 40;

/// What a reason means, for people.
pub(super) fn text_of(reason: ReasonCode) -> &'static str {
    match reason {
        ReasonCode::DisplacedByNewerLogin => {
            "You were signed out because your account was used to sign in on another device."
        }
        ReasonCode::BucketLimit => {
            "You were signed out because your account was used to sign in on another device of this kind."
        }
        ReasonCode::SameDeviceNewer => "You were signed out because you signed in again on this device.",
        ReasonCode::RejectedOverLimit => {
            "You were not signed in because your account is already in use on another device."
        }
        ReasonCode::ChosenByUser => "You were signed out from another one of your devices.",
        ReasonCode::Admin => "You were signed out by support.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_says_what_is_known_and_no_more() {
        let device = |browser: &str, os: &str, device_type: &str| SessionDevice {
            browser: Some(browser.to_owned()),
            os: Some(os.to_owned()),
            device_type: Some(device_type.to_owned()),
            ..SessionDevice::default()
        };
        assert_eq!(label(&device("Chrome", "Windows", "Desktop")), "Chrome on Windows");
        assert_eq!(label(&device("Chrome", "unknown", "Mobile")), "Chrome on Mobile");
        assert_eq!(label(&device("", "iOS", "")), "iOS");
        assert_eq!(label(&device(" Unknown ", "", "")), "Unknown device");
    }
}
