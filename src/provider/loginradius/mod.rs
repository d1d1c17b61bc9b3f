//! The LoginRadius client. The vendor's habits stay in here: spellings, codes inside HTTP 200, GETs with effects.
//!
//! What it sends, all of it `GET` (the vendor ends sessions with a GET, so no cache and no prefetcher may sit between):
//!
//! | call | path | credentials |
//! |---|---|---|
//! | list | `/api/v2/access_token/activesession` | key and secret |
//! | revoke | `/identity/v2/auth/access_token/invalidate` | the token, `apikey` |
//! | identify | `/identity/v2/auth/account` | the token, `apikey` |
//! | traits | `/identity/v2/manage/account/{uid}[/role]` | key and secret |
//! | refresh | `/api/v2/access_token/refresh`; only `soloist check --probe` makes this one | key and secret |

mod answer;
mod probing;
mod profile;
mod rows;
mod tolerant;
mod transport;

use std::collections::HashSet;
use std::fmt;
use std::time::Duration;

use anyhow::anyhow;
use async_trait::async_trait;
use http::header::{AUTHORIZATION, HeaderValue};
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use reqwest::{Client, RequestBuilder, Url};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Map, Value};

use self::answer::{Call, ErrorCode, Failure, Fault, Kind, garbage};
use self::rows::{Cursor, Page};
use super::{ProviderError, Revoked, SessionProvider};
use crate::model::{AccessToken, UserId, UserTraits, View};

pub use self::probing::{ProbedProfile, Said};
pub use self::rows::{deserialize_sessions, read_sessions};
pub use self::transport::{ApiUrl, BadApiUrl};

/// Pages read for one listing. No published sample has a second one.
pub const PAGES_MAX: usize = 50;
/// Sessions kept of one listing; more make it incomplete.
pub const ROWS_MAX: usize = 5_000;

/// Where the API key and secret travel on calls that need both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CredentialsIn {
    /// `X-LoginRadius-ApiKey` and `X-LoginRadius-ApiSecret`: nothing secret in a URL, so nothing in access logs.
    #[default]
    Headers,
    /// `key` and `secret` on the listing, `apikey` and `apisecret` elsewhere, as the older documentation has it.
    Query,
}

/// Everything the client of one tenant needs to know.
#[derive(Clone, Debug)]
pub struct LoginRadiusConfig {
    pub api_url: ApiUrl,
    /// Public at the vendor: its own web pages carry it.
    pub api_key: SecretString,
    pub api_secret: SecretString,
    pub credentials_in: CredentialsIn,
    pub connect_timeout: Duration,
    /// For one HTTP exchange from connecting to the last byte of the body.
    pub timeout: Duration,
}

impl LoginRadiusConfig {
    pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
    pub const TIMEOUT: Duration = Duration::from_secs(5);

    /// Credentials in headers, the default timeouts.
    pub fn new(api_url: ApiUrl, api_key: SecretString, api_secret: SecretString) -> Self {
        Self {
            api_url,
            api_key,
            api_secret,
            credentials_in: CredentialsIn::Headers,
            connect_timeout: Self::CONNECT_TIMEOUT,
            timeout: Self::TIMEOUT,
        }
    }
}

/// One tenant's LoginRadius.
pub struct LoginRadius {
    config: LoginRadiusConfig,
    client: Client,
    key_header: HeaderValue,
    secret_header: HeaderValue,
}

impl LoginRadius {
    /// Fails where a credential cannot be a header, or where the system offers no CA certificates for https.
    pub fn new(config: LoginRadiusConfig) -> anyhow::Result<Self> {
        let client = transport::client(&config.api_url, config.connect_timeout, config.timeout)?;
        let header = |name: &str, value: &SecretString| {
            sensitive(value.expose_secret()).ok_or_else(|| anyhow!("{name} must be visible ASCII characters"))
        };
        let key_header = header("api_key", &config.api_key)?;
        let secret_header = header("api_secret", &config.api_secret)?;
        Ok(Self { config, client, key_header, secret_header })
    }

    /// The sessions of the user whose token this is. The token travels in the URL: the vendor has no other way, and
    /// this is the only call that does so. A dead token is [`ProviderError::Refused`].
    pub async fn list_by_token(&self, token: &AccessToken) -> Result<View, ProviderError> {
        self.list_pages(Call::ListByToken, ("token", token.expose())).await
    }

    /// Whether key and secret are accepted, by one listing of a user who does not exist.
    ///
    /// An unknown user may answer with an error code or with an empty list; the vendor does not say which.
    pub async fn probe(&self) -> Result<(), ProviderError> {
        match self.page(Call::List, ("accountid", "soloist-probe-no-such-user"), None).await {
            Ok(_) | Err(Failure::Fault(Fault { kind: Kind::UserUnknown | Kind::NobodyHome | Kind::CursorEnd, .. })) => {
                Ok(())
            }
            Err(failure) => Err(failure.into_error()),
        }
    }

    /// Reads page after page, each within its own timeout.
    ///
    /// No parameter for the cursor is documented; `nextcursor` is what the vendor's contact listing of the same family
    /// takes. So whatever looks odd ends the paging and leaves the view incomplete.
    async fn list_pages(&self, call: Call, user: (&str, &str)) -> Result<View, ProviderError> {
        let mut view = View { sessions: Vec::new(), complete: true };
        let mut cursors = HashSet::new();
        let mut first_rows = HashSet::new();
        let mut cursor = None;
        for _ in 0..PAGES_MAX {
            let page = match self.page(call, user, cursor).await {
                Ok(page) => page,
                Err(failure) => return end_of_listing(failure, view, cursor.is_some()),
            };
            let repeated = page.view.sessions.first().is_some_and(|first| !first_rows.insert(first.digest));
            if repeated {
                return Ok(View { complete: false, ..view });
            }
            view.complete &= page.view.complete;
            view.sessions.extend(page.view.sessions);
            if view.sessions.len() > ROWS_MAX {
                view.sessions.truncate(ROWS_MAX);
                return Ok(View { complete: false, ..view });
            }
            cursor = match page.cursor {
                Cursor::End => return Ok(view),
                Cursor::Next(next) if cursors.insert(next) => Some(next),
                Cursor::Next(_) | Cursor::Unreadable => return Ok(View { complete: false, ..view }),
            };
        }
        Ok(View { complete: false, ..view })
    }

    async fn page(&self, call: Call, user: (&str, &str), cursor: Option<u32>) -> Result<Page, Failure> {
        let mut url = self.config.api_url.join(&["api", "v2", "access_token", "activesession"]);
        url.query_pairs_mut().append_pair(user.0, user.1);
        if let Some(cursor) = cursor {
            url.query_pairs_mut().append_pair("nextcursor", &cursor.to_string());
        }
        let answer = transport::send(call, self.with_secret(url, "key", "secret")).await?;
        read_page(call, answer.status, &answer.headers, &answer.body)
    }

    /// A request for what only a server may ask.
    fn with_secret(&self, mut url: Url, key: &str, secret: &str) -> RequestBuilder {
        match self.config.credentials_in {
            CredentialsIn::Headers => self
                .client
                .get(url)
                .header("X-LoginRadius-ApiKey", self.key_header.clone())
                .header("X-LoginRadius-ApiSecret", self.secret_header.clone()),
            CredentialsIn::Query => {
                url.query_pairs_mut()
                    .append_pair(key, self.config.api_key.expose_secret())
                    .append_pair(secret, self.config.api_secret.expose_secret());
                self.client.get(url)
            }
        }
    }

    /// A request in the name of a token. The vendor documents the key for these calls as a query parameter only; it is
    /// no secret. The API secret is not sent.
    fn with_token(&self, call: Call, mut url: Url, token: &AccessToken) -> Result<RequestBuilder, ProviderError> {
        let Some(bearer) = sensitive(&format!("Bearer {}", token.expose())) else {
            return Err(ProviderError::Refused(anyhow!(
                "{call}: the token contains characters that no header can carry"
            )));
        };
        url.query_pairs_mut().append_pair("apikey", self.config.api_key.expose_secret());
        Ok(self.client.get(url).header(AUTHORIZATION, bearer))
    }

    /// Without `preventRefresh` the ended session could be refreshed, and would come back without a login event.
    fn invalidation(&self, token: &AccessToken) -> Result<RequestBuilder, ProviderError> {
        let mut url = self.config.api_url.join(&["identity", "v2", "auth", "access_token", "invalidate"]);
        url.query_pairs_mut().append_pair("preventRefresh", "true");
        self.with_token(Call::Revoke, url, token)
    }

    /// Sends a request whose answer is one object.
    async fn object(&self, call: Call, request: RequestBuilder) -> Result<Map<String, Value>, Failure> {
        let answer = transport::send(call, request).await?;
        let object = serde_json::from_slice::<Map<String, Value>>(&answer.body).ok();
        let code = object.as_ref().map_or(ErrorCode::None, ErrorCode::of);
        if let Some(fault) = fault(call, answer.status, &answer.headers, code) {
            return Err(Failure::Fault(fault));
        }
        object.ok_or_else(|| Failure::Error(garbage(call, "the answer is no JSON object")))
    }

    /// For tenants whose profiles come without roles.
    async fn roles(&self, account: &[&str]) -> Result<Vec<String>, ProviderError> {
        let url = self.config.api_url.join(&[account, &["role"]].concat());
        let request = self.with_secret(url, "apikey", "apisecret");
        let answer = self.object(Call::Roles, request).await.map_err(Failure::into_error)?;
        profile::roles(Call::Roles, &answer).unwrap_or_else(|| Err(garbage(Call::Roles, "the answer has no roles")))
    }
}

#[async_trait]
impl SessionProvider for LoginRadius {
    async fn list(&self, user: &UserId) -> Result<View, ProviderError> {
        self.list_pages(Call::List, ("accountid", user.as_str())).await
    }

    async fn revoke(&self, token: &AccessToken) -> Result<Revoked, ProviderError> {
        match self.object(Call::Revoke, self.invalidation(token)?).await {
            Ok(answer) if says_no(&answer) => Err(garbage(Call::Revoke, "the answer says that nothing was done")),
            Ok(_) => Ok(Revoked::Done),
            Err(Failure::Fault(Fault { kind: Kind::TokenDead | Kind::NobodyHome, .. })) => Ok(Revoked::AlreadyGone),
            Err(failure) => Err(failure.into_error()),
        }
    }

    /// By the profile of the token's owner. The vendor's token validation would prolong the token; this does not.
    /// A token that is invalid or expired is [`ProviderError::Refused`].
    async fn identify(&self, token: &AccessToken) -> Result<UserId, ProviderError> {
        let mut url = self.config.api_url.join(&["identity", "v2", "auth", "account"]);
        url.query_pairs_mut().append_pair("fields", "Uid");
        let request = self.with_token(Call::Identify, url, token)?;
        let profile = self.object(Call::Identify, request).await.map_err(Failure::into_error)?;
        profile::uid(Call::Identify, &profile)
    }

    async fn traits(&self, user: &UserId) -> Result<UserTraits, ProviderError> {
        let account = ["identity", "v2", "manage", "account", user.as_str()];
        let mut url = self.config.api_url.join(&account);
        url.query_pairs_mut().append_pair("fields", "Uid,Roles,CustomFields,Email,SessionsLimit");
        let request = self.with_secret(url, "apikey", "apisecret");
        let profile = self.object(Call::Profile, request).await.map_err(Failure::into_error)?;
        // Somebody else's roles would choose the wrong policy, and exempt or end the wrong user.
        if !profile::uid(Call::Profile, &profile)?.as_str().eq_ignore_ascii_case(user.as_str()) {
            return Err(garbage(Call::Profile, "the profile is another user's"));
        }
        let roles = match profile::roles(Call::Profile, &profile) {
            Some(roles) => roles?,
            None => self.roles(&account).await?,
        };
        Ok(UserTraits {
            roles,
            email_domains: profile::email_domains(Call::Profile, &profile)?,
            custom_fields: profile::custom_fields(Call::Profile, &profile)?,
            sessions_limit: profile::sessions_limit(&profile),
        })
    }
}

/// What a listing comes to of which this is the only answer; one that names a further page is not complete.
pub fn read_listing(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Result<View, ProviderError> {
    match read_page(Call::List, status, headers, body) {
        Ok(page) => Ok(View { complete: page.view.complete && page.cursor == Cursor::End, ..page.view }),
        Err(failure) => end_of_listing(failure, View { sessions: Vec::new(), complete: true }, false),
    }
}

fn read_page(call: Call, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Result<Page, Failure> {
    let page = Page::read(body);
    let code = page.as_ref().map_or(ErrorCode::None, |page| page.code);
    if let Some(fault) = fault(call, status, headers, code) {
        return Err(Failure::Fault(fault));
    }
    match page {
        Some(page) if page.recognised => Ok(page),
        _ => Err(Failure::Error(garbage(call, "the answer is no session list"))),
    }
}

/// What a page that could not be read makes of the listing. While paging, a refusal may well be about the cursor, whose
/// parameter is a guess: the rows so far count, the view is incomplete.
fn end_of_listing(failure: Failure, view: View, paging: bool) -> Result<View, ProviderError> {
    match failure {
        Failure::Fault(Fault { kind: Kind::CursorEnd, .. }) => Ok(view),
        Failure::Fault(Fault { kind: Kind::NobodyHome, .. }) if !paging => Ok(view),
        Failure::Fault(Fault { kind: Kind::CursorBad | Kind::Refused | Kind::NobodyHome, .. }) if paging => {
            Ok(View { complete: false, ..view })
        }
        failure => Err(failure.into_error()),
    }
}

fn fault(call: Call, status: StatusCode, headers: &HeaderMap, code: ErrorCode) -> Option<Fault> {
    Fault::of(call, status, code, answer::retry_after(headers, now))
}

/// `IsPosted` or `isPosted` is true, or missing, when a session was ended. Instead of it, words: the vendor's own Java
/// SDK takes HTTP 200 with a description for a failure.
fn says_no(answer: &Map<String, Value>) -> bool {
    let posted = answer.iter().find(|(key, _)| key.eq_ignore_ascii_case("isposted"));
    let is_word = |key: &String| key.eq_ignore_ascii_case("description") || key.eq_ignore_ascii_case("message");
    posted.map_or_else(|| answer.keys().any(is_word), |(_, value)| *value != Value::Bool(true))
}

/// A header value that `Debug` hides. ASCII only: what a gateway makes of other bytes is anybody's guess.
fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok().filter(|_| text.is_ascii())?;
    value.set_sensitive(true);
    Some(value)
}

#[expect(clippy::disallowed_methods, reason = "a Retry-After date means the wall clock at the moment of its arrival")]
fn now() -> Timestamp {
    Timestamp::now()
}

impl fmt::Debug for LoginRadius {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoginRadius").field("api_url", &self.config.api_url).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_with_a_credential_does_not_print_it() {
        let header = sensitive("Bearer canary").unwrap();
        assert!(!format!("{header:?}").contains("canary"));
        assert_eq!(header.to_str().unwrap(), "Bearer canary");
    }
}
