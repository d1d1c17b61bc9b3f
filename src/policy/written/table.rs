//! One written table, its path, and where its mistakes go.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::super::keys::normalised;
use super::super::{Buckets, DeviceField};
use super::{KEYS, Mistake, nearest, read};

pub(super) struct Table<'a> {
    path: &'a str,
    entries: Option<&'a Map<String, Value>>,
    mistakes: &'a mut Vec<Mistake>,
}

impl<'a> Table<'a> {
    /// Nothing written is an empty table.
    pub(super) fn open(value: &'a Value, path: &'a str, mistakes: &'a mut Vec<Mistake>) -> Self {
        if !value.is_object() && !value.is_null() {
            let problem = format!("must be a table, not {}", read::shown(value));
            mistakes.push(Mistake { path: path.to_owned(), problem });
        }
        Self { path, entries: value.as_object(), mistakes }
    }

    pub(super) fn mistake(&mut self, key: &str, problem: String) {
        self.mistakes.push(Mistake { path: format!("{}.{key}", self.path), problem });
    }

    /// A mistake of the table as a whole.
    pub(super) fn mistake_here(&mut self, problem: String) {
        self.mistakes.push(Mistake { path: self.path.to_owned(), problem });
    }

    pub(super) fn names(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.entries.and_then(|entries| entries.get(key))
    }

    /// Everything but the keys of a policy and these others is a mistake.
    pub(super) fn allow_only(&mut self, others: &[&str]) {
        let known: Vec<&str> = KEYS.iter().map(|(key, _)| *key).chain(others.iter().copied()).collect();
        self.allow_nothing_but(&known);
    }

    pub(super) fn allow_nothing_but(&mut self, known: &[&str]) {
        for key in self.entries.into_iter().flat_map(Map::keys).filter(|key| !known.contains(&key.as_str())) {
            let problem = match nearest::nearest(key, known) {
                Some(near) => format!("is not an option; did you mean \"{near}\"?"),
                None => format!("is not an option; the options are {}", known.join(", ")),
            };
            self.mistake(key, problem);
        }
    }

    pub(super) fn read<T>(&mut self, key: &str, read: impl FnOnce(&Value) -> Result<T, String>) -> Option<T> {
        match read(self.get(key)?) {
            Ok(read) => Some(read),
            Err(problem) => {
                self.mistake(key, problem);
                None
            }
        }
    }

    /// Leaves `place` as it is where the key is not written.
    pub(super) fn set<T>(&mut self, key: &str, place: &mut T, read: impl FnOnce(&Value) -> Result<T, String>) {
        if let Some(value) = self.read(key, read) {
            *place = value;
        }
    }

    pub(super) fn required<T>(&mut self, key: &str, read: impl FnOnce(&Value) -> Result<T, String>) -> Option<T> {
        if !self.names(key) {
            self.mistake(key, "is required".to_owned());
        }
        self.read(key, read)
    }

    pub(super) fn set_buckets(&mut self, place: &mut Option<Buckets>) {
        let Some(value) = self.get("buckets") else { return };
        if value.is_null() || value.as_str() == Some("none") {
            *place = None;
            return;
        }
        if !value.is_object() {
            let problem = format!("must be \"none\" or {{ by = …, limits = {{ … }} }}, not {}", read::shown(value));
            self.mistake("buckets", problem);
            return;
        }
        let path = format!("{}.buckets", self.path);
        let mut table = Table::open(value, &path, self.mistakes);
        table.allow_nothing_but(&["by", "limits"]);
        let by = table.required("by", |value| read::word(value, &DeviceField::ALL, DeviceField::as_str));
        let Some(limits) = table.required("limits", |value| Ok(value.clone())) else { return };
        let path = format!("{path}.limits");
        let limits = Table::open(&limits, &path, self.mistakes).bucket_limits();
        if let Some(by) = by {
            *place = Some(Buckets { by, limits });
        }
    }

    fn bucket_limits(&mut self) -> BTreeMap<String, super::Limit> {
        let mut limits = BTreeMap::new();
        if self.entries.is_none_or(Map::is_empty) {
            self.mistake_here("must name at least one bucket, such as { mobile = 1 }".to_owned());
        }
        for name in self.entries.into_iter().flat_map(Map::keys) {
            let limit = self.read(name, read::limit);
            match (normalised(name), limit) {
                (None, _) => {
                    self.mistake(name, "cannot be a bucket: such devices are of no known kind".to_owned());
                }
                (Some(name), Some(limit)) => {
                    if limits.insert(name.clone(), limit).is_some() {
                        self.mistake(&name, "is written twice: case and surrounding space do not count".to_owned());
                    }
                }
                (Some(_), None) => {}
            }
        }
        limits
    }
}
