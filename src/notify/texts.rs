//! What each reason is called for people. A file may say it otherwise, such as in another language.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};

use crate::policy::ReasonCode;

pub(super) const CONTENDED: &str = "contended";
pub(super) const BUDGET_EXCEEDED: &str = "budget_exceeded";
const BRAKES: [&str; 2] = [CONTENDED, BUDGET_EXCEEDED];
/// For a reason that this version does not know.
const UNKNOWN: &str = "This session was ended.";
/// The key of a file that says which language its texts are in, as BCP 47 names it.
const LANGUAGE: &str = "language";
const LANGUAGE_BYTES_MAX: usize = 35;
const TEXT_BYTES_MAX: usize = 500;
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The texts, by reason code.
#[derive(Clone, Debug)]
pub struct Texts {
    language: String,
    others: BTreeMap<String, String>,
}

impl Default for Texts {
    fn default() -> Self {
        Self { language: "en".to_owned(), others: BTreeMap::new() }
    }
}

impl Texts {
    /// Ours, with those of the file in their place.
    ///
    /// # Errors
    /// When the file cannot be read, or names a reason that does not exist.
    pub fn read(file: Option<&Path>) -> anyhow::Result<Self> {
        let Some(file) = file else { return Ok(Self::default()) };
        let shown = file.display();
        let length = std::fs::metadata(file).with_context(|| format!("cannot read notify_texts {shown}"))?.len();
        ensure!(length <= FILE_BYTES_MAX, "notify_texts {shown} has more than {FILE_BYTES_MAX} bytes");
        let text = std::fs::read_to_string(file).with_context(|| format!("cannot read notify_texts {shown}"))?;
        Self::parse(&text).with_context(|| format!("notify_texts {shown} cannot be used"))
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let table: toml::Table = text.parse().context("it is no TOML")?;
        let mut texts = Self::default();
        for (code, text) in table {
            let known = || ReasonCode::ALL.into_iter().map(ReasonCode::as_str).chain(BRAKES);
            let Some(text) = text.as_str().map(str::trim).filter(|text| is_text(text)) else {
                bail!("`{}` must be a text of 1 to {TEXT_BYTES_MAX} bytes on one line", code.escape_debug());
            };
            if code == LANGUAGE {
                ensure!(text.len() <= LANGUAGE_BYTES_MAX, "`{LANGUAGE}` must be a tag such as en or pt-BR");
                text.clone_into(&mut texts.language);
            } else if known().any(|known| known == code) {
                texts.others.insert(code, text.to_owned());
            } else {
                let known: Vec<_> = known().collect();
                bail!("`{}` is no reason: it must be one of {}", code.escape_debug(), known.join(", "));
            }
        }
        Ok(texts)
    }

    pub fn of(&self, code: &str) -> &str {
        self.others.get(code).map_or_else(|| ours(code), String::as_str)
    }

    /// Which language they are in.
    pub fn language(&self) -> &str {
        &self.language
    }
}

fn is_text(text: &str) -> bool {
    !text.is_empty() && text.len() <= TEXT_BYTES_MAX && !text.chars().any(char::is_control)
}

fn ours(code: &str) -> &'static str {
    let reason = ReasonCode::ALL.into_iter().find(|reason| reason.as_str() == code);
    match (reason, code) {
        (Some(ReasonCode::DisplacedByNewerLogin), _) => "You were logged out because you logged in on another device.",
        (Some(ReasonCode::BucketLimit), _) => {
            "You were logged out because you logged in on another device of the same kind."
        }
        (Some(ReasonCode::SameDeviceNewer), _) => "You were logged out because you logged in again on this device.",
        (Some(ReasonCode::RejectedOverLimit), _) => {
            "You were not logged in because you are logged in on as many devices as you may be."
        }
        (Some(ReasonCode::ChosenByUser), _) => "You ended this session yourself.",
        (Some(ReasonCode::Admin), _) => "This session was ended by an administrator.",
        (None, CONTENDED) => "Devices of this user log each other out again and again.",
        (None, BUDGET_EXCEEDED) => "The revocation budget is used up: no session is ended until a person resumes it.",
        (None, _) => UNKNOWN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_text_of_its_own() {
        let codes = || ReasonCode::ALL.into_iter().map(ReasonCode::as_str).chain(BRAKES);
        let texts: std::collections::BTreeSet<&str> = codes().map(ours).collect();
        assert_eq!(texts.len(), codes().count());
        assert!(texts.iter().all(|text| is_text(text)) && !texts.contains(UNKNOWN));
        assert_eq!(ours("no_such_code"), UNKNOWN);
    }

    #[test]
    fn a_file_takes_the_place_of_the_texts_that_it_names() {
        let texts = Texts::parse("language = \"de\"\nadmin = \"Vom Support beendet.\"").unwrap();
        assert_eq!((texts.language(), texts.of("admin")), ("de", "Vom Support beendet."));
        assert_eq!(texts.of("bucket_limit"), ours("bucket_limit"));
        for (wrong, expected) in [
            ("admn = \"x\"", "one of displaced_by_newer_login"),
            ("admin = \"\"", "must be a text"),
            ("admin = 7", "must be a text"),
            ("admin = \"a\\u001bb\"", "must be a text"),
            ("admin", "no TOML"),
        ] {
            let error = format!("{:#}", Texts::parse(wrong).unwrap_err());
            assert!(error.contains(expected), "{wrong}: {error}");
        }
    }
}
