//! Gathers what file and environment say into one flat map from path to value, each with where it comes from.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::ConfigSources;
use super::mistake::{ConfigError, Mistake};

/// The keys that lead to a value: `["webhook", "listen"]`.
pub(super) type Keys = Vec<String>;

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Default,
    File(PathBuf),
    Variable(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Variable(name) => write!(f, "{}", name.escape_debug()),
        }
    }
}

/// A value that somebody set.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) value: Value,
    pub(super) origin: Origin,
}

/// Everything that was set. Tables are taken apart, lists are not; an empty table is a value.
#[derive(Default)]
pub(super) struct Settings(BTreeMap<Keys, Entry>);

impl Settings {
    /// Variables win over the file. A file that cannot be read is the only mistake that is told: what it was to set
    /// would seem missing.
    pub(super) fn gather(sources: &ConfigSources, file: Option<&Path>) -> Result<Self, ConfigError> {
        let mut settings = Self::default();
        if let Some(file) = file {
            let table = read_toml(file).map_err(|problem| ConfigError(vec![Mistake::of_file(file, problem)]))?;
            settings.insert(&[], &Value::Object(table), &Origin::File(file.to_owned()));
        }
        for (name, text) in &sources.env {
            let Some(keys) = keys_of_variable(name, text) else { continue };
            let value = if in_policy(&keys) || is_list(&keys) { toml_value(text) } else { None };
            let value = value.unwrap_or_else(|| Value::String(text.clone()));
            settings.remove_all(&keys);
            settings.insert(&keys, &value, &Origin::Variable(name.clone()));
        }
        Ok(settings)
    }

    pub(super) fn get(&self, keys: &[String]) -> Option<&Entry> {
        self.0.get(keys)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Keys, &Entry)> {
        self.0.iter()
    }

    /// Whether anything was set at these keys or below.
    pub(super) fn mentions(&self, keys: &[&str]) -> bool {
        self.0.keys().any(|at| at.len() >= keys.len() && at.iter().zip(keys).all(|(a, b)| a == b))
    }

    /// The names in `[tenants.<name>]`, well formed or not.
    pub(super) fn tenant_names(&self) -> BTreeSet<String> {
        let name = |keys: &Keys| match keys.as_slice() {
            [tenants, name, ..] if tenants == "tenants" => Some(name.clone()),
            _ => None,
        };
        self.0.keys().filter_map(name).collect()
    }

    /// The table at these keys, put together again.
    pub(super) fn table(&self, keys: &[String]) -> Value {
        let mut table = Value::Object(serde_json::Map::new());
        for (at, entry) in &self.0 {
            if let Some(below) = at.strip_prefix(keys)
                && !below.is_empty()
            {
                *place(&mut table, below) = entry.value.clone();
            }
        }
        table
    }

    fn insert(&mut self, keys: &[String], value: &Value, origin: &Origin) {
        match value {
            Value::Object(table) if !table.is_empty() => {
                for (key, value) in table {
                    let mut below = keys.to_vec();
                    below.push(key.clone());
                    self.insert(&below, value, origin);
                }
            }
            value if !keys.is_empty() => {
                self.0.insert(keys.to_vec(), Entry { value: value.clone(), origin: origin.clone() });
            }
            _ => {}
        }
    }

    fn remove_all(&mut self, keys: &[String]) {
        self.0.retain(|at, _| !at.starts_with(keys));
    }
}

/// The place of these keys in a tree; tables on the way are made where they are missing.
fn place<'a>(tree: &'a mut Value, keys: &[String]) -> &'a mut Value {
    let mut here = tree;
    for key in keys {
        if !here.is_object() {
            *here = Value::Object(serde_json::Map::new());
        }
        here = &mut here[key.as_str()];
    }
    here
}

/// `policy.…` or `tenants.<name>.policy.…`.
pub(super) fn in_policy(keys: &[String]) -> bool {
    match keys {
        [policy, _, ..] if policy == "policy" => true,
        [tenants, _, policy, _, ..] => tenants == "tenants" && policy == "policy",
        _ => false,
    }
}

/// `notify`, whose tables are one value.
fn is_list(keys: &[String]) -> bool {
    matches!(keys, [notify] if notify == "notify")
}

pub(super) fn chosen_file(sources: &ConfigSources) -> Option<PathBuf> {
    let named = sources.file.clone().or_else(|| sources.env.get("SOLOIST_CONFIG").map(PathBuf::from));
    named.or_else(|| sources.default_file.clone().filter(|file| file.exists()))
}

const PREFIX: &str = "SOLOIST_";

/// The variable that sets this path.
pub(super) fn variable_of(path: &str) -> String {
    format!("{PREFIX}{}", path.replace('.', "__").to_uppercase())
}

fn keys_of_variable(name: &str, text: &str) -> Option<Keys> {
    let rest = name.strip_prefix(PREFIX)?;
    // The first chooses the file; the second prefix is the test suite's own.
    if rest == "CONFIG" || rest.starts_with("TEST_") || is_service_link(rest, text) {
        return None;
    }
    Some(rest.to_lowercase().split("__").map(str::to_owned).collect())
}

/// Kubernetes puts variables such as `SOLOIST_SERVICE_HOST` and `SOLOIST_PORT_8080_TCP` into every pod
/// beside a service named `soloist…`. They are nobody's mistake.
fn is_service_link(rest: &str, text: &str) -> bool {
    let is_address = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| text.starts_with(scheme));
    let name = format!("_{rest}");
    let is_service = name.ends_with("_SERVICE_HOST") || name.ends_with("_SERVICE_PORT");
    let is_port = ["_TCP", "_UDP", "_SCTP"].iter().any(|protocol| name.contains(protocol)) && name.contains("_PORT_");
    !rest.contains("__")
        && (is_service || is_port || name.contains("_SERVICE_PORT_") || (name.ends_with("_PORT") && is_address))
}

/// A text as TOML would read it behind a `=`. `None`: it is no TOML value, so it stays a text.
pub fn toml_value(text: &str) -> Option<Value> {
    let table: toml::Table = toml::from_str(&format!("value = {text}")).ok()?;
    let only = table.len() == 1;
    only.then(|| table.get("value").map(json)).flatten()
}

const FILE_BYTES_MAX: u64 = 1 << 20;

/// The whole of a small text file.
pub(super) fn read_text(file: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(file)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {FILE_BYTES_MAX} bytes")));
    }
    Ok(text)
}

pub(super) fn read_toml(file: &Path) -> Result<serde_json::Map<String, Value>, String> {
    let text = read_text(file).map_err(|error| format!("cannot be read: {error}"))?;
    let table: toml::Table = toml::from_str(&text).map_err(|error| {
        // The error's own text quotes the line, and the line may hold a secret.
        let start = error.span().map_or(0, |span| span.start);
        let line = 1 + text.bytes().take(start).filter(|byte| *byte == b'\n').count();
        format!("line {line} is no TOML: {}", error.message().replace('\n', ", "))
    })?;
    Ok(json_table(&table))
}

/// Dates become the text they were written as, and so do infinity and not-a-number, which no option takes.
fn json(value: &toml::Value) -> Value {
    match value {
        toml::Value::String(text) => Value::String(text.clone()),
        toml::Value::Integer(number) => Value::from(*number),
        toml::Value::Float(number) => {
            serde_json::Number::from_f64(*number).map_or_else(|| number.to_string().into(), Value::Number)
        }
        toml::Value::Boolean(flag) => Value::Bool(*flag),
        toml::Value::Datetime(date) => Value::String(date.to_string()),
        toml::Value::Array(list) => list.iter().map(json).collect(),
        toml::Value::Table(table) => Value::Object(json_table(table)),
    }
}

fn json_table(table: &toml::Table) -> serde_json::Map<String, Value> {
    table.iter().map(|(key, value)| (key.clone(), json(value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn two_underscores_part_the_keys_of_a_variable() {
        let keys = |name| keys_of_variable(name, "x").map(|keys| keys.join("."));
        assert_eq!(keys("SOLOIST_DATA_DIR").as_deref(), Some("data_dir"));
        assert_eq!(keys("SOLOIST_QUEUE__MESSAGES_MAX").as_deref(), Some("queue.messages_max"));
        let tenant = keys("SOLOIST_TENANTS__ACME__LOGINRADIUS__API_SECRET");
        assert_eq!(tenant.as_deref(), Some("tenants.acme.loginradius.api_secret"));
        assert_eq!(variable_of("queue.messages_max"), "SOLOIST_QUEUE__MESSAGES_MAX");
    }

    #[test]
    fn variables_of_others_are_left_alone() {
        for (name, text) in [
            ("PATH", "/bin"),
            ("SOLOIST_CONFIG", "x.toml"),
            ("SOLOIST_TEST_LONG", "1"),
            ("SOLOIST_SERVICE_HOST", "10.0.0.1"),
            ("SOLOIST_WEBHOOK_SERVICE_PORT_HTTP", "80"),
            ("SOLOIST_PORT", "tcp://10.0.0.1:80"),
            ("SOLOIST_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ] {
            assert_eq!(keys_of_variable(name, text), None, "{name}");
        }
        assert!(keys_of_variable("SOLOIST_WEBHOOK_PORT", "80").is_some());
        assert!(keys_of_variable("SOLOIST_WEBHOOK__PORT", "80").is_some());
    }

    #[test]
    fn a_variable_under_policy_is_read_as_toml_where_it_is_toml() {
        assert_eq!(toml_value("3"), Some(json!(3)));
        assert_eq!(toml_value("[\"os\"]"), Some(json!(["os"])));
        assert_eq!(toml_value("{ by = \"os\" }"), Some(json!({ "by": "os" })));
        assert_eq!(toml_value("inf"), Some(json!("inf")));
        assert_eq!(toml_value("2027-01-31"), Some(json!("2027-01-31")));
        for text in ["observe", "30d", "1\nx = 2", ""] {
            assert_eq!(toml_value(text), None, "{text}");
        }
    }
}
