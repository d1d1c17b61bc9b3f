//! What we take of a profile: uid, roles, e-mail domains, custom fields. The rest of it is never kept.

use std::collections::BTreeMap;

use anyhow::anyhow;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::answer::{Call, garbage};
use crate::model::{UserId, read_time};
use crate::provider::ProviderError;

fn field<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    object.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

/// A profile without a uid is none: taken for one, it would say that the user has no roles.
pub(super) fn uid(call: Call, profile: &Map<String, Value>) -> Result<UserId, ProviderError> {
    let uid = field(profile, "Uid").and_then(Value::as_str).filter(|uid| !uid.is_empty());
    let uid = uid.ok_or_else(|| garbage(call, "the answer is no profile"))?;
    UserId::parse(uid).map_err(|error| ProviderError::Refused(anyhow!("{call}: {error}")))
}

/// `None` where the key is missing. `null` is what users without roles have.
pub(super) fn roles(call: Call, object: &Map<String, Value>) -> Option<Result<Vec<String>, ProviderError>> {
    let roles = match field(object, "Roles")? {
        Value::Null => Some(Vec::new()),
        Value::Array(roles) => texts(roles.iter()),
        _ => None,
    };
    Some(roles.ok_or_else(|| garbage(call, "the roles are no list of texts")))
}

/// `null` elements are none. `None`: an element is something else than text.
fn texts<'a>(elements: impl Iterator<Item = &'a Value>) -> Option<Vec<String>> {
    elements.filter(|element| !element.is_null()).map(|element| element.as_str().map(str::to_owned)).collect()
}

/// The lower-case domains of `Email: [{"Type": …, "Value": …}]`, each once.
///
/// `null` is none, and so is a missing key: the vendor does not say whether its `fields=` projection leaves out what is
/// null, and [`uid`] has told that this is the profile. What cannot be read is not none, for a rule may exempt by it.
pub(super) fn email_domains(call: Call, profile: &Map<String, Value>) -> Result<Vec<String>, ProviderError> {
    let addresses = match field(profile, "Email") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(addresses)) => {
            texts(addresses.iter().map(address)).ok_or_else(|| garbage(call, "the e-mail addresses are no texts"))?
        }
        Some(_) => return Err(garbage(call, "the e-mail addresses are no list")),
    };
    let mut domains: Vec<String> = Vec::new();
    for (_, domain) in addresses.iter().filter_map(|text| text.trim().rsplit_once('@')) {
        let domain = domain.to_lowercase();
        if !domain.is_empty() && !domains.contains(&domain) {
            domains.push(domain);
        }
    }
    Ok(domains)
}

/// What stands for the address in an element of `Email`.
fn address(element: &Value) -> &Value {
    element.as_object().map_or(element, |entry| field(entry, "Value").unwrap_or(&Value::Null))
}

/// `LastLoginDate`: the time that the event of the user's last login carries, too.
pub(super) fn last_login_at(profile: &Map<String, Value>) -> Option<Timestamp> {
    read_time(field(profile, "LastLoginDate")?.as_str()?)
}

/// `SessionsLimit`, which profiles have where the vendor's own limiter, Restrict Login Sharing, is on.
///
/// Its type and whether it can be null are not documented: a positive number, as such or as text, is a limit. What else
/// may stand there is no sign, and no failure either: nothing is decided by it. A limit of the whole site shows in no
/// profile, as far as is known.
pub(super) fn sessions_limit(profile: &Map<String, Value>) -> Option<u32> {
    let limit = match field(profile, "SessionsLimit")? {
        Value::Number(number) => number.as_u64().and_then(|number| u32::try_from(number).ok()),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    limit.filter(|limit| *limit > 0)
}

/// Texts as they are, numbers and truth values as text. `null` and a missing key are none, as with [`email_domains`].
pub(super) fn custom_fields(
    call: Call,
    profile: &Map<String, Value>,
) -> Result<BTreeMap<String, String>, ProviderError> {
    let mut texts = BTreeMap::new();
    let fields = match field(profile, "CustomFields") {
        None | Some(Value::Null) => return Ok(texts),
        Some(Value::Object(fields)) => fields,
        Some(_) => return Err(garbage(call, "the custom fields are no object")),
    };
    for (name, value) in fields {
        let text = match value {
            Value::Null => continue,
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            Value::Bool(truth) => truth.to_string(),
            Value::Array(_) | Value::Object(_) => return Err(garbage(call, "a custom field is no text")),
        };
        texts.insert(name.clone(), text);
    }
    Ok(texts)
}
