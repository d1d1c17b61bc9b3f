//! The commands of the README: each is read by the binary, and the walk-through goes as shown.

use std::collections::BTreeSet;

use serde_json::Value;
use soloist::config::options;

use super::{Block, blocks, codes, parts, root};
use crate::cli::{Ended, Running, Soloist};
use crate::support::soon;

const WALK: &str = "One login, step by step";
/// The chapter whose requests are asked by [`super::apps`].
pub(super) const APPS: &str = "For app developers";
/// Lines for the shell that need no more than to be spelt so.
const BUILDING: [&str; 3] = ["tests/run", "cargo build --release", "cargo install --path . --locked"];

/// The words of a shell line, quotes taken off; what stands behind a # is a comment.
pub(super) fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    for c in line.chars().chain([' ']) {
        match (c, quote) {
            (c, Some(q)) if c == q => quote = None,
            ('\'' | '"', None) => quote = Some(c),
            (' ', None) if !word.is_empty() => words.push(std::mem::take(&mut word)),
            (' ', None) => {}
            ('#', None) if word.is_empty() => break,
            (c, _) => word.push(c),
        }
    }
    words
}

/// The lines of the shell blocks without their comments.
fn shell_lines() -> Vec<(&'static str, &'static str)> {
    let lines = blocks("sh").flat_map(|block| block.lines.into_iter().map(move |line| (block.section, line)));
    let bare = lines.map(|(section, line)| (section, line.split(" #").next().unwrap_or_default().trim()));
    bare.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')).collect()
}

pub(super) fn default(option: &str) -> &'static str {
    options().iter().find(|known| known.path == option).unwrap().default.unwrap()
}

/// The binary itself reads the line: `--help` behind it makes it stop before it does anything.
async fn is_understood(args: &[String]) {
    let args: Vec<&str> = args.iter().map(String::as_str).chain(["--help"]).collect();
    let ended = Soloist::bare().run(&args).await;
    let usage = format!("Usage: soloist {}", args.first().unwrap());
    assert!(ended.code == Some(0) && ended.out.contains(&usage), "soloist {}: {}", args.join(" "), ended.err);
}

fn is_installable(words: &[&str]) {
    let unit = std::fs::read_to_string(root().join("deploy/systemd/soloist.service")).unwrap();
    match words {
        ["systemctl", "enable", "--now", "soloist"] => assert!(unit.contains("[Install]")),
        ["systemctl", "reload", "soloist"] => assert!(unit.contains("ExecReload=/bin/kill -HUP $MAINPID")),
        ["cp", from, "/etc/systemd/system/" | "/etc/soloist/"] => assert!(root().join(from).exists(), "{from}"),
        ["useradd", "--system", user] => assert!(unit.contains(&format!("User={user}\n"))),
        ["chown" | "chmod", "-R", _, folder] => assert!(unit.contains(&format!("--config {folder}/soloist.toml"))),
        ["install", "-m", "755", "target/release/soloist", folder] => {
            assert!(unit.contains(&format!("ExecStart={folder}soloist serve")));
        }
        ["install", "-d", "-o", "soloist", "-m", "700", folder] => {
            assert!(unit.contains(&format!("WorkingDirectory={folder}\n")));
        }
        ["systemctl", "enable", "--now", instance] => {
            let role = instance.strip_prefix("soloist@").unwrap();
            assert!(root().join(format!("deploy/systemd/{role}.env")).exists(), "{instance}");
        }
        ["rabbitmqctl", rest @ ..] => crate::deploy::is_for_the_broker(rest),
        other => panic!("nobody checks {other:?}"),
    }
}

#[tokio::test]
async fn every_command_that_is_shown_exists_with_its_flags() {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let inline = codes().into_iter().filter(|(_, code)| code.starts_with("soloist "));
    for (_, line) in shell_lines().into_iter().chain(inline) {
        let line = line.strip_prefix("sudo -u soloist ").unwrap_or(line);
        let line = line.strip_suffix(" &").unwrap_or(line);
        // Variables before a command are checked where all variables are.
        let words: Vec<String> = words(line).into_iter().skip_while(|word| word.starts_with("SOLOIST_")).collect();
        match &words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["soloist", ..] => is_understood(&words[1..]).await,
            ["cargo", "run", "--release", "--", ..] => is_understood(&words[4..]).await,
            ["cargo", "bench", "--bench", name] => {
                assert!(manifest.contains(&format!("[[bench]]\nname = \"{name}\"")), "bench {name}");
            }
            ["sudo", rest @ ..] => is_installable(rest),
            ["export", set] => {
                let known = ["SOLOIST_", "AMQP_URL=", "API_URL=", "APP_KEY="];
                assert!(known.iter().any(|name| set.starts_with(name)), "{set}");
            }
            ["docker", "compose", "exec", service, "soloist", ..] => {
                assert!(crate::deploy::is_composed(service), "{service}");
                is_understood(&words[5..]).await;
            }
            ["docker", "compose", "up", ..] => assert!(root().join("docker-compose.yml").exists()),
            ["kubectl", "apply", "-f", folder] => assert!(root().join(folder).is_dir(), "{folder}"),
            ["python3" | "node", file, _] => {
                assert!(root().join("tests/fixtures/producers").join(file).exists(), "{file}");
            }
            ["pip" | "npm", "install", client] => assert!(["aio-pika", "amqplib"].contains(client), "{client}"),
            ["echo", input, "|", "soloist", "decide"] => {
                let ended = Soloist::bare().run_with(&["decide"], &format!("{input}\n")).await;
                let decision: Value = serde_json::from_str(&ended.out).unwrap();
                assert_eq!(decision["verdicts"][1]["action"], "revoke", "{ended:?}");
            }
            ["until", "soloist", command, "do", "sleep", "1;", "done"] => {
                is_understood(&[command.trim_end_matches(';').to_owned()]).await;
            }
            ["node" | "python3", file] => assert!(root().join(file).exists(), "{file}"),
            // Asked in the walks, and run among the samples.
            ["curl", ..] | ["cargo", "run", "--example", "checkpoint"] => {}
            _ => assert!(BUILDING.contains(&line), "nobody checks {line}"),
        }
    }
    assert!(root().join("tests/run").exists());
    assert!(Soloist::bare().done(&["sandbox", "--help"]).await.contains("[default: 127.0.0.1:9900]"));
    let unit = std::fs::read_to_string(root().join("deploy/systemd/soloist.service")).unwrap();
    is_understood(&words(unit.split_once("/bin/soloist ").unwrap().1.lines().next().unwrap())).await;
}

/// Lines without what differs from run to run: times of day, spaces, rulers.
fn lasting(text: &str) -> Vec<String> {
    let mask = "0000-00-00 00:00:00";
    let fits = |part: &str| {
        part.len() == mask.len()
            && part.chars().zip(mask.chars()).all(|(c, m)| if m == '0' { c.is_ascii_digit() } else { c == m })
    };
    let of_line = |line: &str| {
        let mut parts = (0..line.len()).filter_map(|at| line.get(at..at + mask.len()));
        let line = parts.find(|part| fits(part)).map_or(line.to_owned(), |time| line.replace(time, "TIME"));
        line.split_whitespace().filter(|word| !word.contains('─')).collect::<Vec<_>>().join(" ")
    };
    text.lines().map(of_line).filter(|line| !line.is_empty()).collect()
}

/// The walk's stage: what its lines started, on free ports instead of the usual ones.
pub(super) struct Walk {
    soloist: Soloist,
    sandbox: Option<(Running, String)>,
    serve: Option<(Running, String, String)>,
    client: reqwest::Client,
}

impl Walk {
    pub(super) fn new() -> Self {
        let client = reqwest::Client::builder().tls_certs_only([]).no_proxy().build().unwrap();
        Self { soloist: Soloist::bare(), sandbox: None, serve: None, client }
    }

    pub(super) fn set(&mut self, option: &str, value: &str) {
        self.soloist.set(option, value);
    }

    /// Writes a file into the folder that all commands run in.
    pub(super) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.soloist.folder().join(name), text).unwrap();
    }

    pub(super) async fn start_sandbox(&mut self, webhook: &str) {
        // So precisely told that no two logins are at one instant: the third stays, as shown.
        let here = ["--listen", "127.0.0.1:0", "--login-date", "ticks"];
        let args = [&["sandbox", "--webhook", webhook], &here[..]].concat();
        let mut sandbox = self.soloist.start(&args);
        let url = sandbox.says("emulator on ").await;
        self.soloist.set("LOGINRADIUS__API_URL", &url);
        self.sandbox = Some((sandbox, url));
    }

    pub(super) async fn start_serve(&mut self) {
        self.soloist.set("WEBHOOK__LISTEN", "127.0.0.1:0");
        self.soloist.set("ADMIN__LISTEN", "127.0.0.1:0");
        let mut serve = self.soloist.start(&["serve"]);
        let public = format!("http://{}", serve.says("listening for webhooks on ").await);
        let private = format!("http://{}", serve.says("admin API on ").await);
        let webhook = serde_json::json!({ "url": format!("{public}/webhooks/loginradius") });
        let sandbox = &self.sandbox.as_ref().unwrap().1;
        let request = self.client.put(format!("{sandbox}/_sandbox/webhook")).json(&webhook).send();
        assert!(soon("the sandbox", request).await.unwrap().status().is_success());
        self.serve = Some((serve, public, private));
    }

    /// Runs a command that has to succeed; its output.
    pub(super) async fn run(&self, args: &[&str]) -> String {
        let ended = self.try_run(args).await;
        assert_eq!(ended.code, Some(0), "{args:?}: {ended:?}");
        ended.out
    }

    pub(super) async fn try_run(&self, args: &[&str]) -> Ended {
        let (_, sandbox) = self.sandbox.as_ref().unwrap();
        let to: &[&str] = if args[0] == "sandbox" { &["--url", sandbox] } else { &[] };
        self.soloist.run(&[args, to].concat()).await
    }

    /// Runs a command until it prints what is shown, as it does at the pace of a reader.
    async fn shows(&self, args: &[&str], shown: &str) {
        let wanted = lasting(shown);
        soon(shown, async {
            loop {
                let printed = lasting(&self.run(args).await);
                // How the logins fall into decisions is a matter of time: there the words count.
                let all: BTreeSet<&str> = printed.iter().flat_map(|line| line.split(' ')).collect();
                let in_words =
                    || wanted.iter().flat_map(|line| line.split(' ')).all(|w| w.len() < 2 || all.contains(w));
                if printed == wanted || (args[0] == "decisions" && in_words()) {
                    return;
                }
                assert!(args[0] != "sandbox", "{printed:#?}");
            }
        })
        .await;
    }

    /// Asks the public listener; the text of its answer.
    pub(super) async fn asks(&self, method: &str, path: &str, bearer: &str, body: Option<&str>) -> String {
        let url = format!("{}{path}", self.serve.as_ref().unwrap().1);
        let mut request = self.client.request(method.parse().unwrap(), url).bearer_auth(bearer);
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_owned());
        }
        let answer = soon(path, request.send()).await.unwrap();
        soon(path, answer.text()).await.unwrap()
    }

    /// Asks the private listener; whether it knows the route.
    async fn knows(&self, method: &str, path: &str, key: &str) -> bool {
        let url = format!("{}{path}", self.serve.as_ref().unwrap().2);
        let answer =
            soon(path, self.client.request(method.parse().unwrap(), url).bearer_auth(key).send()).await.unwrap();
        let text = answer.text().await.unwrap();
        !text.contains("problem:no_route") && !text.contains("problem:wrong_method")
    }
}

#[tokio::test]
async fn the_walk_goes_as_shown() {
    let mut walk = Walk::new();
    let blocks: Vec<Block> = parts().0.into_iter().filter(|block| block.section == WALK).collect();
    for (n, block) in blocks.iter().enumerate() {
        let shown = blocks.get(n + 1).filter(|next| next.language == "text").map(|next| next.lines.join("\n"));
        for line in block.lines.iter().filter(|_| block.language == "sh") {
            let words = words(line);
            match (&words.iter().map(String::as_str).collect::<Vec<_>>()[..], &shown) {
                (["export", set], _) => {
                    let (name, value) = set.strip_prefix("SOLOIST_").unwrap().split_once('=').unwrap();
                    let is_url = name == "LOGINRADIUS__API_URL";
                    assert!(!is_url || value == "http://127.0.0.1:9900", "where a sandbox listens: {value}");
                    let url = &walk.sandbox.as_ref().unwrap().1;
                    walk.soloist.set(name, if is_url { url } else { value });
                }
                (["soloist", "sandbox", "--webhook", url], _) => {
                    assert_eq!(*url, format!("http://{}/webhooks/loginradius", default("webhook.listen")));
                    walk.start_sandbox(url).await;
                }
                (["soloist", "serve"], _) => walk.start_serve().await,
                (["soloist", args @ ..], Some(shown)) => walk.shows(args, shown).await,
                (["soloist", args @ ..], None) => drop(walk.run(args).await),
                (other, _) => panic!("nobody walks {other:?}"),
            }
        }
    }

    let report: Value = serde_json::from_str(&walk.run(&["sandbox", "report", "--json"]).await).unwrap();
    assert_eq!(report["wrong_revocations"], serde_json::json!([]));
    // Everything else that the README says is there while it runs.
    let key = std::fs::read_to_string(walk.soloist.folder().join("soloist-data/admin.key")).unwrap();
    for (_, code) in codes() {
        let of_data = |ending: &str| code.ends_with(ending) && !code.contains('/');
        if of_data(".db") || of_data(".key") {
            assert!(walk.soloist.folder().join("soloist-data").join(code).exists(), "{code}");
        }
        let code = code
            .replace('…', "/admin/v1/dead-letters")
            .replace("{uid}", "ann")
            .replace("{session}", "00")
            .replace("{key}", "mode/default");
        match code.split_once(' ') {
            Some((method @ ("GET" | "POST" | "DELETE"), path)) if path.starts_with("/admin/") => {
                assert!(walk.knows(method, path, key.trim()).await, "{code}");
            }
            _ if code.starts_with("/livez") || code.starts_with("/readyz") || code.starts_with("/metrics") => {
                assert!(walk.knows("GET", &code, key.trim()).await, "{code}");
            }
            _ => {}
        }
    }
    for (_, line) in shell_lines().iter().filter(|(of, line)| *of != APPS && line.starts_with("curl ")) {
        assert!(line.contains("Authorization: Bearer $(cat soloist-data/admin.key)"), "{line}");
        let path = line.split_once(default("admin.listen")).unwrap().1;
        assert!(walk.knows("GET", path, key.trim()).await, "{line}");
    }
}

/// What the demo prints, word kinds instead of the words that differ from run to run.
fn kinds(line: &str) -> String {
    let devices = ["phone", "android", "tablet", "laptop", "desktop", "linux", "tv", "console"];
    let kind = |word: &str| match word {
        _ if word.len() == 8 && word.chars().all(|c| c.is_ascii_hexdigit()) => "id".to_owned(),
        _ if devices.contains(&word) => "device".to_owned(),
        _ => word.replace(|c: char| c.is_ascii_digit(), ""),
    };
    line.split_whitespace().map(kind).collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn the_demo_prints_what_is_shown_of_it() {
    let printed: BTreeSet<String> = Soloist::bare().done(&["demo"]).await.lines().map(kinds).collect();
    let shown = blocks("text").next().unwrap();
    for line in shown.lines.iter().filter(|line| line.trim() != "…") {
        assert!(printed.contains(&kinds(line)), "{line}");
    }
}
