//! Rules about the source that a machine can check: who may use whom, where things live, what may not be left over.

#![expect(
    clippy::unwrap_used,
    clippy::string_slice,
    clippy::indexing_slicing,
    reason = "a check that cannot read the source fails"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Which modules of ours a module may name, besides itself. A module that is not listed fails.
const MAY_USE: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("clock", &[]),
    ("policy", &["model"]),
    ("retry", &["model"]),
    ("message", &["model"]),
    ("telemetry", &["model", "config"]),
    ("http", &["telemetry", "config"]),
    ("config", &["model", "policy"]),
    ("sqlite", &[]),
    ("queue", &["model", "message", "retry", "sqlite", "clock", "telemetry", "config"]),
    ("provider", &["model", "policy", "clock", "telemetry", "config"]),
    ("probe", &["model", "provider"]),
    ("ledger", &["model", "policy", "sqlite", "clock", "telemetry", "config"]),
    ("directives", &["model", "policy", "sqlite", "clock", "telemetry", "config"]),
    ("notify", &["model", "policy", "retry", "ledger", "directives", "sqlite", "clock", "telemetry", "config"]),
    ("webhook", &["model", "message", "queue", "http", "clock", "telemetry", "config"]),
    (
        "worker",
        &["model", "policy", "retry", "queue", "provider", "ledger", "directives", "clock", "telemetry", "config"],
    ),
    ("sweep", &["model", "policy", "queue", "ledger", "directives", "clock", "telemetry"]),
    (
        "api",
        &[
            "model",
            "policy",
            "queue",
            "provider",
            "ledger",
            "directives",
            "worker",
            "sqlite",
            "http",
            "clock",
            "telemetry",
            "config",
        ],
    ),
    // Above all not the provider's types: one mistake about the vendor must not pass twice.
    ("sandbox", &[]),
    (
        "app",
        &[
            "model",
            "message",
            "webhook",
            "queue",
            "worker",
            "sweep",
            "policy",
            "retry",
            "provider",
            "probe",
            "directives",
            "ledger",
            "notify",
            "api",
            "sandbox",
            "http",
            "clock",
            "config",
            "telemetry",
        ],
    ),
    ("cli", &["app", "config", "sandbox", "telemetry", "model", "policy", "probe"]),
    ("main", &["app", "cli", "config", "sandbox", "telemetry"]),
];

/// Modules whose functions turn values into values: nothing from this list may be named in them.
const PURE: &[&str] = &["model", "policy", "retry"];
const IMPURE: &[&str] = &[
    "async fn",
    ".await",
    "tokio::",
    "tracing::",
    "reqwest::",
    "rusqlite::",
    "axum::",
    "rand::",
    "std::fs",
    "std::net",
    "std::io",
    "std::env",
    "std::time::Instant",
    "SystemTime",
    "Timestamp::now",
    "Zoned::now",
];

const LINES_MAX: usize = 400;
/// Files that may be longer, with the reason.
const LONGER: &[(&str, &str)] = &[];

struct Source {
    /// From the top of the repository: `src/queue/mod.rs`.
    path: String,
    text: String,
}

impl Source {
    fn is_under(&self, folder: &str) -> bool {
        self.path.starts_with(folder)
    }

    /// The module at the top of the crate that the file belongs to; `None` outside of `src`.
    fn module(&self) -> Option<&str> {
        let path = self.path.strip_prefix("src/")?;
        Some(path.split_once('/').map_or_else(|| path.trim_end_matches(".rs"), |(folder, _)| folder))
    }

    /// The first line that belongs to tests: 1 in a file of tests, else that of the `#[cfg(test)]` over `mod … {`.
    fn tests_from(&self) -> usize {
        if !self.is_under("src/") || self.path.ends_with("/tests.rs") || self.path.contains("/tests/") {
            return 1;
        }
        let lines: Vec<&str> = self.text.lines().collect();
        let module = lines.iter().position(|line| line.starts_with("mod ") && line.ends_with('{'));
        let above = &lines[..module.unwrap_or(0)];
        let attributes = above.iter().rev().take_while(|line| line.starts_with("#[")).count();
        let mut attributes = above.iter().enumerate().skip(above.len() - attributes);
        attributes.find(|(_, line)| **line == "#[cfg(test)]").map_or(usize::MAX, |(at, _)| at + 1)
    }

    /// Without comments, and without tests.
    fn production_code(&self) -> String {
        let production = self.text.lines().take(self.tests_from() - 1);
        production.filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
    }

    /// `file:line: text` of each line for which `is_bad` holds.
    fn lines(&self, is_bad: impl Fn(usize, &str) -> bool) -> Vec<String> {
        let numbered = self.text.lines().enumerate().map(|(at, line)| (at + 1, line));
        let bad = numbered.filter(|(number, line)| is_bad(*number, line));
        bad.map(|(number, line)| format!("{}:{number}: {}", self.path, line.trim())).collect()
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files_below(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("fuzz/target") { files_below(&path, found) } else { found.push(path) }
    }
}

fn sources() -> Vec<Source> {
    let mut paths = Vec::new();
    for folder in ["src", "tests", "benches"] {
        files_below(&root().join(folder), &mut paths);
    }
    paths.sort();
    let rust = paths.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    let source = |path: PathBuf| Source {
        path: path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned(),
        text: fs::read_to_string(&path).unwrap(),
    };
    rust.map(source).collect()
}

/// Fails with every line that something is wrong with.
fn assert_none(rule: &str, mut offences: Vec<String>) {
    offences.sort();
    offences.dedup();
    assert!(offences.is_empty(), "{rule}:\n  {}", offences.join("\n  "));
}

/// A word that this file may contain without offending its own rule.
fn word(halves: [&str; 2]) -> String {
    halves.concat()
}

/// The modules of the crate that a piece of code names, in `crate::a::…`, `crate::{a::…, b}` or `soloist::a`.
fn modules_named(code: &str, of_crate: &str) -> BTreeSet<String> {
    let mut named = BTreeSet::new();
    for (at, prefix) in code.match_indices(of_crate) {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
            continue;
        }
        let path = &code[at + prefix.len()..];
        match path.strip_prefix('{') {
            Some(group) => named.extend(heads_of_group(group)),
            None => named.extend(first_name(path)),
        }
    }
    named
}

/// The first name of each path in `a::{b, c}, d}…`, up to the brace that closes the group.
fn heads_of_group(group: &str) -> Vec<String> {
    let (mut depth, mut heads, mut start) = (0_usize, Vec::new(), 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                heads.extend(first_name(group[start..at].trim()));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    heads
}

fn first_name(path: &str) -> Option<String> {
    let name: String = path.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    name.starts_with(char::is_lowercase).then_some(name)
}

#[test]
fn modules_name_only_what_they_may() {
    let allowed: BTreeMap<&str, &[&str]> = MAY_USE.iter().copied().collect();
    let mut offences = Vec::new();
    for source in sources() {
        let Some(module) = source.module().filter(|module| *module != "lib") else { continue };
        let Some(allowed) = allowed.get(module) else {
            offences.push(format!("{}: module `{module}` is not in the table of tests/tidy.rs", source.path));
            continue;
        };
        let of_crate = if module == "main" { "soloist::" } else { "crate::" };
        for named in modules_named(&source.production_code(), of_crate) {
            if named != module && !allowed.contains(&named.as_str()) {
                offences.push(format!("{}: `{module}` may not use `{named}`", source.path));
            }
        }
    }
    assert_none("modules that use what they may not", offences);
}

#[test]
fn the_reader_of_paths_sees_every_form() {
    let code =
        "use crate::model::X; use crate::{queue::{A, B}, retry, Error}; fn f() { crate::worker::run() } my_crate::no";
    let expected = ["model", "queue", "retry", "worker"].map(str::to_owned);
    assert_eq!(modules_named(code, "crate::"), BTreeSet::from(expected));
}

#[test]
fn pure_modules_do_no_io_and_read_no_clock() {
    let mut offences = Vec::new();
    for source in sources().iter().filter(|source| source.module().is_some_and(|module| PURE.contains(&module))) {
        let code = source.production_code();
        offences
            .extend(IMPURE.iter().filter(|word| code.contains(**word)).map(|word| format!("{}: {word}", source.path)));
        // Who resolves exemptions is told what time it is; the rule itself never is.
        let is_told = source.path == "src/policy/layers.rs";
        if !is_told && code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "now") {
            offences.push(format!("{}: now", source.path));
        }
    }
    assert_none("impure words in pure modules", offences);
}

/// The `mod` lines of a file, with the files that each may mean.
fn children(source: &Source) -> Vec<[String; 2]> {
    let (folder, stem) = source.path.rsplit_once('/').unwrap();
    // Files at the top of `tests` and `benches` are crates of their own.
    let owns_folder = ["mod.rs", "lib.rs", "main.rs"].contains(&stem) || ["tests", "benches"].contains(&folder);
    let folder = if owns_folder { folder.to_owned() } else { source.path.trim_end_matches(".rs").to_owned() };
    let name = |line: &str| {
        let line = line.trim_start();
        let rest = line
            .strip_prefix("mod ")
            .or_else(|| line.split_once(" mod ").filter(|(v, _)| v.starts_with("pub"))?.1.into())?;
        Some(rest.strip_suffix(';')?.to_owned())
    };
    let names = source.text.lines().filter_map(name);
    names.map(|name| [format!("{folder}/{name}.rs"), format!("{folder}/{name}/mod.rs")]).collect()
}

#[test]
fn every_file_is_compiled() {
    let sources = sources();
    let reached: BTreeSet<String> = sources.iter().flat_map(children).flatten().collect();
    let is_root = |path: &str| {
        let parts: Vec<&str> = path.split('/').collect();
        let is_top = matches!(parts.as_slice(), ["src", "main.rs" | "lib.rs"] | ["tests" | "benches", _]);
        let fuzzed = matches!(parts.as_slice(), ["tests", "fuzz", "src", "lib.rs"] | ["tests", "fuzz", "targets", _]);
        is_top || fuzzed || matches!(parts.as_slice(), ["src", "bin", _] | ["tests" | "benches", _, "main.rs"])
    };
    let orphans = sources.iter().filter(|source| !is_root(&source.path) && !reached.contains(&source.path));
    assert_none("files that no `mod` line reaches", orphans.map(|source| source.path.clone()).collect());
}

#[test]
fn every_file_says_first_what_it_is_for() {
    let silent = sources().into_iter().filter(|source| !source.text.starts_with("//! "));
    assert_none("files whose first line is no `//!`", silent.map(|source| source.path).collect());
}

#[test]
fn no_file_is_too_long_to_read() {
    let is_excused = |path: &str| LONGER.iter().any(|(longer, _)| *longer == path);
    let long =
        sources().into_iter().filter(|source| source.text.lines().count() > LINES_MAX && !is_excused(&source.path));
    let offences = long.map(|source| format!("{}: {} lines", source.path, source.text.lines().count())).collect();
    assert_none("files over 400 lines", offences);
}

#[test]
fn an_excuse_for_a_long_file_is_still_needed() {
    let lines = |path: &str| fs::read_to_string(root().join(path)).map_or(0, |text| text.lines().count());
    let needless = LONGER.iter().filter(|(path, _)| lines(path) <= LINES_MAX);
    assert_none("files that are no longer long", needless.map(|(path, _)| (*path).to_owned()).collect());
}

#[test]
fn some_things_have_one_place() {
    let mut offences = Vec::new();
    for source in sources().iter().filter(|source| source.is_under("src/")) {
        let is_in = |place: &str| source.module() == Some(place);
        let code = source.production_code();
        for (name, place) in [("backoff::", "retry"), ("std::env", "config"), ("env::var", "config")] {
            let names = code
                .match_indices(name)
                .any(|(at, _)| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'));
            if names && !is_in(place) {
                offences.push(format!("{}: `{name}` belongs into {place}", source.path));
            }
        }
    }
    assert_none("things in the wrong place", offences);
}

/// Chosen by who ordered the program: each is a dependency that the program itself works with.
const ORDERED: [&str; 8] = ["lapin", "tokio", "reqwest", "serde", "serde_json", "axum", "tracing", "backoff"];

#[test]
fn every_crate_that_was_ordered_is_used() {
    let manifest: toml::Table = fs::read_to_string(root().join("Cargo.toml")).unwrap().parse().unwrap();
    let code: String = sources().iter().filter(|source| source.is_under("src/")).map(Source::production_code).collect();
    let is_used = |name: &str| {
        let is_path = |at: usize| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
        code.match_indices(&format!("{name}::")).any(|(at, _)| is_path(at))
    };
    let is_missing = |name: &str| !manifest["dependencies"].as_table().unwrap().contains_key(name) || !is_used(name);
    let missing = ORDERED.into_iter().filter(|name| is_missing(name)).map(str::to_owned).collect();
    assert_none("ordered crates that are missing or unused", missing);
}

#[test]
fn no_test_is_skipped_and_none_waits() {
    let (ignore, sleep) = (word(["#[ign", "ore"]), word(["sle", "ep("]));
    let mut offences = Vec::new();
    for source in sources() {
        let tests_from = source.tests_from();
        offences.extend(source.lines(|number, line| {
            let waits = line.contains(&sleep) && number >= tests_from && !source.is_under("benches/");
            line.trim_start().starts_with(&ignore) || waits
        }));
    }
    assert_none("tests that are skipped or sleep", offences);
}

#[test]
fn nothing_is_left_over() {
    let words = [["TO", "DO"], ["FIX", "ME"], ["X", "XX"], ["to", "do!("], ["unimpl", "emented!("]].map(word);
    let is_bad = |_, line: &str| words.iter().any(|word| line.contains(word));
    assert_none("leftovers", sources().iter().flat_map(|source| source.lines(is_bad)).collect());
}

#[test]
fn nothing_points_to_somebodys_own_machine() {
    let homes = [["/ho", "me/"], ["/ro", "ot/"], ["/Us", "ers/"], ["/wo", "rk/"], ["C:", "\\Users"]].map(word);
    let mut paths = Vec::new();
    for folder in ["src", "tests", "benches", "deploy", ".ci"] {
        files_below(&root().join(folder), &mut paths);
    }
    paths.extend(["Cargo.toml", "README.md", ".deny.toml", ".clippy.toml"].map(|file| root().join(file)));
    let mut offences = Vec::new();
    for path in paths {
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let path = path.strip_prefix(root()).unwrap().display().to_string();
        offences.extend(Source { path, text }.lines(|_, line| homes.iter().any(|home| line.contains(home))));
    }
    assert_none("paths of one machine", offences);
}
