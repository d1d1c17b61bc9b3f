//! The README tells the truth: what it shows is run, and what it names exists.

mod apps;
mod chapters;
mod samples;
mod walk;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;

use soloist::config::{Config, ConfigSources, options};

static README: LazyLock<String> = LazyLock::new(|| std::fs::read_to_string(root().join("README.md")).unwrap());

/// A fenced block.
struct Block {
    section: &'static str,
    language: &'static str,
    lines: Vec<&'static str>,
}

/// The README taken apart: its blocks, and its other lines.
fn parts() -> (Vec<Block>, Vec<(&'static str, &'static str)>) {
    let (mut blocks, mut prose, mut section) = (Vec::new(), Vec::new(), "");
    let mut lines = README.lines();
    while let Some(line) = lines.next() {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            let indent = line.len() - line.trim_start().len();
            let inside = lines.by_ref().take_while(|line| line.trim() != "```");
            let lines = inside.map(|line| line.get(indent..).unwrap_or_default()).collect();
            blocks.push(Block { section, language, lines });
            continue;
        }
        section = line.strip_prefix("## ").unwrap_or(section);
        prose.push((section, line));
    }
    (blocks, prose)
}

fn blocks(language: &'static str) -> impl Iterator<Item = Block> {
    parts().0.into_iter().filter(move |block| block.language == language)
}

/// Every `code` in the running text, with its section.
fn codes() -> Vec<(&'static str, &'static str)> {
    let of_line = |(section, line): (&'static str, &'static str)| {
        let pieces: Vec<&str> = line.split('`').collect();
        assert!(pieces.len() % 2 == 1, "a ` is alone in: {line}");
        pieces.into_iter().skip(1).step_by(2).map(move |code| (section, code)).collect::<Vec<_>>()
    };
    parts().1.into_iter().flat_map(of_line).collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All Rust source below a folder.
fn source(folder: &str) -> String {
    let mut text = String::new();
    for entry in std::fs::read_dir(root().join(folder)).unwrap() {
        let path = entry.unwrap().path();
        let inner = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            text += &source(&inner);
        } else if path.extension().is_some_and(|ending| ending == "rs") && !inner.starts_with("tests/it/readme/") {
            text += &std::fs::read_to_string(path).unwrap();
        }
    }
    text
}

/// Loads TOML as a configuration, with credentials where it has none and its files in a folder of the test's.
fn loads(toml: &str) -> Result<Config, String> {
    let folder = tempfile::tempdir().unwrap();
    for secret in ["api_key", "api_secret", "webhook_secrets", "broker_password"] {
        std::fs::write(folder.path().join(secret), "test").unwrap();
    }
    let signs = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    std::fs::write(folder.path().join("notify_secret"), signs).unwrap();
    let file = folder.path().join("soloist.toml");
    std::fs::write(&file, toml.replace("/etc/soloist", folder.path().to_str().unwrap())).unwrap();
    let credential = |name: &str| (format!("SOLOIST_LOGINRADIUS__{}", name.to_uppercase()), "test".to_owned());
    let has = |name: &str| toml.contains(&format!("{name}_file"));
    let env: BTreeMap<_, _> = ["api_key", "api_secret"].into_iter().filter(|name| !has(name)).map(credential).collect();
    Config::load(&ConfigSources { file: Some(file), default_file: None, env }).map_err(|wrong| wrong.to_string())
}

#[test]
fn every_toml_is_a_valid_configuration() {
    for block in blocks("toml") {
        loads(&block.lines.join("\n")).unwrap_or_else(|wrong| panic!("{wrong}"));
    }
    for (_, code) in codes().into_iter().filter(|(_, code)| code.contains(" = ")) {
        let notify = "[[notify]]\nname = \"app\"\nurl = \"https://h\"\nsecret_file = \"/etc/soloist/notify_secret\"\n";
        let sections = ["", "[policy]\n", "[policy]\nmode = \"observe\"\n", notify];
        assert!(sections.iter().any(|section| loads(&format!("{section}{code}")).is_ok()), "{code}");
    }
}

/// Whether an option has this path; secrets also as files, and all of a tenant under its name.
fn is_option(path: &str) -> bool {
    let path = path.strip_prefix("tenants.acme.").unwrap_or(path);
    options().iter().any(|o| o.path == path || (o.is_secret() && path.strip_suffix("_file") == Some(o.path)))
}

#[test]
fn every_option_variable_and_word_of_the_program_exists() {
    let variables = README.split("SOLOIST_").skip(1);
    for name in variables.map(|rest| rest.split(|c: char| !c.is_ascii_uppercase() && c != '_').next().unwrap()) {
        let path = name.to_lowercase().replace("__", ".");
        assert!(["", "config"].contains(&path.as_str()) || is_option(&path), "SOLOIST_{name}");
    }
    let all = source("src") + &source("tests");
    for (_, code) in codes() {
        let lower = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        let parts: Vec<&str> = code.split('.').collect();
        let is_path = parts.iter().all(|part| !part.is_empty() && part.chars().all(lower));
        let is_file = [".rs", ".toml", ".db", ".key"].iter().any(|ending| code.ends_with(ending));
        if code.starts_with("soloist.") && !is_file {
            assert!(crate::deploy::is_on_the_broker(code), "{code}");
        } else if is_path && parts.len() > 1 && !is_file {
            assert!(is_option(code), "{code}");
        } else if is_path && code.contains('_') && !code.starts_with("soloist_") && !code.starts_with('_') {
            let known = is_option(code) || options().iter().any(|option| option.path.ends_with(&format!(".{code}")));
            assert!(known || all.contains(&format!("\"{code}\"")) || all.contains(&format!("fn {code}")), "{code}");
        }
    }
    // The table of options: name and default.
    for (_, line) in parts().1.iter().filter(|(section, line)| *section == "Configuration" && line.starts_with("| `")) {
        let cells: Vec<&str> = line.split('`').collect();
        let option = options().iter().find(|option| option.path == cells[1]).unwrap_or_else(|| panic!("{line}"));
        let default = cells[2].trim() == "|";
        assert!(!default || option.default == Some(cells[3]), "{line}");
    }
}

#[test]
fn every_promise_names_tests_that_exist() {
    // `cargo test --test it NAME` has to find it.
    let tests = source("tests/it");
    let rows = parts().1.into_iter().filter(|(section, line)| *section == "Guarantees" && line.starts_with("| "));
    let rows: Vec<&str> = rows.skip(1).map(|(_, row)| row).collect();
    assert!(rows.len() >= 20, "{rows:?}");
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").collect();
        assert_eq!(cells.len(), 3, "promise, limit, proof: {row}");
        let named: Vec<&str> = cells[2].split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty(), "nothing proves: {row}");
        for name in named {
            let body = tests.split_once(&format!("fn {name}(")).map(|(before, _)| before);
            let marked = body.is_some_and(|before| {
                before.lines().rev().take(6).any(|line| line.contains("test]") || line.contains("::test("))
            });
            assert!(marked, "{name} is no test");
        }
    }
}

#[test]
fn every_metric_exists() {
    let metrics = crate::deploy::metrics();
    for (_, name) in codes().into_iter().filter(|(_, code)| code.starts_with("soloist_")) {
        assert!(metrics.contains(name), "{name}");
    }
}

#[test]
fn the_producers_and_the_receiver_are_the_files_that_are_run() {
    let files =
        [("python", &["producers/producer.py", "receivers/receiver.py"][..]), ("js", &["producers/producer.mjs"])];
    for (language, files) in files {
        let shown: Vec<String> = blocks(language).map(|block| block.lines.join("\n") + "\n").collect();
        let run = files.iter().map(|file| std::fs::read_to_string(root().join("tests/fixtures").join(file)).unwrap());
        assert_eq!(shown, run.collect::<Vec<_>>());
    }
}

#[test]
fn every_link_leads_somewhere() {
    for target in README.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
        assert!(root().join(target).exists(), "{target}");
    }
    let ours = ["src/", "tests/", "deploy/", ".ci/"];
    for (_, path) in codes().into_iter().filter(|(_, code)| ours.iter().any(|folder| code.starts_with(folder))) {
        assert!(root().join(path).exists(), "{path}");
    }
}
