//! One session from its login to its end. Nothing is forgotten, so that revocations can be judged afterwards.

use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::device::Device;

/// The credentials that a revocation came with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Credentials {
    /// Key and secret in headers.
    SecretInHeaders,
    /// Key and secret in the query, where at least the secret is.
    SecretInQuery,
    /// The token itself as Bearer.
    Bearer,
    /// The token itself in the query.
    TokenInQuery,
    /// A method of `Sandbox`.
    InProcess,
}

/// How a session was ended. Age ends it too, without an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// Through one of the vendor's invalidate calls.
    Revoked {
        credentials: Credentials,
        prevent_refresh: bool,
        /// The earliest moment at which this revoker may have listed the user's sessions. See `judge`.
        listed: Moment,
    },
    /// By the user.
    LoggedOut,
    /// Its token was exchanged for a new one.
    Refreshed,
}

/// An instant, and the place among all that happened: several things can happen at one instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment {
    pub(super) at: Timestamp,
    pub(super) place: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct End {
    pub(super) moment: Moment,
    pub(super) how: Ending,
}

/// One session.
#[derive(Debug, Clone)]
pub(super) struct Session {
    pub(super) access_token: String,
    /// SHA-256 of the access token. Orders sessions whose rows show the same instant.
    pub(super) digest: [u8; 32],
    pub(super) uid: String,
    pub(super) device: Device,
    pub(super) city: &'static str,
    pub(super) country: &'static str,
    pub(super) ip: String,
    /// The instant that `LoginDate` tells, before digits are cut off.
    pub(super) login_at: Timestamp,
    pub(super) made: Moment,
    /// Listings show it from here on.
    pub(super) listed_from: Timestamp,
    pub(super) expires_at: Timestamp,
    pub(super) end: Option<End>,
    pub(super) refreshable: bool,
    /// Shared by sessions of which one took the other's place: of those a listing shows one at a time.
    pub(super) root: usize,
}

impl Session {
    /// When it died, if it has: by an end of its own, or of age.
    pub(super) fn ended_at(&self, now: Timestamp) -> Option<Timestamp> {
        match self.end {
            Some(end) => Some(end.moment.at),
            None => (self.expires_at <= now).then_some(self.expires_at),
        }
    }

    pub(super) fn is_live(&self, now: Timestamp) -> bool {
        self.ended_at(now).is_none()
    }

    /// Whether it was alive at that moment, which is past.
    pub(super) fn was_live(&self, moment: Moment) -> bool {
        let made = self.made.place <= moment.place && moment.at < self.expires_at;
        made && self.end.is_none_or(|end| end.moment.place > moment.place)
    }

    /// The name that people and other systems know it by: it reveals nothing of the token.
    pub(super) fn id(&self) -> String {
        session_id(&self.digest)
    }

    /// One word for its state.
    pub(super) fn state(&self, now: Timestamp) -> &'static str {
        match self.end {
            Some(End { how: Ending::Revoked { .. }, .. }) => "revoked",
            Some(End { how: Ending::LoggedOut, .. }) => "logged_out",
            Some(End { how: Ending::Refreshed, .. }) => "refreshed",
            None if self.expires_at <= now => "expired",
            None => "live",
        }
    }
}

pub(super) fn digest(access_token: &str) -> [u8; 32] {
    Sha256::digest(access_token.as_bytes()).into()
}

/// Lower-case hex of the first 16 bytes of the token's digest.
pub(super) fn session_id(digest: &[u8; 32]) -> String {
    hex::encode(digest.iter().take(16).copied().collect::<Vec<u8>>())
}

/// Cuts an instant to that many fraction digits (0 to 9).
pub(super) fn cut(at: Timestamp, digits: u32) -> Timestamp {
    let unit = 10_i128.pow(9_u32.saturating_sub(digits));
    let nanoseconds = at.as_nanosecond().div_euclid(unit).saturating_mul(unit);
    Timestamp::from_nanosecond(nanoseconds).unwrap_or(at)
}

/// The instant with exactly that many fraction digits, further ones cut off.
pub(super) fn stamp(at: Timestamp, digits: u32) -> String {
    let precision = usize::try_from(digits).unwrap_or(9);
    format!("{:.precision$}", cut(at, digits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fraction_digits_are_cut_off_and_never_dropped() {
        let at: Timestamp = "2023-09-15T04:09:41.289999999Z".parse().unwrap();

        let stamps = [0, 2, 3, 7].map(|digits| stamp(at, digits));

        assert_eq!(
            stamps,
            [
                "2023-09-15T04:09:41Z",
                "2023-09-15T04:09:41.28Z",
                "2023-09-15T04:09:41.289Z",
                "2023-09-15T04:09:41.2899999Z"
            ]
        );
        assert_eq!(stamp("2023-09-15T04:09:41Z".parse().unwrap(), 3), "2023-09-15T04:09:41.000Z");
    }

    #[test]
    fn the_session_id_is_the_first_half_of_the_tokens_digest_in_hex() {
        // Computed with sha256sum.
        assert_eq!(session_id(&digest("abc")), "ba7816bf8f01cfea414140de5dae2223");
    }
}
