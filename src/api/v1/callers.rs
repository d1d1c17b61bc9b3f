//! Who asks, and whether they may.
//!
//! An app server shows a key of the configuration, a user the access token that LoginRadius gave them; both come as a
//! Bearer token. Whose token it is LoginRadius says, by a call that does not prolong it.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::{ConnectInfo, Request};
use http::request::Parts;
use http::{HeaderMap, StatusCode, header};
use ipnet::IpNet;
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tokio::time::Instant;

use super::Api;
use super::input::TOKEN_BYTES_MAX;
use super::limits::{Limit, network, too_many};
use super::who::{App, User};
use crate::config::{ApiConfig, AppKey};
use crate::http::Problem;
use crate::model::{AccessToken, TenantId, TokenDigest, UserId};
use crate::provider::ProviderError;
use crate::telemetry::{ApiMetrics, labels};
use crate::worker::{StepError, TenantEnforcer};

/// What every app key begins with, so that nobody's token is taken for one.
pub const KEY_PREFIX: &str = "slk_";
/// How long it is believed whose token it is.
const IDENTITY_FOR: Duration = Duration::from_secs(5);
/// Tokens whose users are known; a hundred bytes each.
const IDENTITIES_MAX: usize = 100_000;
/// Refused attempts of one address, in a second, for every ten requests that it may make.
const REFUSED_PART: u32 = 10;
/// How long an address may not ask that was refused too often.
const BLOCKED_FOR: Duration = Duration::from_secs(5);
/// Addresses that may not ask; beyond it those whose time is over are cleared away.
const BLOCKED_MAX: usize = 100_000;
/// Names the tenant where there are several.
const TENANT_HEADER: &str = "soloist-tenant";

pub(super) const UNKNOWN: Problem = Problem::new(
    StatusCode::UNAUTHORIZED,
    "unauthenticated",
    "send a valid app key or the user's access token as a Bearer token in the Authorization header",
);
pub(super) const ENDED: Problem = Problem::new(
    StatusCode::UNAUTHORIZED,
    "session_ended",
    "this session was ended: POST /v1/why with the same token says why",
);
const NO_TENANT: Problem = Problem::new(
    StatusCode::FORBIDDEN,
    "tenant",
    "name a configured tenant that these credentials are for in the Soloist-Tenant header",
);

pub(super) struct Callers {
    keys: Vec<AppKey>,
    proxies: Vec<IpNet>,
    by_key: Limit<usize>,
    pub(super) by_token: Limit<TokenDigest>,
    by_address: Limit<IpAddr>,
    refused: Limit<IpAddr>,
    blocked: Mutex<HashMap<IpAddr, Instant>>,
    identities: Mutex<HashMap<(TenantId, TokenDigest), (UserId, Instant)>>,
}

impl Callers {
    pub(super) fn new(config: &ApiConfig) -> Self {
        Self {
            keys: config.keys.clone(),
            proxies: config.trusted_proxies.clone(),
            by_key: Limit::new(config.key_requests_per_second),
            by_token: Limit::new(config.token_requests_per_second),
            by_address: Limit::new(config.address_requests_per_second),
            refused: Limit::new((config.address_requests_per_second / REFUSED_PART).max(1)),
            blocked: Mutex::default(),
            identities: Mutex::default(),
        }
    }

    /// Whether this address may ask now. App servers are counted by their key.
    pub(super) fn admit_address(&self, request: &Request, now: Timestamp) -> Result<(), Problem> {
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
        let Some(address) = self.address(peer, request.headers()) else { return Ok(()) };
        let presented = bearer(request.headers()).filter(|bearer| bearer.starts_with(KEY_PREFIX));
        if presented.is_some_and(|key| self.key_of(key, now).is_some()) {
            return Ok(());
        }
        let blocked = self.blocked().get(&address).map(|until| until.saturating_duration_since(Instant::now()));
        match blocked.filter(|wait| !wait.is_zero()) {
            Some(wait) => Err(too_many(wait)),
            None => self.by_address.admit(&address),
        }
    }

    /// Credentials that are nobody's slow their address down; an address that goes on may not ask for a while.
    pub(super) fn refuse(&self, parts: &Parts) {
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        let Some(address) = self.address(peer, &parts.headers) else { return };
        if self.refused.admit(&address).is_err() {
            let mut blocked = self.blocked();
            if blocked.len() >= BLOCKED_MAX {
                blocked.retain(|_, until| Instant::now() < *until);
            }
            blocked.insert(address, Instant::now() + BLOCKED_FOR);
        }
    }

    fn blocked(&self) -> MutexGuard<'_, HashMap<IpAddr, Instant>> {
        self.blocked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who asks: behind proxies that are trusted, the last address that none of them is. Where one cannot be read, what
    /// stands before it may be anybody's word.
    fn address(&self, peer: Option<&ConnectInfo<SocketAddr>>, headers: &HeaderMap) -> Option<IpAddr> {
        let mut asking = peer?.0.ip().to_canonical();
        let lines: Vec<&str> =
            headers.get_all("x-forwarded-for").iter().filter_map(|line| line.to_str().ok()).collect();
        let mut named = lines.iter().rev().flat_map(|line| line.rsplit(','));
        while self.proxies.iter().any(|proxy| proxy.contains(&asking)) {
            let Some(before) = named.next().and_then(read_address) else { break };
            asking = before;
        }
        Some(network(asking))
    }

    fn key_of(&self, presented: &str, now: Timestamp) -> Option<(usize, &AppKey)> {
        let digest: [u8; 32] = Sha256::digest(presented.as_bytes()).into();
        // All are compared, so that the time tells nothing.
        let found = self.keys.iter().enumerate().fold(None, |found, (place, key)| {
            if bool::from(key.sha256.ct_eq(&digest)) { Some((place, key)) } else { found }
        });
        found.filter(|(_, key)| key.expires.is_none_or(|expires| now < expires))
    }

    fn identities(&self) -> MutexGuard<'_, HashMap<(TenantId, TokenDigest), (UserId, Instant)>> {
        self.identities.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `192.0.2.1`, `192.0.2.1:4711`, `[2001:db8::1]:4711` or `2001:db8::1`.
fn read_address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let ip = text.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()));
    ip.map(|ip: IpAddr| ip.to_canonical())
}

pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() && token.len() <= TOKEN_BYTES_MAX).then_some(token)
}

impl Api {
    /// Notes that these credentials are nobody's.
    pub(super) fn refuse(&self, parts: &Parts) {
        self.callers.refuse(parts);
        let [app_key, user_token, none] = ApiMetrics::CREDENTIALS;
        let credentials = match bearer(&parts.headers) {
            Some(key) if key.starts_with(KEY_PREFIX) => app_key,
            Some(_) => user_token,
            None => none,
        };
        self.sessions.metrics.api.refused.get_or_create(&labels([("credentials", credentials)])).inc();
    }

    pub(super) fn enforcer(&self, tenant: &TenantId) -> Result<&Arc<TenantEnforcer>, Problem> {
        self.sessions.tenants.get(tenant).ok_or(NO_TENANT)
    }

    /// The tenant that the header names; without it the default one, or the only one.
    pub(super) fn tenant_named(&self, headers: &HeaderMap) -> Result<(&TenantId, &Arc<TenantEnforcer>), Problem> {
        let tenants = &self.sessions.tenants;
        let found = if let Some(name) = headers.get(TENANT_HEADER) {
            let name = name.to_str().ok().and_then(|name| TenantId::parse(name).ok());
            name.and_then(|name| tenants.get_key_value(&name))
        } else {
            let only = || if tenants.len() == 1 { tenants.first_key_value() } else { None };
            tenants.get_key_value(&TenantId::default_tenant()).or_else(only)
        };
        found.ok_or(NO_TENANT)
    }

    pub(super) fn app(&self, headers: &HeaderMap, presented: &str) -> Result<App, Problem> {
        let (place, key) = self.callers.key_of(presented, self.sessions.clock.now()).ok_or(UNKNOWN)?;
        self.callers.by_key.admit(&place)?;
        let tenant = match (&key.tenant, headers.get(TENANT_HEADER)) {
            (Some(own), None) => own,
            (own, _) => {
                let (named, _) = self.tenant_named(headers)?;
                if own.as_ref().is_some_and(|own| own != named) {
                    return Err(NO_TENANT);
                }
                named
            }
        };
        Ok(App { sha256: key.sha256, scopes: key.scopes.clone(), tenant: tenant.clone() })
    }

    pub(super) async fn user(&self, headers: &HeaderMap, presented: &str) -> Result<User, Problem> {
        let token = AccessToken::new(presented);
        self.callers.by_token.admit(&token.digest())?;
        let (tenant, enforcer) = self.tenant_named(headers)?;
        self.identify(tenant, enforcer, token).await
    }

    /// Whose token it is, as LoginRadius said within the last seconds; one that we ended is dead at once.
    pub(super) async fn identify(
        &self,
        tenant: &TenantId,
        enforcer: &TenantEnforcer,
        token: AccessToken,
    ) -> Result<User, Problem> {
        let digest = token.digest();
        if self.sessions.endings.has_ended(tenant, digest.session_id(), self.sessions.clock.now()) {
            return Err(ENDED);
        }
        let key = (tenant.clone(), digest);
        let known = self.callers.identities().get(&key).filter(|(_, at)| at.elapsed() < IDENTITY_FOR).cloned();
        if let Some((id, _)) = known {
            return Ok(User { tenant: tenant.clone(), id, token });
        }
        let identified = self.in_time(async {
            match enforcer.identify(&token, self.sessions.config.wait_max).await {
                Err(StepError::Provider(ProviderError::Refused(_) | ProviderError::UserUnknown(_))) => Ok(None),
                answered => answered.map(Some),
            }
        });
        let Some(id) = identified.await? else {
            return Err(UNKNOWN);
        };
        // It may have been ended while we asked.
        if self.sessions.endings.has_ended(tenant, digest.session_id(), self.sessions.clock.now()) {
            return Err(ENDED);
        }
        let mut identities = self.callers.identities();
        if identities.len() >= IDENTITIES_MAX {
            identities.retain(|_, (_, at)| at.elapsed() < IDENTITY_FOR);
        }
        if identities.len() < IDENTITIES_MAX {
            identities.insert(key, (id.clone(), Instant::now()));
        }
        Ok(User { tenant: tenant.clone(), id, token })
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn callers(proxies: &[&str]) -> Callers {
        Callers {
            keys: Vec::new(),
            proxies: proxies.iter().map(|network| network.parse().unwrap()).collect(),
            by_key: Limit::new(1),
            by_token: Limit::new(1),
            by_address: Limit::new(1),
            refused: Limit::new(1),
            blocked: Mutex::default(),
            identities: Mutex::default(),
        }
    }

    fn asks(callers: &Callers, peer: &str, forwarded: Option<&'static str>) -> String {
        let peer = ConnectInfo(SocketAddr::new(peer.parse().unwrap(), 1));
        let headers = forwarded
            .map(|value| (header::HeaderName::from_static("x-forwarded-for"), HeaderValue::from_static(value)));
        callers.address(Some(&peer), &headers.into_iter().collect()).unwrap().to_string()
    }

    #[test]
    fn only_proxies_that_are_trusted_say_who_asks() {
        let direct = callers(&[]);
        assert_eq!(asks(&direct, "192.0.2.1", Some("198.51.100.7")), "192.0.2.1");
        let behind = callers(&["192.0.2.1/32", "192.0.2.2/32"]);
        assert_eq!(asks(&behind, "192.0.2.1", Some("203.0.113.9, 198.51.100.7, 192.0.2.2")), "198.51.100.7");
        assert_eq!(asks(&behind, "192.0.2.1", Some("198.51.100.7:4711")), "198.51.100.7");
        for junk in ["junk", "203.0.113.9, unknown"] {
            assert_eq!(asks(&behind, "192.0.2.1", Some(junk)), "192.0.2.1", "{junk}");
        }
        assert_eq!(asks(&behind, "::ffff:192.0.2.1", Some("2001:db8:1:2:3::4")), "2001:db8:1:2::");
        let cluster = callers(&["10.0.0.0/8", "2001:db8::/32"]);
        assert_eq!(asks(&cluster, "10.1.2.3", Some("198.51.100.7, 2001:db8::5")), "198.51.100.7");
        assert_eq!(asks(&cluster, "11.1.2.3", Some("198.51.100.7")), "11.1.2.3");
    }

    #[test]
    fn a_bearer_token_is_read_in_any_case_of_its_scheme_and_up_to_its_limit() {
        let read = |value: &str| {
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap())]);
            bearer(&headers).map(str::to_owned)
        };
        assert_eq!(read("bearer abc").as_deref(), Some("abc"));
        for junk in ["abc", "Basic abc", "Bearer", "Bearer  ", &format!("Bearer {}", "x".repeat(TOKEN_BYTES_MAX + 1))] {
            assert_eq!(read(junk), None, "{junk}");
        }
    }
}
