//! `soloist.js`: what is served is the file, and it does in a script what it promises.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use soloist::sandbox::{Sandbox, SandboxConfig};
use tokio::process::Command;

use super::Shop;
use crate::support::programs::{self, Version};
use crate::support::{report, soon, soon_within};

/// What a page may load of it before it is worth a second thought.
const SCRIPT_BYTES_MAX: usize = 6 * 1024;
/// How long a script may take: a browser takes seconds to start, and on a busy machine many.
const PATIENCE: Duration = Duration::from_mins(3);
/// The first Node that knows all that the script uses.
const NODE_MIN: Version = [20, 0];

fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn text(path: &str) -> String {
    std::fs::read_to_string(file(path)).unwrap()
}

#[tokio::test]
async fn the_script_is_served_as_it_is_and_may_be_kept() {
    let shop = Shop::open(&[("SOLOIST_API__ORIGINS", r#"["https://app.example"]"#)]).await;
    let request = || shop.request("GET", "/v1/soloist.js").header("origin", "https://app.example");
    let answer = soon("the script", request().send()).await.unwrap();
    let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(answer.status().as_u16(), 200);
    assert_eq!(header("content-type"), "text/javascript; charset=utf-8");
    assert_eq!(header("cache-control"), "public, max-age=3600");
    assert_eq!(header("access-control-allow-origin"), "https://app.example");
    let etag = header("etag");
    assert_eq!(soon("its text", answer.text()).await.unwrap(), text("deploy/js/soloist.js"));

    let asks_again = async |known: &str| {
        let answer = soon("an answer", request().header("if-none-match", known).send()).await.unwrap();
        (answer.status().as_u16(), answer.headers()["etag"].to_str().unwrap().to_owned(), answer.text().await.unwrap())
    };
    assert_eq!(asks_again(&format!("\"old\", W/{etag}")).await, (304, etag.clone(), String::new()));
    assert_eq!(asks_again("\"old\"").await.0, 200);
    shop.close().await;
}

#[test]
fn the_script_is_small_and_writes_neither_markup_nor_tokens_into_addresses() {
    let script = text("deploy/js/soloist.js");
    assert!(script.len() < SCRIPT_BYTES_MAX, "{} bytes", script.len());
    for bad in ["innerHTML", "outerHTML", "eval(", "?token", "access_token", "import ", "console."] {
        assert!(!script.contains(bad), "{bad}");
    }
    let package: serde_json::Value = serde_json::from_str(&text("deploy/js/package.json")).unwrap();
    assert_eq!(package["version"], env!("CARGO_PKG_VERSION"));
    assert!(package.get("dependencies").is_none());
    let types = text("deploy/js/soloist.d.ts");
    for name in ["checkpoint", "sessions", "endSession", "endOthers", "pin", "why", "onRevoked"] {
        assert!(types.contains(&format!("  {name}(")), "{name} has no type");
        assert!(script.contains(&format!("    {name}")), "{name} is not there");
    }
}

/// Whether there is a Node that can run the scripts.
async fn has_node(test: &str) -> bool {
    programs::is_here(test, "node", NODE_MIN).await
}

/// A script of `tests/fixtures/browser`, which ends badly where something is not as it should be.
async fn runs(script: &str, args: &[&str]) -> String {
    let mut node = Command::new("node");
    node.arg(file("tests/fixtures/browser").join(script)).args(args).stdin(Stdio::null()).kill_on_drop(true);
    let output = soon_within(PATIENCE, script, node.output()).await.unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn the_script_does_every_call_and_hears_why_a_session_ended() {
    if !has_node("the_script_does_every_call_and_hears_why_a_session_ended").await {
        return;
    }
    let shop = Shop::open(&[("SOLOIST_POLICY__LIMIT", "2")]).await;
    runs("calls.mjs", &[&shop.base, &shop.service.sandbox.url()]).await;
    shop.close().await;
}

#[tokio::test]
async fn the_script_reads_any_stream_and_comes_again_after_bad_ones() {
    if !has_node("the_script_reads_any_stream_and_comes_again_after_bad_ones").await {
        return;
    }
    runs("streams.mjs", &[]).await;
}

/// A Chromium that can be driven; `tests/run` installs one where it can.
async fn browser(test: &str) -> Option<&'static str> {
    for name in ["chromium-headless-shell", "chromium"] {
        let said = Command::new(name).arg("--version").stdin(Stdio::null()).kill_on_drop(true).output();
        if soon(name, said).await.is_ok_and(|output| output.status.success()) {
            return Some(name);
        }
    }
    report::skipped(test, "there is no Chromium");
    None
}

/// The sample app of the sandbox in tabs of a real browser. Where `SOLOIST_TEST_OUTPUT` names a folder, it gets pictures.
async fn in_tabs(test: &str, scenario: &str, limit: &str) -> Option<String> {
    if !has_node(test).await {
        return None;
    }
    let browser = browser(test).await?;
    let sandbox = Sandbox::start(SandboxConfig::default()).await.unwrap();
    let origins = format!("[\"{}\"]", sandbox.url());
    let options = [("SOLOIST_API__ORIGINS", origins.as_str()), ("SOLOIST_POLICY__LIMIT", limit)];
    let shop = Shop::open_on(sandbox, &options).await;
    let profile = tempfile::tempdir().unwrap();
    let pictures =
        std::env::var_os("SOLOIST_TEST_OUTPUT").map_or(String::new(), |folder| folder.into_string().unwrap());
    let profile = profile.path().to_str().unwrap();
    let said =
        runs("tabs.mjs", &[browser, profile, &shop.base, &shop.service.sandbox.url(), scenario, &pictures]).await;
    shop.close().await;
    Some(said)
}

#[tokio::test]
async fn the_older_of_two_tabs_shows_why_it_was_signed_out() {
    let Some(said) = in_tabs("the_older_of_two_tabs_shows_why_it_was_signed_out", "displaced", "1").await else {
        return;
    };
    let milliseconds = said.trim();
    report::add("browser", &format!("From the click that logs in to the words in the older tab: {milliseconds} ms"));
}

#[tokio::test]
async fn a_tab_ends_another_one_and_all_others() {
    in_tabs("a_tab_ends_another_one_and_all_others", "ends", "2").await;
}
