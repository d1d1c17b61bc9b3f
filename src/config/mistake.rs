//! What is wrong with a configuration: one line a mistake, never with a secret in it.

use std::fmt;
use std::path::Path;

use serde_json::Value;

use super::settings::Origin;

/// Every mistake that was found, so that one attempt shows them all.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigError(pub Vec<Mistake>);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("invalid configuration:")?;
        self.0.iter().try_for_each(|mistake| write!(f, "\n  {mistake}"))
    }
}

impl std::error::Error for ConfigError {}

/// One thing to put right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The option, or the file.
    pub path: String,
    /// The value as it may be shown.
    pub value: Option<String>,
    pub origin: Option<Origin>,
    pub problem: String,
}

impl Mistake {
    pub(super) fn of_file(file: &Path, problem: String) -> Self {
        Self { path: file.display().to_string(), value: None, origin: None, problem }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.escape_debug())?;
        if let Some(value) = &self.value {
            write!(f, " = {value}")?;
        }
        if let Some(origin) = &self.origin {
            write!(f, " (from {origin})")?;
        }
        write!(f, ": {}", self.problem)
    }
}

pub(super) const HIDDEN: &str = "(hidden)";

const SHOWN_CHARS_MAX: usize = 200;

/// A value that is no secret for people, on one line.
pub(super) fn shown(value: &Value) -> String {
    let text = match value {
        // An address that may carry a password or a secret.
        Value::String(text) if text.contains("://") && text.contains(['@', '?', '#']) => return HIDDEN.to_owned(),
        Value::Object(_) => return "a table".to_owned(),
        Value::String(text) => format!("{text:?}"),
        value => value.to_string(),
    };
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

/// The known name that a misspelt one most likely meant.
pub(super) fn nearest<'a>(misspelt: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let last = |path: &str| path.rsplit('.').next().map(str::to_owned);
    let (near_enough, letters) = (2.max(misspelt.len() / 5), misspelt.chars().count());
    let score = |name: &str| match name.chars().count().abs_diff(letters) {
        _ if last(name) == last(misspelt) => 1,
        // Each letter more or less is an edit: a name of any length is compared with few, and quickly.
        apart if apart > near_enough => usize::MAX,
        _ => edits(misspelt, name),
    };
    let (edits, name) = known.map(|name| (score(name), name)).min_by_key(|(edits, _)| *edits)?;
    (edits <= near_enough).then_some(name)
}

/// Levenshtein's distance: letters to add, drop or change.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, from) in a.chars().enumerate() {
        let (mut left, mut next) = (i + 1, vec![i + 1]);
        for (to, pair) in b.chars().zip(row.windows(2)) {
            let &[diagonal, above] = pair else { continue };
            left = (diagonal + usize::from(from != to)).min(above + 1).min(left + 1);
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_may_carry_a_secret_is_hidden() {
        for address in ["https://u:canary@h", "https://h/?secret=canary", "https://h/#canary"] {
            assert_eq!(shown(&address.into()), HIDDEN);
        }
        assert_eq!(shown(&"https://h".into()), "\"https://h\"");
    }

    #[test]
    fn edits_counts_letters() {
        for (a, b, expected) in [("", "abc", 3), ("kitten", "sitting", 3), ("same", "same", 0), ("ab", "", 2)] {
            assert_eq!(edits(a, b), expected, "{a} {b}");
        }
    }

    #[test]
    fn the_nearest_name_is_near() {
        let known = ["webhook.listen", "webhook.tls_key", "admin.insecure"];
        let nearest = |misspelt| nearest(misspelt, known.into_iter());
        assert_eq!(nearest("webhook.listn"), Some("webhook.listen"));
        assert_eq!(nearest("webhook_listen"), Some("webhook.listen"));
        assert_eq!(nearest("server.listen"), Some("webhook.listen"));
        assert_eq!(nearest("colour"), None);
        assert_eq!(nearest(&"a".repeat(1 << 22)), None, "after no time that anybody notices");
    }
}
