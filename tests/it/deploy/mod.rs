//! What stands in `deploy/` and in the compose file is right: it parses, and what it names exists in the program.

mod broker;
mod compose;
mod image;
mod kubernetes;
mod runbook;
mod units;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use soloist::config::{Config, ConfigSources};

pub(crate) use self::broker::{is_for_the_broker, is_on_the_broker};
pub(crate) use self::compose::is_composed;
pub(crate) use self::runbook::metrics;
use crate::cli::Soloist;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The documents of a YAML file, its merge keys applied.
fn yaml(path: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(&text(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// A mapping's keys with their values.
fn entries(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    value.as_object().into_iter().flatten().map(|(key, value)| (key.as_str(), value))
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

/// A command as words; YAML has it as a list or as one text.
fn words(command: &Value) -> Vec<String> {
    match command {
        Value::String(line) => line.split_whitespace().map(str::to_owned).collect(),
        command => list(command).map(|part| word(part).to_owned()).collect(),
    }
}

/// What follows a flag.
fn after<'a>(words: &'a [String], flag: &str) -> Option<&'a str> {
    words.iter().skip_while(|word| *word != flag).nth(1).map(String::as_str)
}

/// The image that all files must name.
fn image() -> String {
    format!("soloist:{}", env!("CARGO_PKG_VERSION"))
}

/// The configuration of a process with these variables, and with that file if there is one.
fn configured(file: Option<PathBuf>, env: BTreeMap<String, String>) -> Config {
    let sources = ConfigSources { file, default_file: None, env };
    Config::load(&sources).unwrap_or_else(|wrong| panic!("{sources:?}: {wrong}"))
}

/// The binary itself reads the command: `--help` behind it makes it stop before it does anything.
async fn is_understood(args: &[String]) {
    let args: Vec<&str> = args.iter().map(String::as_str).chain(["--help"]).collect();
    let ended = Soloist::bare().run(&args).await;
    let usage = format!("Usage: soloist {}", args[0]);
    assert!(ended.code == Some(0) && ended.out.contains(&usage), "soloist {}: {}", args.join(" "), ended.err);
}
