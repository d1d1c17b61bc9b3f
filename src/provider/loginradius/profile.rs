//! What we take of a profile: uid, roles, e-mail domains, custom fields. The rest of it is never kept.

use std::collections::BTreeMap;

use anyhow::anyhow;
use serde_json::{Map, Value};

use super::answer::{Call, garbage};
use crate::model::UserId;
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
        Value::Null => Vec::new(),
        Value::Array(roles) => roles.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => return Some(Err(garbage(call, "the roles are no list"))),
    };
    Some(Ok(roles))
}

/// The lower-case domains of `Email: [{"Type": …, "Value": …}]`, each once.
pub(super) fn email_domains(profile: &Map<String, Value>) -> Vec<String> {
    let addresses = field(profile, "Email").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let mut domains: Vec<String> = Vec::new();
    for address in addresses {
        let text = address.as_str().or_else(|| field(address.as_object()?, "Value")?.as_str());
        let Some((_, domain)) = text.and_then(|text| text.trim().rsplit_once('@')) else { continue };
        let domain = domain.to_lowercase();
        if !domain.is_empty() && !domains.contains(&domain) {
            domains.push(domain);
        }
    }
    domains
}

/// Texts as they are, numbers and truth values as text; null and everything else is left out.
pub(super) fn custom_fields(profile: &Map<String, Value>) -> BTreeMap<String, String> {
    let fields = field(profile, "CustomFields").and_then(Value::as_object).into_iter().flatten();
    let as_text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    };
    fields.filter_map(|(name, value)| Some((name.clone(), as_text(value)?))).collect()
}
