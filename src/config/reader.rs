//! Reads options out of the settings, and notes each mistake instead of stopping at it.

use serde_json::Value;

use super::Effective;
use super::grammar::{Grammar, Setting};
use super::mistake::{ConfigError, HIDDEN, Mistake, nearest, shown};
use super::options::{self, OptionDoc};
use super::settings::{Entry, Keys, Origin, Settings, in_policy, read_text, variable_of};

/// One reading of a whole configuration.
pub(super) struct Reader {
    settings: Settings,
    /// `["tenants", name]` while a tenant is read; options are named without it.
    scope: Keys,
    mistakes: Vec<Mistake>,
    pub(super) effective: Vec<Effective>,
}

impl Reader {
    pub(super) fn new(settings: Settings) -> Self {
        Self { settings, scope: Keys::new(), mistakes: Vec::new(), effective: Vec::new() }
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// From here on, options are those of this tenant; `None`: those of the process.
    pub(super) fn enter(&mut self, tenant: Option<&str>) {
        self.scope = tenant.map(|name| vec!["tenants".to_owned(), name.to_owned()]).unwrap_or_default();
    }

    /// The value of an option that has a default. Where it cannot be read, that is noted and the default returned.
    pub(super) fn take<T: Setting>(&mut self, name: &str) -> T {
        match self.take_optional(name) {
            Some(value) => value,
            None => default_of(name),
        }
    }

    /// The value of an option, where it is set and can be read.
    pub(super) fn take_optional<T: Setting>(&mut self, name: &str) -> Option<T> {
        let option = options::find(name)?;
        let path = self.path(name);
        let Some(entry) = self.find(option) else {
            self.effective.push(Effective { path, value: shown_default(option), origin: Origin::Default });
            return None;
        };
        let value = shown_of(option, &entry.value);
        let read = T::read(&entry.value, option.grammar);
        if read.is_none() {
            self.note(
                path.clone(),
                Some(value.clone()),
                Some(entry.origin.clone()),
                format!("must be {}", option.grammar),
            );
        }
        self.effective.push(Effective { path, value, origin: entry.origin });
        read
    }

    /// The policy table of the process or tenant, as written.
    pub(super) fn policy(&mut self) -> Value {
        let keys = self.keys("policy");
        let inner = self.settings.iter().filter(|(at, _)| at.len() > keys.len() && at.starts_with(&keys));
        let mut lines: Vec<Effective> = inner
            .map(|(at, entry)| Effective {
                path: at.join("."),
                value: shown(&entry.value),
                origin: entry.origin.clone(),
            })
            .collect();
        // A tenant's own table starts from the process's, not from the defaults.
        let defaults = options::options().iter().filter(|_| self.scope.is_empty());
        for option in defaults.filter(|option| option.path.starts_with("policy.")) {
            let keys: Keys = option.path.split('.').map(str::to_owned).collect();
            if !self.settings.iter().any(|(at, _)| at.starts_with(&keys)) {
                let path = option.path.to_owned();
                lines.push(Effective { path, value: shown_default(option), origin: Origin::Default });
            }
        }
        self.effective.append(&mut lines);
        self.settings.table(&keys)
    }

    /// Whether this option, or the file of this secret, was set at all.
    pub(super) fn is_set(&self, name: &str) -> bool {
        self.settings.get(&self.keys(name)).is_some() || self.settings.get(&self.keys(&file_of(name))).is_some()
    }

    /// Notes a mistake of an option of the present scope that follows its grammar, but not a further rule.
    pub(super) fn blame(&mut self, name: &str, problem: impl Into<String>) {
        let entry = self.settings.get(&self.keys(name)).cloned();
        let value = entry.as_ref().zip(options::find(name)).map(|(entry, option)| shown_of(option, &entry.value));
        self.note(self.path(name), value, entry.map(|entry| entry.origin), problem);
    }

    /// Notes what the policy's reader found at a full path such as `policy.rules[2].limit`.
    pub(super) fn blame_policy(&mut self, path: String, problem: String) {
        let is_inside = |at: &Keys| {
            path.strip_prefix(&at.join(".")).is_some_and(|below| below.is_empty() || below.starts_with(['.', '[']))
        };
        let inside = self.settings.iter().filter(|(at, _)| is_inside(at));
        let origin = inside.max_by_key(|(at, _)| at.len()).map(|(_, entry)| entry.origin.clone());
        self.note(path, None, origin, problem);
    }

    /// Notes every setting that is not an option.
    pub(super) fn note_unknown(&mut self) {
        let mistakes: Vec<Mistake> = self.settings.iter().filter_map(|(keys, entry)| unknown(keys, entry)).collect();
        self.mistakes.extend(mistakes);
    }

    /// What the settings come to, unless there was a mistake.
    pub(super) fn finish(self) -> Result<Vec<Effective>, ConfigError> {
        if self.mistakes.is_empty() { Ok(self.effective) } else { Err(ConfigError(self.mistakes)) }
    }

    /// Notes a mistake at a full path.
    pub(super) fn note(
        &mut self,
        path: String,
        value: Option<String>,
        origin: Option<Origin>,
        problem: impl Into<String>,
    ) {
        self.mistakes.push(Mistake { path, value, origin, problem: problem.into() });
    }

    fn keys(&self, name: &str) -> Keys {
        let name = name.split('.').filter(|key| !key.is_empty()).map(str::to_owned);
        self.scope.iter().cloned().chain(name).collect()
    }

    pub(super) fn path(&self, name: &str) -> String {
        self.keys(name).join(".")
    }

    /// What was set for an option; for a secret also the content of its file.
    fn find(&mut self, option: &OptionDoc) -> Option<Entry> {
        let entry = self.settings.get(&self.keys(option.path)).cloned();
        if !option.is_secret() {
            return entry;
        }
        let name = file_of(option.path);
        let Some(in_file) = self.settings.get(&self.keys(&name)).cloned() else { return entry };
        let file = in_file.value.as_str().unwrap_or_default();
        let problem = if entry.is_some() {
            format!("is given beside {}; give one of them", self.path(option.path))
        } else {
            match read_text(file.as_ref()) {
                Ok(text) => return Some(Entry { value: secret_of_file(&text, option), origin: in_file.origin }),
                Err(error) => format!("cannot be read: {error}"),
            }
        };
        // Somebody may have put the secret itself where its file belongs.
        let is_path = ["/", "./", "../"].iter().any(|start| file.starts_with(start));
        let value = if is_path { shown(&in_file.value) } else { HIDDEN.to_owned() };
        self.note(self.path(&name), Some(value), Some(in_file.origin), problem);
        entry
    }
}

fn file_of(name: &str) -> String {
    format!("{name}_file")
}

/// A file holds one secret, or one a line where several are allowed.
fn secret_of_file(text: &str, option: &OptionDoc) -> Value {
    match option.grammar {
        Grammar::Secrets | Grammar::AmqpUrls => text.lines().filter(|line| !line.is_empty()).collect(),
        _ => text.trim_end_matches(['\n', '\r']).into(),
    }
}

fn shown_of(option: &OptionDoc, value: &Value) -> String {
    if option.is_secret() { HIDDEN.to_owned() } else { shown(value) }
}

fn shown_default(option: &OptionDoc) -> String {
    option.default_value().map_or_else(|| "(not set)".to_owned(), |value| shown_of(option, &value))
}

#[expect(clippy::expect_used, reason = "the table is constant, and a test reads every default in it")]
fn default_of<T: Setting>(name: &str) -> T {
    let option = options::find(name).expect("the option is in the table");
    let default = option.default_value().expect("the option has a default");
    T::read(&default, option.grammar).expect("the default follows the grammar")
}

/// The mistake of a setting that is not an option.
fn unknown(keys: &[String], entry: &Entry) -> Option<Mistake> {
    let (scope, name) = match keys {
        [tenants, _, rest @ ..] if tenants == "tenants" => (keys.strip_suffix(rest)?, rest.join(".")),
        [tenants] if tenants == "tenants" => (keys, String::new()),
        keys => ([].as_slice(), keys.join(".")),
    };
    let of_scope = |path: &str| scope.is_empty() || path.starts_with("loginradius.") || path.starts_with("policy.");
    let files = options::options().iter().filter(|option| option.is_secret()).map(|option| file_of(option.path));
    let known: Vec<String> = options::options().iter().map(|option| option.path.to_owned()).chain(files).collect();
    let known = || known.iter().map(String::as_str).filter(|path| of_scope(path));
    let rest = keys.get(scope.len()..)?;
    // Key by key: a quoted key may itself contain a dot.
    if in_policy(keys) || known().any(|path| path.split('.').eq(rest)) {
        return None;
    }
    let is_section = name.is_empty() || known().any(|path| path.starts_with(&format!("{name}.")));
    if is_section && matches!(entry.value, Value::Object(_)) {
        return None;
    }
    let suggestion = || {
        let path: Keys = scope.iter().cloned().chain([nearest(&name, known())?.to_owned()]).collect();
        let path = path.join(".");
        Some(if matches!(entry.origin, Origin::Variable(_)) { variable_of(&path) } else { path })
    };
    let problem = match suggestion() {
        _ if keys.first().is_some_and(|key| key == "notify") => "belongs into a list: write [[notify]]".to_owned(),
        _ if is_section => "must be a table".to_owned(),
        Some(name) => format!("is not an option; did you mean {name}?"),
        None => "is not an option".to_owned(),
    };
    Some(Mistake { path: keys.join("."), value: None, origin: Some(entry.origin.clone()), problem })
}
