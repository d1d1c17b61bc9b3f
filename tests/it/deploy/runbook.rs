//! The runbook and the rules that call somebody: a section for each alarm, and nothing in them that does not exist.

use std::collections::BTreeSet;
use std::path::Path;

use soloist::config::options;

use super::{entries, is_understood, list, root, text, word, yaml};

const RUNBOOK: &str = "deploy/runbook.md";
const RULES: &str = "deploy/prometheus/alerts.yaml";
/// What each section tells.
const PARTS: [&str; 5] = ["**It means:**", "**Users notice:**", "**Look at:**", "**Do:**", "**Do not:**"];

/// The sections of the runbook below a chapter, each with its text.
fn sections(chapter: &str) -> Vec<(String, String)> {
    let runbook = text(RUNBOOK);
    let (_, from) = runbook.split_once(&format!("\n## {chapter}\n")).unwrap();
    let chapter = from.split("\n## ").next().unwrap();
    let section = |section: &str| {
        let (title, text) = section.split_once('\n').unwrap();
        (title.trim_matches('`').to_owned(), text.to_owned())
    };
    chapter.split("\n### ").skip(1).map(section).collect()
}

/// All source of the program.
fn source() -> String {
    let mut folders = vec![root().join("src")];
    let mut source = String::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                source += &std::fs::read_to_string(path).unwrap();
            }
        }
    }
    source
}

/// Each `code` of the runbook, its blocks included.
fn codes() -> Vec<String> {
    let runbook = text(RUNBOOK).replace("```sh\n", "`").replace("```", "`");
    let pieces: Vec<&str> = runbook.split('`').collect();
    assert!(pieces.len() % 2 == 1, "a ` is alone");
    // A line may break within.
    pieces.into_iter().skip(1).step_by(2).map(|code| code.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

/// Every metric as the program names it, by the table in its source: a metric that nothing was counted in is not printed.
pub(crate) fn metrics() -> BTreeSet<String> {
    let telemetry: String = text("src/telemetry.rs").split_whitespace().collect::<Vec<_>>().join(" ");
    let mut metrics = BTreeSet::new();
    let mut of = |method: &str, suffix: &str| {
        for call in telemetry.split(&format!(".{method}(")).skip(1) {
            let Some(name) = call.trim_start().strip_prefix('"').and_then(|rest| rest.split('"').next()) else {
                continue;
            };
            let unit = if suffix.is_empty() { "" } else { call.split("Unit::").nth(1).unwrap_or_default() };
            let suffix = match suffix {
                "UNIT" if unit.starts_with("Bytes") => "_bytes",
                "UNIT" => "_seconds",
                suffix => suffix,
            };
            metrics.insert(format!("soloist_{name}{suffix}"));
        }
    };
    for (method, suffix) in [
        ("counter", "_total"),
        ("gauge", ""),
        ("single", ""),
        ("gauge_in", "UNIT"),
        ("single_in", "UNIT"),
        ("register_with_unit", "UNIT"),
        ("histogram", "_seconds"),
        ("register", "_total"),
    ] {
        of(method, suffix);
    }
    assert!(metrics.len() > 30, "{metrics:?}");
    metrics
}

/// The metrics that are named in a text.
fn named(text: &str) -> Vec<String> {
    let name = |rest: &str| rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect::<String>();
    text.split("soloist_").skip(1).map(|rest| format!("soloist_{}", name(rest))).collect()
}

#[test]
fn every_alarm_has_a_section_and_every_section_an_alarm() {
    let source = source();
    let raised: BTreeSet<&str> =
        source.split("alarm = \"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    let sections = sections("Alarms");
    let told: BTreeSet<&str> = sections.iter().map(|(title, _)| title.as_str()).collect();
    assert_eq!(raised, told);
    assert_eq!(told.len(), sections.len(), "two sections of one alarm");
}

#[test]
fn every_section_says_what_it_means_what_to_do_and_what_not() {
    for (title, text) in sections("Alarms").into_iter().chain(sections("Metrics and other signs")) {
        let found: Vec<usize> = PARTS.iter().map(|part| text.find(part).unwrap_or(usize::MAX)).collect();
        assert!(found.is_sorted() && !found.contains(&usize::MAX), "{title}: {found:?}");
    }
}

#[tokio::test]
async fn what_the_runbook_names_exists() {
    let (metrics, source) = (metrics(), source());
    for code in codes() {
        if code.starts_with("soloist_") {
            assert!(named(&code).iter().all(|name| metrics.contains(name)), "{code}");
        } else if let Some(command) = code.strip_prefix("soloist ") {
            // What stands between quotes is one word.
            let quoted = command.split('"').enumerate();
            let words = quoted.flat_map(|(n, part)| match n % 2 {
                0 => part.split_whitespace().map(str::to_owned).collect(),
                _ => vec![part.to_owned()],
            });
            is_understood(
                &words.map(|word| if word == "URL" { "http://127.0.0.1".to_owned() } else { word }).collect::<Vec<_>>(),
            )
            .await;
        } else if code.contains('.') && code.chars().all(|c| c.is_ascii_lowercase() || "._".contains(c)) {
            let is_file = Path::new(&code)
                .extension()
                .is_some_and(|extension| ["db", "key", "json"].iter().any(|known| extension == *known));
            let is_known = options().iter().any(|option| option.path == code) || crate::deploy::is_on_the_broker(&code);
            assert!(is_file || is_known, "{code}");
        } else if code.chars().all(|c| c.is_ascii_lowercase() || c == '_') && code.contains('_') {
            let is_known = source.contains(&format!("\"{code}\"")) || code == "data_dir";
            assert!(is_known, "{code}");
        }
    }
}

#[test]
fn every_rule_asks_for_metrics_that_exist_and_names_a_section() {
    let (metrics, source) = (metrics(), source());
    let titles: Vec<String> = sections("Alarms")
        .into_iter()
        .chain(sections("Metrics and other signs"))
        .map(|(title, _)| anchor(&title))
        .collect();
    let [rules]: [_; 1] = yaml(RULES).try_into().unwrap();
    let rules: Vec<_> = list(&rules["groups"][0]["rules"]).collect();
    assert!(!rules.is_empty());
    for rule in rules {
        let expr = word(&rule["expr"]);
        let asked = named(expr);
        assert!(!asked.is_empty() && asked.iter().all(|name| metrics.contains(name)), "{expr}");
        for value in expr.split('"').skip(1).step_by(2).flat_map(|values| values.split('|')) {
            assert!(source.contains(&format!("\"{value}\"")), "no label has the value {value}: {expr}");
        }
        let annotations: Vec<&str> = entries(&rule["annotations"]).map(|(key, _)| key).collect();
        assert_eq!(annotations, ["runbook", "summary"], "{rule}");
        let (file, section) = word(&rule["annotations"]["runbook"]).split_once('#').unwrap();
        assert!(file == RUNBOOK && titles.iter().any(|title| title == section), "{section}: {titles:?}");
    }
}

/// A title as links name it.
fn anchor(title: &str) -> String {
    let kept = title.chars().filter(|c| c.is_alphanumeric() || " _-".contains(*c));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}
