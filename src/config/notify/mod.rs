//! `[[notify]]`: who is told that sessions were ended, and how.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Map, Value};

use super::grammar::{Grammar, Setting};
use super::mistake::{HIDDEN, nearest, shown};
use super::reader::Reader;
use super::settings::{Origin, read_text};
use super::{Effective, TenantConfig};
use crate::model::TenantId;

/// Endpoints that there may be.
const ENDPOINTS_MAX: usize = 32;
const NAME_BYTES_MAX: usize = 63;
/// Bytes of a secret, as Standard Webhooks has it.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
const SECRET_PREFIX: &str = "whsec_";
const TIMEOUT: Duration = Duration::from_secs(10);
const TIMEOUT_GRAMMAR: Grammar = Grammar::Duration { min: Duration::from_millis(100), max: Duration::from_mins(1) };
const KEYS: [&str; 12] = [
    "name",
    "url",
    "secret",
    "secret_file",
    "tenant",
    "events",
    "format",
    "allow_private",
    "timeout",
    "issuer",
    "audience",
    "signing_key_file",
];

/// What somebody may be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NotifyEvent {
    SessionRevoked,
    SessionRejected,
    UserContended,
    BudgetExceeded,
}

impl NotifyEvent {
    pub const ALL: [Self; 4] = [Self::SessionRevoked, Self::SessionRejected, Self::UserContended, Self::BudgetExceeded];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::SessionRevoked => "session.revoked",
            Self::SessionRejected => "session.rejected",
            Self::UserContended => "user.contended",
            Self::BudgetExceeded => "tenant.budget_exceeded",
        }
    }

    pub fn parse(raw: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|event| event.as_str() == raw)
    }
}

/// One table of `[[notify]]`.
#[derive(Clone, Debug)]
pub struct NotifyEndpoint {
    /// Unique; fit for a label.
    pub name: String,
    /// https, or http where `allow_private`; without user and fragment.
    pub url: String,
    /// `None`: of all tenants.
    pub tenant: Option<TenantId>,
    /// At least one.
    pub events: BTreeSet<NotifyEvent>,
    pub format: NotifyFormat,
    /// Whether addresses of private networks and of this machine may be called.
    pub allow_private: bool,
    pub timeout: Duration,
}

/// The form in which somebody is told.
#[derive(Clone, Debug)]
pub enum NotifyFormat {
    /// Standard Webhooks.
    Standard { secret: SecretString },
    /// Security event tokens of CAEP, pushed by RFC 8935.
    Caep { issuer: String, audience: String, signing_key_file: PathBuf },
}

/// The bytes of a secret `whsec_…`.
pub fn webhook_secret(secret: &SecretString) -> Option<Vec<u8>> {
    let bytes = STANDARD.decode(secret.expose_secret().trim().strip_prefix(SECRET_PREFIX)?).ok()?;
    SECRET_BYTES.contains(&bytes.len()).then_some(bytes)
}

/// Every endpoint that is whole; what is wrong with the others is noted.
pub(super) fn read(reader: &mut Reader, tenants: &BTreeMap<TenantId, TenantConfig>) -> Vec<NotifyEndpoint> {
    let Some(entry) = reader.settings().get(&["notify".to_owned()]).cloned() else {
        reader.list("notify".to_owned(), "(not set)".to_owned(), Origin::Default);
        return Vec::new();
    };
    let Value::Array(written) = &entry.value else {
        reader.note("notify".to_owned(), None, Some(entry.origin), "must be a list of tables: [[notify]]");
        return Vec::new();
    };
    if written.len() > ENDPOINTS_MAX {
        reader.note(
            "notify".to_owned(),
            None,
            Some(entry.origin.clone()),
            format!("has more than {ENDPOINTS_MAX} tables"),
        );
    }
    let (mut endpoints, mut names) = (Vec::new(), BTreeSet::new());
    for (at, table) in written.iter().enumerate().take(ENDPOINTS_MAX) {
        let at = format!("notify[{at}]");
        let Some(fields) = table.as_object() else {
            reader.note(at, None, Some(entry.origin.clone()), "must be a table");
            continue;
        };
        let mut table = Table { at, fields, origin: &entry.origin, reader };
        if let Some(endpoint) = table.endpoint(tenants) {
            if !names.insert(endpoint.name.clone()) {
                table.blame("name", "is the name of another table, too");
            }
            endpoints.push(endpoint);
        }
    }
    endpoints
}

/// One table while it is read.
struct Table<'a> {
    at: String,
    fields: &'a Map<String, Value>,
    origin: &'a Origin,
    reader: &'a mut Reader,
}

impl Table<'_> {
    fn endpoint(&mut self, tenants: &BTreeMap<TenantId, TenantConfig>) -> Option<NotifyEndpoint> {
        self.list_all();
        self.blame_unknown();
        let name = self.word("name", "1 to 63 of a-z, 0-9, _ and -", is_name);
        let allow_private = self.take("allow_private", Grammar::Flag).unwrap_or(false);
        let form = "an https:// address without user and # (http:// with allow_private = true)";
        let url = self.word("url", form, |url| is_url(url, allow_private));
        let timeout = self.take("timeout", TIMEOUT_GRAMMAR).unwrap_or(TIMEOUT);
        let tenant = self.tenant(tenants);
        let events = self.events();
        let format = self.format();
        let sessions = BTreeSet::from([NotifyEvent::SessionRevoked, NotifyEvent::SessionRejected]);
        if let (Some(NotifyFormat::Caep { .. }), Some(events)) = (&format, &events)
            && events.is_disjoint(&sessions)
        {
            self.blame("events", "must name session.revoked or session.rejected: format = \"caep\" tells no others");
        }
        Some(NotifyEndpoint {
            name: name?,
            url: url?,
            tenant,
            events: events?,
            format: format?,
            allow_private,
            timeout,
        })
    }

    fn format(&mut self) -> Option<NotifyFormat> {
        let is_caep = match self.fields.get("format").map(Value::as_str) {
            None | Some(Some("standard")) => false,
            Some(Some("caep")) => true,
            Some(_) => {
                self.blame("format", "must be one of standard, caep");
                return None;
            }
        };
        let needless: &[&str] =
            if is_caep { &["secret", "secret_file"] } else { &["issuer", "audience", "signing_key_file"] };
        for key in needless.iter().filter(|key| self.fields.contains_key(**key)) {
            self.blame(key, format!("is of no use with format = \"{}\"", if is_caep { "caep" } else { "standard" }));
        }
        if !is_caep {
            return Some(NotifyFormat::Standard { secret: self.secret()? });
        }
        let is_text = |text: &str| !text.trim().is_empty();
        let issuer = self.word("issuer", "the address that names this service to the receiver", is_text);
        let audience = self.word("audience", "what the receiver calls itself", is_text);
        let key = self.word("signing_key_file", "a PEM file with an ES256 or Ed25519 key", is_text);
        Some(NotifyFormat::Caep { issuer: issuer?, audience: audience?, signing_key_file: key?.into() })
    }

    fn secret(&mut self) -> Option<SecretString> {
        const FORM: &str = "must be whsec_ and the base64 of 24 to 64 bytes, such as \
                            echo \"whsec_$(openssl rand -base64 32)\" makes";
        let (given, in_file) = (self.fields.get("secret"), self.fields.get("secret_file"));
        let (key, text) = match (given, in_file) {
            (None, None) => {
                self.blame("secret", format!("is missing; it {FORM}"));
                return None;
            }
            (Some(_), Some(_)) => {
                self.blame("secret_file", "is given beside secret; give one of them");
                return None;
            }
            (Some(given), None) => ("secret", given.as_str().map(str::to_owned)),
            (None, Some(path)) => match read_text(path.as_str().unwrap_or_default().as_ref()) {
                Ok(text) => ("secret_file", Some(text)),
                Err(error) => {
                    self.blame("secret_file", format!("cannot be read: {error}"));
                    return None;
                }
            },
        };
        let secret = text.map(|text| SecretString::from(text.trim()));
        let secret = secret.filter(|secret| webhook_secret(secret).is_some());
        if secret.is_none() {
            self.blame(key, FORM);
        }
        secret
    }

    fn tenant(&mut self, tenants: &BTreeMap<TenantId, TenantConfig>) -> Option<TenantId> {
        let written = self.fields.get("tenant")?;
        let tenant = written.as_str().and_then(|raw| TenantId::parse(raw).ok());
        let known = tenant.filter(|tenant| tenants.contains_key(tenant));
        if known.is_none() {
            self.blame("tenant", "is no tenant of this configuration");
        }
        known
    }

    fn events(&mut self) -> Option<BTreeSet<NotifyEvent>> {
        let Some(written) = self.fields.get("events") else { return Some(NotifyEvent::ALL.into()) };
        let read = |event: &Value| NotifyEvent::parse(event.as_str()?);
        let events: Option<BTreeSet<_>> = written.as_array().and_then(|events| events.iter().map(read).collect());
        let events = events.filter(|events| !events.is_empty());
        if events.is_none() {
            let all: Vec<_> = NotifyEvent::ALL.into_iter().map(NotifyEvent::as_str).collect();
            self.blame("events", format!("must be a list of some of {}", all.join(", ")));
        }
        events
    }

    /// A text that must be there.
    fn word(&mut self, key: &str, form: &str, is_fine: impl FnOnce(&str) -> bool) -> Option<String> {
        let word = self.fields.get(key).map(|word| word.as_str().filter(|word| is_fine(word)));
        match word {
            Some(Some(word)) => Some(word.to_owned()),
            Some(None) => {
                self.blame(key, format!("must be {form}"));
                None
            }
            None => {
                self.blame(key, format!("is missing; it must be {form}"));
                None
            }
        }
    }

    fn take<T: Setting>(&mut self, key: &str, grammar: Grammar) -> Option<T> {
        let read = T::read(self.fields.get(key)?, grammar);
        if read.is_none() {
            self.blame(key, format!("must be {grammar}"));
        }
        read
    }

    fn blame_unknown(&mut self) {
        let unknown: Vec<&String> = self.fields.keys().filter(|key| !KEYS.contains(&key.as_str())).collect();
        for key in unknown {
            self.blame(
                key,
                match nearest(key, KEYS.into_iter()) {
                    Some(name) => format!("is not an option; did you mean {name}?"),
                    None => "is not an option".to_owned(),
                },
            );
        }
    }

    fn blame(&mut self, key: &str, problem: impl Into<String>) {
        let value = self.fields.get(key).filter(|_| KEYS.contains(&key)).map(|value| shown_of(key, value));
        self.reader.note(format!("{}.{key}", self.at), value, Some(self.origin.clone()), problem);
    }

    fn list_all(&mut self) {
        for (key, value) in self.fields.iter().filter(|(key, _)| KEYS.contains(&key.as_str())) {
            self.reader.list(format!("{}.{key}", self.at), shown_of(key, value), self.origin.clone());
        }
    }
}

/// Somebody may have put the secret itself where its file belongs.
fn shown_of(key: &str, value: &Value) -> String {
    // The path of a webhook is often its secret.
    if let ("url", Some(Ok(url))) = (key, value.as_str().map(str::parse::<http::Uri>))
        && let (Some(scheme), Some(host)) = (url.scheme_str(), url.host())
        && url.path_and_query().is_some_and(|path| path.as_str() != "/")
    {
        return format!("\"{scheme}://{host}/…\"");
    }
    let is_path = || value.as_str().is_some_and(|path| ["/", "./", "../"].iter().any(|start| path.starts_with(start)));
    if key == "secret" || (key.ends_with("_file") && !is_path()) { HIDDEN.to_owned() } else { shown(value) }
}

fn is_name(name: &str) -> bool {
    let is_fit = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.chars().all(is_fit)
}

fn is_url(text: &str, allow_private: bool) -> bool {
    let Ok(url) = text.parse::<http::Uri>() else { return false };
    let is_encrypted = match url.scheme_str() {
        Some("https") => true,
        Some("http") => allow_private,
        _ => false,
    };
    is_encrypted && url.host().is_some_and(|host| !host.is_empty()) && !text.contains(['@', '#'])
}

impl Reader {
    fn list(&mut self, path: String, value: String, origin: Origin) {
        self.effective.push(Effective { path, value, origin });
    }
}
