//! `[api]` and `[why]`: the session API and who may use it.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use super::reader::Reader;
use crate::model::TenantId;

/// What an app key may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Ask whether a user may come in: `checkpoint` and `preflight`.
    Checkpoint,
    /// Ask what became of a session: `verdict`.
    Verdict,
}

/// One key of an app. The key itself is nowhere: only its SHA-256.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppKey {
    pub name: String,
    /// Whose users it may ask about; `None` for all tenants.
    pub tenant: Option<TenantId>,
    pub sha256: [u8; 32],
    pub scopes: Vec<Scope>,
    pub expires: Option<Timestamp>,
}

impl AppKey {
    const NAME_BYTES_MAX: usize = 64;

    /// Whether a key may be called so: 1 to 64 letters, digits, `_` and `-`.
    pub fn is_name(name: &str) -> bool {
        let follows = |c: u8| c.is_ascii_alphanumeric() || c == b'_' || c == b'-';
        (1..=Self::NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(follows)
    }
}

/// `[api]`.
#[derive(Clone, Debug)]
pub struct ApiConfig {
    pub keys: Vec<AppKey>,
    /// Sites whose pages may call: `https://app.example`.
    pub origins: Vec<String>,
    /// Where it listens in a process that takes no webhooks; otherwise it shares their listener.
    pub listen: Option<SocketAddr>,
    /// Streams that may be open at once.
    pub streams_max: usize,
    /// How long an answer may wait for LoginRadius.
    pub wait_max: Duration,
    /// Percent of the calls to LoginRadius that it gets while logins wait.
    pub rate_percent: u32,
    pub key_requests_per_second: u32,
    pub token_requests_per_second: u32,
    pub address_requests_per_second: u32,
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether who was signed out is told the coarse place of the device that took over.
    pub why_place: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenKey {
    name: String,
    tenant: Option<String>,
    sha256: String,
    scopes: Vec<Scope>,
    expires: Option<String>,
}

pub(super) fn read(reader: &mut Reader) -> ApiConfig {
    let keys = read_keys(reader);
    let origins = read_list(reader, "api.origins", |value| {
        let text = value.as_str().unwrap_or_default();
        let is_origin = text.split_once("://").is_some_and(|(scheme, host)| {
            matches!(scheme, "http" | "https") && !host.is_empty() && !host.contains(['/', '*', ' ', '@', '?', '#'])
        });
        if is_origin { Ok(text.to_owned()) } else { Err("must look like https://app.example".to_owned()) }
    });
    let trusted_proxies = read_list(reader, "api.trusted_proxies", |value| {
        let text = value.as_str().unwrap_or_default();
        let network = text.parse::<IpAddr>().map(IpNet::from).ok().or_else(|| text.parse().ok());
        network.ok_or_else(|| "must be an IP address, or a network such as 10.0.0.0/8".to_owned())
    });
    ApiConfig {
        keys,
        origins,
        trusted_proxies,
        listen: reader.take_optional("api.listen"),
        streams_max: reader.take("api.streams_max"),
        wait_max: reader.take("api.wait_max"),
        rate_percent: reader.take("api.rate_percent"),
        key_requests_per_second: reader.take("api.key_requests_per_second"),
        token_requests_per_second: reader.take("api.token_requests_per_second"),
        address_requests_per_second: reader.take("api.address_requests_per_second"),
        why_place: reader.take("why.place"),
    }
}

/// The members of a list, each read by itself; every mistake is noted.
fn read_list<T>(reader: &mut Reader, name: &str, read: impl Fn(&Value) -> Result<T, String>) -> Vec<T> {
    read_places(reader, name, read).into_iter().map(|(_, value)| value).collect()
}

/// The same with the place of each.
fn read_places<T>(reader: &mut Reader, name: &str, read: impl Fn(&Value) -> Result<T, String>) -> Vec<(usize, T)> {
    let written: Option<Vec<Value>> = reader.take_optional(name);
    let mut good = Vec::new();
    for (place, value) in written.unwrap_or_default().iter().enumerate() {
        match read(value) {
            Ok(value) => good.push((place, value)),
            Err(problem) => reader.blame(name, format!("[{place}] {problem}")),
        }
    }
    good
}

fn read_keys(reader: &mut Reader) -> Vec<AppKey> {
    let keys = read_places(reader, "api.keys", read_key);
    let mut tenants = reader.settings().tenant_names();
    if reader.settings().mentions(&["loginradius"]) {
        tenants.insert(TenantId::default_tenant().as_str().to_owned());
    }
    for (n, (place, key)) in keys.iter().enumerate() {
        let before = || keys.iter().take(n);
        if let Some((first, _)) = before().find(|(_, other)| other.name == key.name) {
            reader.blame("api.keys", format!("[{place}] has the name of [{first}]: give each key its own"));
        }
        if let Some((first, _)) = before().find(|(_, other)| other.sha256 == key.sha256) {
            let remedy = "remove one of them, or make another key by `soloist api-key new`";
            reader.blame("api.keys", format!("[{place}] has the sha256 of [{first}], so it is the same key: {remedy}"));
        }
        if let Some(tenant) = key.tenant.as_ref().filter(|tenant| !tenants.contains(tenant.as_str())) {
            let is_default = *tenant == TenantId::default_tenant();
            let table = if is_default { "loginradius".to_owned() } else { format!("tenants.{tenant}.loginradius") };
            let remedy = format!("correct its name, or configure [{table}]");
            reader.blame("api.keys", format!("[{place}] is for tenant `{tenant}`, which is not configured: {remedy}"));
        }
    }
    keys.into_iter().map(|(_, key)| key).collect()
}

fn read_key(value: &Value) -> Result<AppKey, String> {
    let written = WrittenKey::deserialize(value).map_err(|error| format!("is no key: {error}"))?;
    if !AppKey::is_name(&written.name) {
        return Err("has a name that is not 1 to 64 letters, digits, '_' and '-'".to_owned());
    }
    let mut sha256 = [0; 32];
    hex::decode_to_slice(&written.sha256, &mut sha256).map_err(|_no_hex| "needs sha256 = 64 hex digits".to_owned())?;
    if written.scopes.is_empty() {
        return Err("has no scopes, so it may do nothing".to_owned());
    }
    let tenant =
        written.tenant.map(|tenant| TenantId::parse(&tenant)).transpose().map_err(|error| error.to_string())?;
    let expires = written.expires.map(|at| at.parse()).transpose();
    let expires = expires.map_err(|_no_time| "has expires that is no time like 2027-01-31T00:00:00Z".to_owned())?;
    Ok(AppKey { name: written.name, tenant, sha256, scopes: written.scopes, expires })
}
