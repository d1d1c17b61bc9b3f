//! What commands need of the parts without a running service: the rule on given rows, a probe of credentials, the time.

use std::collections::HashSet;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::loginradius;
use crate::api::{admin, v1};
use crate::clock::Clock;
use crate::config::{Config, LoginRadiusSection, NotifyEndpoint};
use crate::model::{SessionId, TenantId, UserId, View};
use crate::notify;
use crate::policy::{self, Decision, Marks, Subject, written};
use crate::probe::Prober;
use crate::provider::ProviderError;
use crate::provider::loginradius::read_sessions;
use crate::queue::rabbitmq;
pub use crate::queue::rabbitmq::{BrokerTrouble, Duty as BrokerDuty};

/// Decides one line of `soloist decide`.
///
/// # Errors
/// What is wrong with the line. No value of it is quoted, because rows hold tokens.
pub fn decide_line(line: &str) -> Result<Decision, String> {
    let wrong = |error: serde_json::Error| format!("not JSON (column {})", error.column());
    let Value::Object(mut fields) = serde_json::from_str(line).map_err(wrong)? else {
        return Err("must be a JSON object with `policy` and `sessions`".to_owned());
    };
    let written = fields.remove("policy").ok_or("`policy` is missing")?;
    let policy = written::policy(&written, "policy")
        .map_err(|mistakes| mistakes.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))?;
    let view = view(&mut fields)?;
    let marks = Marks { pinned: session_ids(&mut fields, "pinned")?, ignored: session_ids(&mut fields, "ignored")? };
    let tenant = word(&mut fields, "tenant")?.map(|raw| TenantId::parse(&raw)).transpose();
    let tenant = tenant.map_err(|error| format!("`tenant`: {error}"))?;
    let user = word(&mut fields, "uid")?.map(|raw| UserId::parse(&raw)).transpose();
    let user = user.map_err(|error| format!("`uid`: {error}"))?;
    if let Some(unknown) = fields.keys().next() {
        let known = "policy, sessions, complete, pinned, ignored, tenant, uid";
        return Err(format!("`{}` is none of {known}", unknown.escape_debug()));
    }
    Ok(policy::decide(&view, &policy, &marks, Subject { tenant: tenant.as_ref(), user: user.as_ref() }))
}

fn view(fields: &mut Map<String, Value>) -> Result<View, String> {
    let complete = match fields.remove("complete") {
        None => true,
        Some(Value::Bool(complete)) => complete,
        Some(_) => return Err("`complete` must be true or false".to_owned()),
    };
    match fields.remove("sessions") {
        Some(rows @ Value::Array(_)) => {
            let view = read_sessions(&rows);
            Ok(View { complete: view.complete && complete, ..view })
        }
        Some(_) => Err("`sessions` must be a list of rows".to_owned()),
        None => Err("`sessions` is missing".to_owned()),
    }
}

fn session_ids(fields: &mut Map<String, Value>, key: &str) -> Result<HashSet<SessionId>, String> {
    let read = |id: &Value| id.as_str().and_then(|raw| SessionId::parse(raw).ok());
    let ids = match fields.remove(key) {
        None | Some(Value::Null) => Some(HashSet::new()),
        Some(Value::Array(ids)) => ids.iter().map(read).collect(),
        Some(_) => None,
    };
    ids.ok_or_else(|| format!("`{key}` must be a list of session ids, 32 hex digits each"))
}

fn word(fields: &mut Map<String, Value>, key: &str) -> Result<Option<String>, String> {
    match fields.remove(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(word)) => Ok(Some(word)),
        Some(_) => Err(format!("`{key}` must be a text")),
    }
}

/// Why a tenant's API cannot be used, and what to do about it.
#[derive(Debug)]
pub struct ProbeFailed {
    pub why: anyhow::Error,
    pub remedy: &'static str,
}

/// Whether the tenant's key and secret are accepted, by one listing of a user who does not exist.
pub async fn probe(section: &LoginRadiusSection) -> Result<(), ProbeFailed> {
    const CLIENT: &str = "see the message: a credential that no header can carry, or no CA certificates on this system";
    let client = loginradius(section).map_err(|why| ProbeFailed { why, remedy: CLIENT })?;
    client.probe().await.map_err(|error| {
        let remedy = match &error {
            ProviderError::Unauthorized(_) => {
                "compare api_key and api_secret with the LoginRadius console, and see whether it restricts IP addresses"
            }
            ProviderError::Throttled { .. } => {
                "lower loginradius.requests_per_second, or see who else uses the tenant's API limit"
            }
            ProviderError::Unavailable(_) => "check api_url, DNS and the way out to the internet",
            ProviderError::UserUnknown(_) | ProviderError::Refused(_) => "check api_url: it may be no LoginRadius API",
        };
        ProbeFailed { why: anyhow::Error::new(error), remedy }
    })
}

/// A probe of one user at a tenant, which has looked at him once.
pub async fn prober(section: &LoginRadiusSection, user: &UserId) -> anyhow::Result<Prober> {
    Ok(Prober::begin(loginradius(section)?, user.clone()).await?)
}

/// Whether a process with these duties could work with the configured broker; where that is.
///
/// # Errors
/// What is wrong first, and what to do about it.
pub async fn probe_broker(config: &Config, duties: &[BrokerDuty]) -> Result<String, BrokerTrouble> {
    let tenants = config.tenants.keys().cloned().collect();
    rabbitmq::probe(&config.queue.rabbitmq, &tenants, duties).await
}

/// Where an endpoint of notices leads, without sending it anything.
///
/// # Errors
/// Why it could not be told.
pub async fn look_at_endpoint(endpoint: &NotifyEndpoint) -> anyhow::Result<String> {
    notify::look_at(endpoint).await
}

/// Whether the texts of notices can be read.
pub fn read_notify_texts(config: &Config) -> anyhow::Result<()> {
    notify::Texts::read(config.notify_texts.as_deref()).map(drop)
}

/// The wall clock, for commands: they start, so they may read it.
pub fn now() -> Timestamp {
    Clock::start().now()
}

/// Random bytes of an app's key.
const KEY_BYTES: usize = 32;

/// A new key for an app, and the SHA-256 of it for the configuration, in hex.
pub fn new_api_key() -> (String, String) {
    let key = format!("{}{}", v1::KEY_PREFIX, URL_SAFE_NO_PAD.encode(rand::random::<[u8; KEY_BYTES]>()));
    let sha256 = hex::encode(Sha256::digest(key.as_bytes()));
    (key, sha256)
}

/// The OpenAPI 3.1 description of the session API, or of the admin API, as JSON.
///
/// # Errors
/// Never, as far as anybody knows: it is made of constants.
pub fn openapi(is_admin: bool) -> anyhow::Result<String> {
    let document = if is_admin { admin::document() } else { v1::document() };
    Ok(document.to_pretty_json()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_line_is_told_what_is_wrong_without_quoting_it() {
        let ok = r#""sessions":[]"#;
        for (line, expected) in [
            (r#"{"sessions": ["canary"#.to_owned(), "not JSON (column"),
            ("[]".to_owned(), "must be a JSON object"),
            (format!("{{{ok}}}"), "`policy` is missing"),
            (r#"{"policy":{}}"#.to_owned(), "`sessions` is missing"),
            (r#"{"policy":{},"sessions":"canary"}"#.to_owned(), "`sessions` must be a list"),
            (format!(r#"{{"policy":{{"limit":0}},{ok}}}"#), "policy.limit"),
            (format!(r#"{{"policy":{{}},{ok},"pinned":["canary"]}}"#), "`pinned` must be a list of session ids"),
            (format!(r#"{{"policy":{{}},{ok},"complete":1}}"#), "`complete` must be"),
            (format!(r#"{{"policy":{{}},{ok},"uid":"a/canary"}}"#), "`uid`: a uid must be"),
            (format!(r#"{{"policy":{{}},{ok},"pined":[]}}"#), "`pined` is none of"),
        ] {
            let error = decide_line(&line).unwrap_err();
            assert!(error.contains(expected) && !error.contains("canary"), "{line}: {error}");
        }
    }
}
