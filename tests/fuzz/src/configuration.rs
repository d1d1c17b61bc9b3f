//! A configuration: any file, any variables.
//!
//! An input is the file, and after a line of three dashes one variable a line, `NAME=value`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use soloist::config::{Config, ConfigError, ConfigSources, options};
use tempfile::TempDir;

/// # Panics
/// Where a configuration is read as something else the second time, or a mistake says more than it may.
pub fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    // The file of a secret may be one that never ends, such as a terminal.
    if text.contains("/dev") || text.contains("/proc") {
        return;
    }
    let (file, variables) = text.split_once("\n---\n").unwrap_or((text, ""));
    let sources = sources(file, variables);
    let secrets = secrets_in(text);
    let loaded = Config::load(&sources);
    match &loaded {
        Ok(config) => can_be_used(config),
        Err(error) => says_each_mistake_on_its_line(error),
    }
    let shown = match &loaded {
        Ok(config) => format!("{config:?} {:?}", config.effective()),
        Err(error) => format!("{error} {error:?}"),
    };
    for secret in secrets {
        assert!(!shown.contains(secret), "`{secret}` is shown: {shown}");
    }
    let again = Config::load(&sources);
    assert_eq!(format!("{loaded:?}"), format!("{again:?}"), "the same configuration read twice");
}

fn can_be_used(config: &Config) {
    assert!(!config.tenants.is_empty());
    assert!(config.effective().len() >= options().len() - config.tenants.len());
    let policies = config.policies().expect("the policies of a configuration that was loaded");
    assert_eq!(policies.len(), config.tenants.len());
    assert!(config.tenants.values().all(|tenant| !tenant.loginradius.webhook_secrets.is_empty()));
}

fn says_each_mistake_on_its_line(error: &ConfigError) {
    let text = error.to_string();
    assert_eq!(text.lines().count(), 1 + error.0.len(), "{text:?}");
    assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
}

fn sources(file: &str, variables: &str) -> ConfigSources {
    let variables = variables.lines().filter_map(|line| line.split_once('='));
    let env: BTreeMap<String, String> = variables
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .filter(|(name, _)| name != "SOLOIST_CONFIG")
        .collect();
    ConfigSources { file: Some(written(file)), default_file: None, env }
}

thread_local! {
    static FOLDER: TempDir = TempDir::new().unwrap();
}

fn written(file: &str) -> PathBuf {
    let path = FOLDER.with(|folder| folder.path().join("soloist.toml"));
    std::fs::write(&path, file).unwrap();
    path
}

/// The words with a digit behind `=` on lines that set a secret, unless they stand elsewhere, too. A table there has
/// keys, which are names and shown.
fn secrets_in(text: &str) -> Vec<&str> {
    // There a line may be part of another option's text.
    if text.contains("\"\"\"") || text.contains("'''") {
        return Vec::new();
    }
    let last_key = |name: &str| name.trim().to_lowercase().replace("__", ".").rsplit('.').next().map(str::to_owned);
    let secrets: Vec<_> =
        options().iter().filter(|option| option.is_secret()).map(|option| last_key(option.path)).collect();
    let lines = text.lines().filter_map(|line| line.split_once('='));
    let values = lines.filter(|(name, _)| secrets.contains(&last_key(name))).map(|(_, value)| value);
    let values = values.filter(|value| !value.contains('{'));
    let words = values.flat_map(|value| value.split(|c: char| !c.is_ascii_alphanumeric()));
    let stands_out = |word: &&str| word.len() >= 8 && word.contains(|c: char| c.is_ascii_digit());
    words.filter(stands_out).filter(|word| text.matches(word).count() == 1).collect()
}
