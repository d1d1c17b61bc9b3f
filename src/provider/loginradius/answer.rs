//! What an HTTP answer means: the vendor's error codes, sorted by the caller's next move.

use std::fmt;
use std::time::Duration;

use anyhow::anyhow;
use http::{HeaderMap, StatusCode, header::RETRY_AFTER};
use jiff::Timestamp;
use jiff::fmt::rfc2822;
use serde_json::{Map, Value};

use super::tolerant::{Scalar, Tolerant};
use crate::provider::{LoginLimited, ProviderError};

/// No answer keeps us away longer than this, whatever it asks for.
const RETRY_AFTER_MAX: Duration = Duration::from_hours(24);

/// The call that was answered: some codes mean different things to different calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    List,
    ListByToken,
    Revoke,
    Identify,
    Profile,
    Roles,
    Refresh,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::List => "listing the sessions of a user",
            Self::ListByToken => "listing sessions by token",
            Self::Revoke => "revoking a session",
            Self::Identify => "asking whose token it is",
            Self::Profile => "reading a profile",
            Self::Roles => "reading roles",
            Self::Refresh => "refreshing a session",
        })
    }
}

/// The vendor's error code in a body. HTTP 200 may carry one, and an HTTP status alone says little: 403 stands for
/// a wrong key, an expired token, a blocked address and an unknown user alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ErrorCode {
    None,
    Number(u32),
    /// The body says that something went wrong, in words or in the OAuth envelope, but gives no number.
    Unreadable,
}

impl ErrorCode {
    /// Whether an object's key tells of an error: `ErrorCode`, `errorCode`, and OAuth's `error`.
    pub(super) fn is_key(key: &str) -> bool {
        key.eq_ignore_ascii_case("errorcode") || key.eq_ignore_ascii_case("error")
    }

    /// Reads the value of such a key. Null, zero and an empty text mean that all is well.
    pub(super) fn read(key: &str, value: &Scalar<'_>) -> Self {
        let numeric = key.eq_ignore_ascii_case("errorcode");
        let number = match value {
            Scalar::Null => Some(0),
            Scalar::Text(text) if text.trim().is_empty() => Some(0),
            Scalar::Integer(number) if numeric => u32::try_from(*number).ok(),
            Scalar::Text(text) if numeric => text.trim().parse().ok(),
            _ => None,
        };
        match number {
            Some(0) => Self::None,
            Some(number) => Self::Number(number),
            None => Self::Unreadable,
        }
    }

    /// A number beats words, words beat nothing.
    pub(super) fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::None, other) | (Self::Unreadable, other @ Self::Number(_)) => other,
            (code, _) => code,
        }
    }

    pub(super) fn of(object: &Map<String, Value>) -> Self {
        let codes = object.iter().filter(|(key, _)| Self::is_key(key)).map(|(key, value)| {
            serde::Deserialize::deserialize(value)
                .map_or(Self::Unreadable, |Tolerant(scalar): Tolerant<Scalar<'_>>| Self::read(key, &scalar))
        });
        codes.fold(Self::None, Self::or)
    }
}

/// What went wrong, before a call gives it its own meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Unavailable,
    Throttled,
    Unauthorized,
    UserUnknown,
    Refused,
    /// The token is invalid or expired.
    TokenDead,
    /// There is no active session (any more).
    NobodyHome,
    CursorEnd,
    CursorBad,
}

/// "Exceeded active login session limit": the vendor's own limiter, Restrict Login Sharing, refused.
const LOGIN_LIMITED: u32 = 1338;

/// The vendor's codes that matter, with our words for them. Every code that is not here may work later.
fn known(code: u32) -> Option<(Kind, &'static str)> {
    let known = match code {
        905 => (Kind::TokenDead, "access token invalid"),
        906 => (Kind::TokenDead, "access token expired"),
        2024 => (Kind::TokenDead, "access token expired or invalid"),
        1055 => (Kind::NobodyHome, "no active session"),
        901 | 920 | 922 => (Kind::Unauthorized, "API key not accepted"),
        902 | 921 | 923 => (Kind::Unauthorized, "API secret not accepted"),
        924..=929 => (Kind::Unauthorized, "API credentials not accepted"),
        909 => (Kind::Unauthorized, "the site lacks permission for this endpoint"),
        942 => (Kind::Unauthorized, "the site does not exist"),
        1143 => (Kind::Unauthorized, "this secret may not call this endpoint"),
        1206 => (Kind::Unauthorized, "our address is not allowed"),
        1207..=1212 => (Kind::Unauthorized, "the tenant demands signed requests"),
        2023 => (Kind::Unauthorized, "the site has no token configuration"),
        937 | 938 => (Kind::UserUnknown, "user does not exist"),
        984 | 1037 => (Kind::UserUnknown, "account id not known"),
        908 => (Kind::Refused, "parameter missing or badly formatted"),
        971 | 1214 => (Kind::Refused, "invalid request"),
        1060 => (Kind::Refused, "access token missing"),
        1200 => (Kind::Refused, "malformed uid"),
        // About one account's state. Were they "unavailable", one locked user would look like an outage.
        970 => (Kind::Refused, "the user's e-mail address is not verified"),
        991 | 1198 | 1264 => (Kind::Refused, "the user's account is blocked"),
        996 => (Kind::CursorBad, "bad cursor"),
        997 => (Kind::CursorEnd, "no more records"),
        // Documented for refused logins, which are not ours. Should it meet a call of ours, it passes when a session ends.
        LOGIN_LIMITED => (Kind::Unavailable, "LoginRadius' own limiter: as many active sessions as it allows"),
        950 => (Kind::Unavailable, "unknown error, try again later"),
        429 => (Kind::Throttled, "too many requests"),
        _ => return None,
    };
    Some(known)
}

/// An answer that is not what the call asked for.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) kind: Kind,
    /// The vendor's code, where it gave one.
    pub(super) number: Option<u32>,
    retry_after: Option<Duration>,
    call: Call,
    /// `HTTP 403, code 905: access token invalid`.
    pub(super) text: String,
}

impl Fault {
    /// The fault of an answer, if it has one. The code counts more than the status, except for 429.
    pub(super) fn of(call: Call, status: StatusCode, code: ErrorCode, retry_after: Option<Duration>) -> Option<Self> {
        let number = if let ErrorCode::Number(number) = code { Some(number) } else { None };
        let (kind, meaning) = match number.and_then(known) {
            _ if status == StatusCode::TOO_MANY_REQUESTS => (Kind::Throttled, "too many requests"),
            Some(known) => known,
            None if number.is_some() => (Kind::Unavailable, "a code that this version does not know"),
            None if status.is_success() && code == ErrorCode::None => return None,
            None if status.is_success() => (Kind::Unavailable, "an error without a code"),
            // A firewall, a proxy or a wrong URL answers so: the vendor's own refusals carry a code.
            None if matches!(status.as_u16(), 401 | 403 | 404) => (Kind::Unauthorized, "no error code in the answer"),
            None if status.is_redirection() => (Kind::Unavailable, "a redirect, which is not followed"),
            None => (Kind::Unavailable, "no error code in the answer"),
        };
        let asked_to_wait =
            retry_after.is_some() && (kind == Kind::Unavailable || (number.is_none() && !status.is_success()));
        let kind = if asked_to_wait { Kind::Throttled } else { kind };
        let text = match number {
            Some(number) => format!("HTTP {}, code {number}: {meaning}", status.as_u16()),
            None => format!("HTTP {}: {meaning}", status.as_u16()),
        };
        Some(Self { kind, number, retry_after, call, text })
    }

    pub(super) fn into_error(self) -> ProviderError {
        let text = format!("{}: {}", self.call, self.text);
        let is_limiter = self.number == Some(LOGIN_LIMITED);
        let source = if is_limiter { LoginLimited(text).into() } else { anyhow!(text) };
        match self.kind {
            Kind::Throttled => ProviderError::Throttled { retry_after: self.retry_after, source },
            Kind::Unauthorized => ProviderError::Unauthorized(source),
            Kind::UserUnknown => ProviderError::UserUnknown(source),
            Kind::Refused => ProviderError::Refused(source),
            // Somebody gave us this token, and it will not come back to life.
            Kind::TokenDead | Kind::NobodyHome if matches!(self.call, Call::ListByToken | Call::Identify) => {
                ProviderError::Refused(source)
            }
            Kind::Unavailable | Kind::TokenDead | Kind::NobodyHome | Kind::CursorEnd | Kind::CursorBad => {
                ProviderError::Unavailable(source)
            }
        }
    }
}

/// Why a call did not give what was asked: the vendor said so, or nobody can tell.
#[derive(Debug)]
pub(super) enum Failure {
    Fault(Fault),
    Error(ProviderError),
}

impl Failure {
    pub(super) fn into_error(self) -> ProviderError {
        match self {
            Self::Fault(fault) => fault.into_error(),
            Self::Error(error) => error,
        }
    }
}

impl From<ProviderError> for Failure {
    fn from(error: ProviderError) -> Self {
        Self::Error(error)
    }
}

/// An answer that nobody can read: HTML with status 200, half an object, the wrong type.
pub(super) fn garbage(call: Call, what: &'static str) -> ProviderError {
    ProviderError::Unavailable(anyhow!("{call}: {what}"))
}

/// How long the answer asks us to stay away: seconds or an HTTP date, at most [`RETRY_AFTER_MAX`].
pub(super) fn retry_after(headers: &HeaderMap, now: impl FnOnce() -> Timestamp) -> Option<Duration> {
    let raw = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = if let Ok(seconds) = raw.parse::<u64>() {
        Duration::from_secs(seconds)
    } else {
        let until = rfc2822::DateTimeParser::new().relaxed_weekday(true).parse_timestamp(raw).ok()?;
        Duration::try_from(until.duration_since(now())).unwrap_or(Duration::ZERO)
    };
    Some(wait.min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn wait(header: &'static str) -> Option<Duration> {
        let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(header))]);
        retry_after(&headers, || "2026-11-24T03:07:55Z".parse().unwrap())
    }

    #[test]
    fn retry_after_is_read_as_seconds_and_as_a_date() {
        assert_eq!(wait("7"), Some(Duration::from_secs(7)));
        assert_eq!(wait("Tue, 24 Nov 2026 03:08:25 GMT"), Some(Duration::from_secs(30)));
        assert_eq!(wait("Fri, 24 Nov 2026 03:08:25 GMT"), Some(Duration::from_secs(30)), "a weekday that is none");
        assert_eq!(wait("Tue, 24 Nov 2026 03:07:00 GMT"), Some(Duration::ZERO));
        assert_eq!(wait("18446744073709551615"), Some(RETRY_AFTER_MAX));
        assert_eq!(wait("Wed, 24 Nov 2027 03:08:25 GMT"), Some(RETRY_AFTER_MAX));
        for junk in ["", "soon", "-1", "1.5"] {
            assert_eq!(wait(junk), None, "{junk}");
        }
    }

    #[test]
    fn a_code_is_a_number_or_a_numeric_text_in_any_case() {
        let code = |json: &str| ErrorCode::of(&serde_json::from_str(json).unwrap());
        for json in [r#"{"ErrorCode":905}"#, r#"{"errorCode":"905"}"#, r#"{"error":"x","ERRORCODE":905}"#] {
            assert_eq!(code(json), ErrorCode::Number(905), "{json}");
        }
        for json in [r#"{"ErrorCode":"x"}"#, r#"{"error":"invalid_client"}"#, r#"{"errorcode":-1}"#, r#"{"error":{}}"#]
        {
            assert_eq!(code(json), ErrorCode::Unreadable, "{json}");
        }
        for json in ["{}", r#"{"ErrorCode":0}"#, r#"{"ErrorCode":null,"error":""}"#] {
            assert_eq!(code(json), ErrorCode::None, "{json}");
        }
    }
}
