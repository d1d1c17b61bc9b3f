//! Calls that only a probe makes: it wants to see what the vendor answers, not only whether the call worked.

use std::fmt;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};

use super::answer::{Call, Failure, Fault, Kind, garbage};
use super::{LoginRadius, profile, says_no};
use crate::model::{AccessToken, UserId};
use crate::provider::ProviderError;

/// An answer as the vendor gave it, whether it is a yes or a no.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Said {
    /// The vendor's code, where it gave one.
    pub code: Option<u32>,
    /// `HTTP 403, code 905: access token invalid`.
    pub text: String,
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What a probe reads of a profile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProbedProfile {
    pub last_login_at: Option<Timestamp>,
    pub sessions_limit: Option<u32>,
}

impl LoginRadius {
    /// Exchanges a token for a new one, which prolongs the session: the inner error is the vendor's no.
    ///
    /// The token travels in the URL: no other way is documented. Whether a tenant may call this is for the vendor's
    /// support to say, so a no is an answer like any other.
    pub async fn refresh(&self, token: &AccessToken) -> Result<Result<AccessToken, Said>, ProviderError> {
        let mut url = self.config.api_url.join(&["api", "v2", "access_token", "refresh"]);
        url.query_pairs_mut().append_pair("access_token", token.expose());
        match self.object(Call::Refresh, self.with_secret(url, "key", "secret")).await {
            Ok(answer) => match new_token(&answer) {
                Some(token) => Ok(Ok(AccessToken::new(token))),
                None => Err(garbage(Call::Refresh, "the answer has no token")),
            },
            Err(Failure::Fault(fault)) if is_a_no(&fault) => Ok(Err(said(fault))),
            Err(failure) => Err(failure.into_error()),
        }
    }

    /// Ends a session, as [`revoke`](crate::provider::SessionProvider::revoke) does, and tells how that was answered.
    pub async fn invalidate(&self, token: &AccessToken) -> Result<Said, ProviderError> {
        match self.object(Call::Revoke, self.invalidation(token)?).await {
            Ok(answer) if says_no(&answer) => Ok(Said { code: None, text: "HTTP 200 with a no".to_owned() }),
            Ok(_) => Ok(Said { code: None, text: "HTTP 200".to_owned() }),
            Err(Failure::Fault(fault)) if is_a_no(&fault) => Ok(said(fault)),
            Err(failure) => Err(failure.into_error()),
        }
    }

    /// Whether the token of a listed session is dead, by asking whose it is.
    pub async fn is_dead(&self, token: &AccessToken) -> Result<bool, ProviderError> {
        let mut url = self.config.api_url.join(&["identity", "v2", "auth", "account"]);
        url.query_pairs_mut().append_pair("fields", "Uid");
        match self.object(Call::Identify, self.with_token(Call::Identify, url, token)?).await {
            Ok(_) => Ok(false),
            Err(Failure::Fault(Fault { kind: Kind::TokenDead | Kind::NobodyHome, .. })) => Ok(true),
            Err(failure) => Err(failure.into_error()),
        }
    }

    /// When the user logged in last, and whether the vendor limits his sessions.
    pub async fn probed_profile(&self, user: &UserId) -> Result<ProbedProfile, ProviderError> {
        let mut url = self.config.api_url.join(&["identity", "v2", "manage", "account", user.as_str()]);
        url.query_pairs_mut().append_pair("fields", "Uid,LastLoginDate,SessionsLimit");
        let request = self.with_secret(url, "apikey", "apisecret");
        let profile = self.object(Call::Profile, request).await.map_err(Failure::into_error)?;
        profile::uid(Call::Profile, &profile)?;
        Ok(ProbedProfile {
            last_login_at: profile::last_login_at(&profile),
            sessions_limit: profile::sessions_limit(&profile),
        })
    }
}

/// The vendor itself said no, and would say so again.
fn is_a_no(fault: &Fault) -> bool {
    fault.number.is_some_and(|code| code != 950) || !matches!(fault.kind, Kind::Unavailable | Kind::Throttled)
}

fn said(fault: Fault) -> Said {
    Said { code: fault.number, text: fault.text }
}

fn new_token(answer: &Map<String, Value>) -> Option<&str> {
    let (_, token) = answer.iter().find(|(key, _)| key.eq_ignore_ascii_case("access_token"))?;
    token.as_str().filter(|token| !token.is_empty())
}
