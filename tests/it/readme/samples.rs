//! The samples for an app's server: each is run by the line that the README shows, and does what it promises.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use soloist::sandbox::Faults;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::walk::{APPS, default};
use super::{Block, parts, root};
use crate::api::{KEY, Shop};
use crate::cli::Running;
use crate::support::programs::{self, Version};

/// What is to be pasted is to be read first.
const LINES_MAX: usize = 40;
const NODE_MIN: Version = [20, 0];
const PYTHON_MIN: Version = [3, 9];
/// Names the test that the child process is.
const CHILD: &str = "SOLOIST_TEST_CHILD";
const REJECT: [(&str, &str); 2] =
    [("SOLOIST_POLICY__STRATEGY", "reject_newest"), ("SOLOIST_BUDGET__REVOCATIONS", "1000")];

/// The Rust sample, compiled as it stands there. It is no module file, since its `main` is called from here.
#[cfg(test)]
mod rust {
    include!("../../../deploy/samples/checkpoint.rs");

    pub(super) fn run() {
        main().unwrap();
    }
}

/// The lines of the README that run the samples, by their beginning.
const RUST: &str = "cargo run";
const NODE: &str = "node";
const PYTHON: &str = "python3";

/// The chapter's block with the lines that run the samples, and the conversation behind it.
fn shown() -> [Block; 2] {
    let mut blocks = parts().0.into_iter().filter(|block| block.section == APPS);
    let lines = blocks.find(|block| block.lines.iter().any(|line| line.contains("deploy/samples/"))).unwrap();
    [lines, blocks.next().unwrap()]
}

/// The line of the README whose beginning this is.
fn line(program: &str) -> Vec<&'static str> {
    let [block, _] = shown();
    let line = block.lines.into_iter().find(|line| line.starts_with(program)).unwrap();
    line.split(' ').collect()
}

/// A sample that asks there. `test` is the Rust one, run as a process of its own.
fn start(program: &str, test: &str, base: &str, key: &str) -> Running {
    let words = line(program);
    let mut command = if program == RUST {
        let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
        let example = format!("[[example]]\nname = \"{}\"\npath = \"deploy/samples/checkpoint.rs\"\n", words[3]);
        assert!(words[..3] == ["cargo", "run", "--example"] && manifest.contains(&example), "{words:?}");
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", &format!("readme::samples::{test}"), "--nocapture"]);
        command
    } else {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        command
    };
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).current_dir(root());
    command.env(CHILD, test).env("API_URL", format!("{base}/v1")).env("APP_KEY", key);
    Running::start(command)
}

/// A sample that has heard a token.
async fn with_token(sample: &dyn Fn(&str, &str) -> Running, base: &str, token: &str) -> Running {
    let mut running = sample(base, KEY);
    running.hears(token).await;
    running
}

async fn ends_badly(mut running: Running) -> String {
    let said = running.rest().await.join("\n");
    assert_ne!(running.ended().await, Some(0), "{said}");
    said
}

/// The guide's outcome: allow where one session is present, prevent otherwise.
async fn a_second_login_is_denied(sample: &dyn Fn(&str, &str) -> Running) {
    let shop = Shop::open(&REJECT).await;
    let first = shop.login_in_silence("ann", "phone");
    let mut inside = with_token(sample, &shop.base, &first.access_token).await;
    inside.says("allow within_limit").await;
    inside.says(&format!("{} \"Safari on iOS\" current=true ended=false", first.session)).await;

    let second = shop.login_in_silence("ann", "laptop");
    let mut outside = with_token(sample, &shop.base, &second.access_token).await;
    outside.says("deny over_limit").await;
    let said = ends_badly(outside).await;
    assert!(!said.contains(&first.session), "nothing is listed for whom is turned away: {said}");
    shop.service.settled().await;
    inside.hears("").await;
    inside.says("not_known_evicted").await;
    shop.close().await;
}

async fn who_is_evicted_is_told_why(sample: &dyn Fn(&str, &str) -> Running) {
    let shop = Shop::open(&[]).await;
    let phone = shop.login("ann", "phone");
    shop.service.settled().await;
    let mut inside = with_token(sample, &shop.base, &phone.access_token).await;
    inside.says("allow within_limit").await;
    inside.says(&phone.session).await;
    shop.login("ann", "laptop");
    shop.service.settled().await;
    inside.hears("").await;
    inside.says("evicted displaced_by_newer_login").await;
    let said = ends_badly(inside).await;
    assert!(!said.contains("401"), "nothing is asked with a dead token: {said}");
    shop.close().await;
}

/// The README's conversation; then one of three devices ends another one.
async fn a_user_ends_devices(sample: &dyn Fn(&str, &str) -> Running) {
    let shop = Shop::open(&[("SOLOIST_POLICY__LIMIT", "3")]).await;
    shop.login("ann", "phone");
    let laptop = shop.login("ann", "laptop");
    shop.service.settled().await;
    let mut running = sample(&shop.base, KEY);
    let [_, conversation] = shown();
    for line in conversation.lines {
        match line {
            "LAPTOP" => running.hears(&laptop.access_token).await,
            line if line.starts_with("end ") => running.hears(line).await,
            line => assert_eq!(running.says(line.trim_start_matches("… ")).await, "", "{line}"),
        }
    }
    let left = || shop.service.sandbox.sessions("ann").into_iter().map(|s| s.session).collect::<Vec<_>>();
    assert_eq!(left(), std::slice::from_ref(&laptop.session));

    let [tablet, tv] = ["tablet", "tv"].map(|device| shop.login("ann", device));
    running.hears(&format!("end {}", tablet.session)).await;
    running.says(&laptop.session).await;
    assert_eq!(left().len(), 2);
    assert!(!left().contains(&tablet.session) && left().contains(&tv.session));
    shop.close().await;
}

async fn an_outage_lets_in_and_a_wrong_key_does_not(sample: &dyn Fn(&str, &str) -> Running) {
    let shop = Shop::open(&[("SOLOIST_API__WAIT_MAX", "300ms")]).await;
    let phone = shop.login("ann", "phone");
    shop.service.settled().await;
    shop.service.sandbox.set_faults(Faults { server_error_percent: 100.0, ..Faults::default() });
    let mut running = with_token(sample, &shop.base, &phone.access_token).await;
    running.says("allow unavailable").await;
    running.hears("").await;
    running.says("not_known_evicted").await;
    drop(running);
    shop.service.sandbox.set_faults(Faults::default());

    let mut running = sample(&shop.base, "slk_of-nobody");
    running.hears(&phone.access_token).await;
    let said = ends_badly(running).await;
    assert!(said.contains("401") && !said.contains("allow"), "{said}");
    assert!(!said.contains("slk_of-nobody") && !said.contains(&phone.access_token), "{said}");
    shop.close().await;
}

/// A status, with a `Retry-After` of so many seconds, and a body.
type Answer = (u16, Option<u32>, &'static str);

/// Gives these answers in turn, and none at all behind them. It keeps when it was asked for what.
#[derive(Clone)]
struct Scripted {
    answers: Arc<Mutex<VecDeque<Answer>>>,
    asked: Arc<Mutex<Vec<(String, Instant)>>>,
}

impl Scripted {
    async fn start<const N: usize>(answers: [Answer; N]) -> (Self, String, JoinSet<()>) {
        let scripted = Self { answers: Arc::new(Mutex::new(answers.into())), asked: Arc::default() };
        let app = Router::new().fallback(Self::answer).with_state(scripted.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, app).await.unwrap() });
        (scripted, base, server)
    }

    async fn answer(State(scripted): State<Self>, request: axum::extract::Request) -> Response {
        scripted.asked.lock().unwrap().push((request.uri().path().to_owned(), Instant::now()));
        let next = scripted.answers.lock().unwrap().pop_front();
        let Some((status, retry_after, body)) = next else { return std::future::pending().await };
        let mut response = (http::StatusCode::from_u16(status).unwrap(), body).into_response();
        if let Some(seconds) = retry_after {
            response.headers_mut().insert("retry-after", seconds.into());
        }
        response
    }

    /// When it was asked whether the login may go on.
    fn checkpoints(&self) -> Vec<Instant> {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|(path, _)| path == "/v1/checkpoint").map(|(_, at)| *at).collect()
    }
}

async fn it_comes_again_when_it_is_told_to_and_waits_for_nobody_long(sample: &dyn Fn(&str, &str) -> Running) {
    let allow = (200, None, r#"{"verdict": "allow", "reason": "within_limit"}"#);
    let (scripted, base, _server) = Scripted::start([(503, Some(1), "{}"), allow]).await;
    with_token(sample, &base, "token").await.says("allow within_limit").await;
    let [first, second] = scripted.checkpoints()[..] else { panic!("asked {} times", scripted.checkpoints().len()) };
    assert!(second - first >= Duration::from_secs(1), "{:?}", second - first);

    for answer in [(503, Some(600), "{}"), (503, None, "{}"), (502, None, "no JSON")] {
        let (scripted, base, _server) = Scripted::start([answer, allow]).await;
        with_token(sample, &base, "token").await.says("allow unavailable").await;
        assert_eq!(scripted.checkpoints().len(), 1, "{answer:?}");
    }
    let (scripted, base, _server) = Scripted::start([(503, Some(0), "{}"), (503, Some(1), "{}"), allow]).await;
    with_token(sample, &base, "token").await.says("allow unavailable").await;
    assert_eq!(scripted.checkpoints().len(), 2);

    let (scripted, base, _silent) = Scripted::start([]).await;
    with_token(sample, &base, "token").await.says("allow unavailable").await;
    assert_eq!(scripted.checkpoints().len(), 1);
}

#[tokio::main(flavor = "current_thread")]
async fn keeps_every_promise(program: &str, test: &str, at_least: Option<Version>) {
    if let Some(at_least) = at_least
        && !programs::is_here(test, program, at_least).await
    {
        return;
    }
    let sample = |base: &str, key: &str| start(program, test, base, key);
    tokio::join!(
        a_second_login_is_denied(&sample),
        who_is_evicted_is_told_why(&sample),
        a_user_ends_devices(&sample),
        an_outage_lets_in_and_a_wrong_key_does_not(&sample),
        it_comes_again_when_it_is_told_to_and_waits_for_nobody_long(&sample),
    );
}

#[test]
fn the_rust_sample_keeps_every_promise() {
    if std::env::var_os(CHILD).is_some() {
        return rust::run();
    }
    keeps_every_promise(RUST, "the_rust_sample_keeps_every_promise", None);
}

#[test]
fn the_node_sample_keeps_every_promise() {
    keeps_every_promise(NODE, "the_node_sample_keeps_every_promise", Some(NODE_MIN));
}

#[test]
fn the_python_sample_keeps_every_promise() {
    keeps_every_promise(PYTHON, "the_python_sample_keeps_every_promise", Some(PYTHON_MIN));
}

#[test]
fn the_samples_are_short_need_no_package_and_ask_where_the_service_listens() {
    let text = |ending: &str| std::fs::read_to_string(root().join("deploy/samples/checkpoint").with_extension(ending));
    for ending in ["rs", "mjs", "py"] {
        let lines = text(ending).unwrap().lines().count();
        assert!(lines <= LINES_MAX, "{ending}: {lines} lines");
    }
    let (node, python) = (text("mjs").unwrap(), text("py").unwrap());
    for import in node.lines().filter(|line| line.starts_with("import ")) {
        assert!(import.contains(" from \"node:"), "{import}");
    }
    let imports: Vec<&str> = python.lines().filter(|line| line.contains("import ")).collect();
    assert_eq!(imports, ["import json, os, sys, time, urllib.error, urllib.request"]);
    let [block, _] = shown();
    let url = format!("export API_URL=http://{}/v1", default("webhook.listen"));
    assert!(block.lines.contains(&url.as_str()) && block.lines.contains(&"export APP_KEY=KEY"), "{:?}", block.lines);
}
