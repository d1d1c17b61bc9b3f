//! The nouns: login events, users, tenants, sessions and the secrets they carry. No I/O, no clock.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use sha2::{Digest as _, Sha256};

/// A word that became an identifier because it follows its type's grammar.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{what} must be {grammar}")]
pub struct BadIdentifier {
    what: &'static str,
    grammar: &'static str,
}

/// A LoginRadius customer's tenant as the configuration names it: 1 to 64 of `a-z`, `0-9`, `_`, `-`.
///
/// The grammar keeps a tenant usable as a path segment, a metric label and a routing key.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TenantId(Arc<str>);

impl TenantId {
    pub const BYTES_MAX: usize = 64;
    pub const DEFAULT: &str = "default";

    pub fn parse(raw: &str) -> Result<Self, BadIdentifier> {
        let follows = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_' || c == b'-';
        if raw.is_empty() || raw.len() > Self::BYTES_MAX || !raw.bytes().all(follows) {
            return Err(BadIdentifier { what: "a tenant", grammar: "1 to 64 of a-z, 0-9, '_' and '-'" });
        }
        Ok(Self(raw.into()))
    }

    /// The tenant of `[loginradius]` with `[policy]`, and of messages that name none.
    pub fn default_tenant() -> Self {
        Self(Self::DEFAULT.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// An account: `Data.Uid` in a LoginRadius payload, `accountid` in its listing.
///
/// LoginRadius gives the grammar with error code 1200: letters, digits, `_`, `-`, length 1 to 50.
/// Custom uids exist, so nothing is promised about hex digits or a length of 32.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(Arc<str>);

impl UserId {
    pub const BYTES_MAX: usize = 50;

    pub fn parse(raw: &str) -> Result<Self, BadIdentifier> {
        let follows = |c: u8| c.is_ascii_alphanumeric() || c == b'_' || c == b'-';
        if raw.is_empty() || raw.len() > Self::BYTES_MAX || !raw.bytes().all(follows) {
            return Err(BadIdentifier { what: "a uid", grammar: "1 to 50 letters, digits, '_' and '-'" });
        }
        Ok(Self(raw.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Names one occurrence of a login: LoginRadius' `HookId`, or what the producer chose.
///
/// 1 to 128 visible ASCII characters, so that it can be logged and put into a header as it is.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId(Arc<str>);

impl EventId {
    pub const BYTES_MAX: usize = 128;

    pub fn parse(raw: &str) -> Result<Self, BadIdentifier> {
        if raw.is_empty() || raw.len() > Self::BYTES_MAX || !raw.bytes().all(|c| c.is_ascii_graphic()) {
            return Err(BadIdentifier { what: "an event id", grammar: "1 to 128 visible ASCII characters" });
        }
        Ok(Self(raw.into()))
    }

    /// The id of an event that came without a usable one: the SHA-256 of its body, in hex.
    pub fn of_body(body: &[u8]) -> Self {
        Self(hex::encode(Sha256::digest(body)).into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

macro_rules! shown_as_text {
    ($($identifier:ty),*) => {$(
        impl fmt::Display for $identifier {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $identifier {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }
    )*};
}
shown_as_text!(TenantId, UserId, EventId);

/// Which of the two queues of a tenant an event waits in. Logins go first; background gets at least a tenth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lane {
    Logins,
    Background,
}

impl Lane {
    pub const ALL: [Self; 2] = [Self::Logins, Self::Background];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Logins => "logins",
            Self::Background => "background",
        }
    }
}

/// Why a user is to be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    Login,
    /// A second look after a short wait; `rung` counts from 0.
    Recheck {
        rung: u8,
    },
    Sweep,
    /// A person or an app asked.
    Enforce,
    /// Taken out of the dead letters by a person.
    Redrive,
}

impl Reason {
    pub fn lane(self) -> Lane {
        match self {
            Self::Login | Self::Enforce | Self::Redrive => Lane::Logins,
            Self::Recheck { .. } | Self::Sweep => Lane::Background,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::Recheck { .. } => "recheck",
            Self::Sweep => "sweep",
            Self::Enforce => "enforce",
            Self::Redrive => "redrive",
        }
    }
}

/// "Look at this user again." Never a token, never a profile: nothing here is personal beyond the uid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginEvent {
    pub tenant: TenantId,
    pub user: UserId,
    pub id: EventId,
    /// When the event happened, as its source says (LoginRadius: `Time`, often cut to whole seconds).
    pub at: Option<Timestamp>,
    /// When the login happened (LoginRadius: `Data.LastLoginDate`), which a listed session must reach to be this login.
    pub login_at: Option<Timestamp>,
    pub reason: Reason,
    /// When we accepted it, by our clock. For measuring only.
    pub accepted_at: Option<Timestamp>,
}

/// A live credential. `Debug` hides it; there is no `Display` and no `Serialize`.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessToken(Box<str>);

impl AccessToken {
    pub fn new(token: &str) -> Self {
        Self(token.into())
    }

    /// For the one request that must carry it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    pub fn digest(&self) -> TokenDigest {
        TokenDigest(Sha256::digest(self.0.as_bytes()).into())
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessToken(hidden)")
    }
}

/// SHA-256 of an access token: a session's identity inside Soloist.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TokenDigest(pub [u8; 32]);

impl TokenDigest {
    /// The first 16 bytes, which people and other systems see.
    pub fn session_id(&self) -> SessionId {
        let mut id = [0; 16];
        id.copy_from_slice(self.0.first_chunk::<16>().unwrap_or(&[0; 16]));
        SessionId(id)
    }
}

impl fmt::Debug for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.session_id())
    }
}

/// What people and other systems call a session: lower-case hex of the first 16 bytes of its token's SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub [u8; 16]);

impl SessionId {
    pub fn parse(raw: &str) -> Result<Self, BadIdentifier> {
        let mut id = [0; 16];
        match hex::decode_to_slice(raw, &mut id) {
            Ok(()) => Ok(Self(id)),
            Err(_) => Err(BadIdentifier { what: "a session id", grammar: "32 hex digits" }),
        }
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digits = [0; 32];
        hex::encode_to_slice(self.0, &mut digits).map_err(|_length| fmt::Error)?;
        f.write_str(std::str::from_utf8(&digits).map_err(|_digits| fmt::Error)?)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// One active login of a user at the identity provider, as its listing shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    pub token: AccessToken,
    pub digest: TokenDigest,
    /// `None` when missing, unreadable or year 1: such a session is never ended and never a witness.
    pub login_at: Option<Timestamp>,
    pub device: SessionDevice,
}

/// What the listing says of the device, word for word; every field may be missing, empty or `unknown`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionDevice {
    pub browser: Option<String>,
    pub os: Option<String>,
    pub device: Option<String>,
    pub device_type: Option<String>,
    pub city: Option<String>,
    pub country: Option<String>,
    pub ip: Option<String>,
}

impl Session {
    pub fn new(token: &str, login_at: Option<Timestamp>, device: SessionDevice) -> Self {
        let token = AccessToken::new(token);
        Self { digest: token.digest(), token, login_at, device }
    }

    pub fn id(&self) -> SessionId {
        self.digest.session_id()
    }
}

/// The sessions of one user from one listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    pub sessions: Vec<Session>,
    /// False when paging was cut short or a row could not be read.
    pub complete: bool,
}

/// Reads a time as LoginRadius writes it: RFC 3339 with any number of fractional digits, UTC where no zone is given.
///
/// `None` for what cannot be read, for a date without a time (taken for midnight it would make a session look older
/// than it is) and for year 1, which is .NET's way of saying "never".
pub fn read_time(raw: &str) -> Option<Timestamp> {
    /// 0002-01-01T00:00:00Z.
    const YEAR_TWO: Timestamp = Timestamp::constant(-62_104_060_800, 0);
    let raw = at_most_nine_fractional_digits(raw.trim());
    if !raw.contains(':') {
        return None;
    }
    let utc = || Some(raw.parse::<DateTime>().ok()?.to_zoned(TimeZone::UTC).ok()?.timestamp());
    raw.parse().ok().or_else(utc).filter(|time| *time >= YEAR_TWO)
}

fn at_most_nine_fractional_digits(raw: &str) -> Cow<'_, str> {
    let Some((whole, rest)) = raw.split_once('.') else { return raw.into() };
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    match (rest.split_at_checked(digits.min(9)), rest.split_at_checked(digits)) {
        (Some((kept, _)), Some((_, zone))) if digits > 9 => format!("{whole}.{kept}{zone}").into(),
        _ => raw.into(),
    }
}

/// What a rule or an exemption may look at besides the uid. Fetched only where one needs it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserTraits {
    pub roles: Vec<String>,
    /// Lower-case domains of the user's e-mail addresses; the addresses themselves are not kept.
    pub email_domains: Vec<String>,
    pub custom_fields: std::collections::BTreeMap<String, String>,
    /// How many sessions the provider's own limiter allows this user. No rule looks at it: it tells that there is one.
    pub sessions_limit: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uid_follows_the_providers_grammar() {
        for good in ["793fb102948e48c0bac4382200cc50a8", "user_42-a", "a", &"x".repeat(50)] {
            assert!(UserId::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "a/b", "a%2fb", "zoë", "a b", &"x".repeat(51)] {
            assert!(UserId::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_session_id_is_the_first_half_of_the_tokens_digest() {
        let digest = AccessToken::new("token").digest();
        let id = digest.session_id();
        assert!(hex::encode(digest.0).starts_with(&id.to_string()));
        assert_eq!(SessionId::parse(&id.to_string()), Ok(id));
    }

    fn at(raw: &str) -> Option<Timestamp> {
        raw.parse().ok()
    }

    #[test]
    fn every_time_format_on_record_is_read_as_an_instant() {
        assert_eq!(read_time("2023-06-01T12:34:56Z"), at("2023-06-01T12:34:56Z"));
        assert_eq!(read_time("2023-09-15T04:09:43.72Z"), at("2023-09-15T04:09:43.720Z"));
        assert_eq!(read_time("2017-08-17T10:52:36.1644137Z"), at("2017-08-17T10:52:36.164413700Z"));
        assert_eq!(read_time("2023-06-01T12:34:56"), at("2023-06-01T12:34:56Z"));
        assert_eq!(read_time("2023-06-01T12:34:56.5"), at("2023-06-01T12:34:56.5Z"));
        assert_eq!(read_time("2023-06-01T12:34:56+02:00"), at("2023-06-01T10:34:56Z"));
        assert_eq!(read_time("2023-06-01T12:34:56.1234567899999Z"), at("2023-06-01T12:34:56.123456789Z"));
        assert_eq!(read_time("2023-06-01T12:34:56.1234567899999+01:00"), at("2023-06-01T11:34:56.123456789Z"));
    }

    #[test]
    fn a_time_that_says_never_or_nothing_is_unknown() {
        for raw in
            ["0001-01-01T00:00:00Z", "0001-01-01T00:00:00", "0001-12-31T23:59:59.9Z", "0001-01-01T00:00:00+05:00"]
        {
            assert_eq!(read_time(raw), None, "{raw}");
        }
        for raw in ["", "unknown", "2023-06-01", "9/15/2023 4:09:41 AM", "1694750981", "2023-06-01T12:34:56.Z", ":"] {
            assert_eq!(read_time(raw), None, "{raw}");
        }
    }

    #[test]
    fn a_token_is_not_printed() {
        let session = Session::new("canary-token", None, SessionDevice::default());
        assert!(!format!("{session:?}").contains("canary"));
    }
}
