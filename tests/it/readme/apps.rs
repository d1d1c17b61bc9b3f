//! The chapter for app developers: its requests are answered as shown, and its tables leave nothing out.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use soloist::policy::ReasonCode;

use super::walk::{APPS, Walk, default, words};
use super::{Block, codes, parts, source};
use crate::cli::Soloist;
use crate::support::soon;

/// Stands for what differs from run to run.
const ANY: &str = "…";

/// A line of curl, as far as the chapter uses it.
#[derive(Default)]
struct Request {
    method: String,
    path: String,
    bearer: String,
    body: Option<String>,
}

impl Request {
    fn of(words: &[&str]) -> Self {
        let mut request = Self { method: "GET".to_owned(), ..Self::default() };
        let base = format!("http://{}", default("webhook.listen"));
        let mut words = words.iter().copied();
        while let Some(word) = words.next() {
            match word {
                "-N" => {}
                "-X" => words.next().unwrap().clone_into(&mut request.method),
                "-H" => {
                    let bearer = words.next().unwrap().strip_prefix("Authorization: Bearer ").unwrap();
                    bearer.clone_into(&mut request.bearer);
                }
                "--json" => {
                    "POST".clone_into(&mut request.method);
                    request.body = words.next().map(str::to_owned);
                }
                url => url.strip_prefix(&base).unwrap().clone_into(&mut request.path),
            }
        }
        request
    }
}

/// Whether an answer has all that is shown of it.
fn has(answer: &Value, shown: &Value) -> bool {
    match (shown, answer) {
        (Value::String(any), answer) if any == ANY => !answer.is_null(),
        (Value::Object(shown), Value::Object(answer)) => {
            shown.iter().all(|(key, shown)| answer.get(key).is_some_and(|answer| has(answer, shown)))
        }
        (Value::Array(shown), Value::Array(answer)) => {
            shown.len() == answer.len() && shown.iter().zip(answer).all(|(shown, answer)| has(answer, shown))
        }
        (shown, answer) => shown == answer,
    }
}

/// Asks until the answer is as shown, which a login's consequences make it soon.
async fn answered_as_shown(walk: &Walk, request: &Request, shown: &Block) -> String {
    let text = shown.lines.join("\n");
    let json: Option<Value> = (shown.language == "json").then(|| serde_json::from_str(&text).unwrap());
    soon(&text, async {
        loop {
            let answer = walk.asks(&request.method, &request.path, &request.bearer, request.body.as_deref()).await;
            let is_shown = match &json {
                Some(json) => serde_json::from_str::<Value>(&answer).is_ok_and(|answer| has(&answer, json)),
                None => text.lines().all(|line| answer.contains(line.split(ANY).next().unwrap())),
            };
            if is_shown {
                return answer;
            }
        }
    })
    .await
}

/// What the chapter's placeholders stand for, and the configuration that belongs to the key.
#[derive(Default)]
struct Known(BTreeMap<String, String>);

impl Known {
    fn fill(&self, word: &str) -> String {
        self.0.iter().fold(word.to_owned(), |word, (name, value)| word.replace(name, value))
    }

    /// Takes the key and its hash out of what the command prints; the rest of it is as shown.
    fn take_key(&mut self, printed: &str, shown: &[&str]) {
        let (key, rest) = printed.split_once('\n').unwrap();
        self.0.insert("KEY".to_owned(), key.to_owned());
        let written = rest.split_once("[[api.keys]]").unwrap().1;
        for line in written.lines().filter(|line| !line.is_empty()) {
            if line.starts_with("sha256 = ") {
                let shown = shown.iter().find(|line| line.starts_with("sha256 = ")).unwrap();
                self.0.insert((*shown).to_owned(), line.to_owned());
            } else {
                assert!(shown.contains(&line), "{line}");
            }
        }
    }

    /// Takes the token of a login; it is called by its device.
    fn take_login(&mut self, printed: &str) {
        let Ok(login) = serde_json::from_str::<Value>(printed) else { return };
        let text = |key: &str| login[key].as_str().unwrap().to_owned();
        self.0.insert(text("device").to_uppercase(), text("access_token"));
    }

    /// Takes the oldest session of a list.
    fn take_session(&mut self, answer: &str) {
        let answer: Value = serde_json::from_str(answer).unwrap();
        let oldest = answer["sessions"].as_array().unwrap().last().unwrap();
        self.0.insert("SESSION".to_owned(), oldest["session"].as_str().unwrap().to_owned());
    }
}

#[tokio::test]
async fn every_request_of_the_chapter_for_apps_is_answered_as_shown() {
    let mut walk = Walk::new();
    walk.start_sandbox("http://127.0.0.1:9/webhooks/loginradius").await;
    walk.set("LOGINRADIUS__API_KEY", "sandbox-key");
    walk.set("LOGINRADIUS__API_SECRET", "sandbox-secret");
    let blocks: Vec<Block> = parts().0.into_iter().filter(|block| block.section == APPS).collect();
    let written = blocks.iter().find(|block| block.language == "toml").unwrap();
    let (mut known, mut asked) = (Known::default(), 0);
    for (n, block) in blocks.iter().enumerate().filter(|(_, block)| block.language == "sh") {
        for line in &block.lines {
            let words: Vec<String> = words(line).iter().map(|word| known.fill(word)).collect();
            match &words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
                ["soloist", "serve"] => {
                    walk.write("soloist.toml", &known.fill(&written.lines.join("\n")));
                    walk.start_serve().await;
                }
                ["soloist", args @ ..] => {
                    let printed = walk.run(args).await;
                    if args[0] == "api-key" {
                        known.take_key(&printed, &written.lines);
                    } else {
                        known.take_login(&printed);
                    }
                }
                ["curl", args @ ..] => {
                    let request = Request::of(args);
                    let answer = answered_as_shown(&walk, &request, &blocks[n + 1]).await;
                    if request.path == "/v1/me/sessions" {
                        known.take_session(&answer);
                    }
                    asked += 1;
                }
                // Run by [`super::samples`].
                ["export" | "cargo" | "node" | "python3", ..] => {}
                other => panic!("nobody asks {other:?}"),
            }
        }
    }
    assert!(asked >= 8, "{asked}");
}

#[tokio::test]
async fn the_chapter_for_apps_names_every_route() {
    let document: Value = serde_json::from_str(&Soloist::bare().done(&["openapi"]).await).unwrap();
    let mut described = BTreeSet::from(["/v1/openapi.json", "/v1/reference"].map(|path| format!("GET {path}")));
    for (path, methods) in document["paths"].as_object().unwrap() {
        described.extend(methods.as_object().unwrap().keys().map(|method| format!("{} {path}", method.to_uppercase())));
    }
    let is_route = |code: &str| code.split_once(' ').is_some_and(|(_, path)| path.starts_with("/v1/"));
    let named = codes().into_iter().filter(|(section, code)| *section == APPS && is_route(code));
    assert_eq!(named.map(|(_, code)| code.to_owned()).collect::<BTreeSet<_>>(), described);
}

/// The rows of the chapter's tables: the codes of the first cell, and the other cells.
fn rows() -> Vec<(Vec<&'static str>, Vec<&'static str>)> {
    let rows = parts().1.into_iter().filter(|(section, line)| *section == APPS && line.starts_with("| `"));
    let cells = rows.map(|(_, row)| row.trim_matches('|').split(" | ").map(str::trim).collect::<Vec<_>>());
    cells.map(|cells| (cells[0].split('`').skip(1).step_by(2).collect(), cells[1..].to_vec())).collect()
}

#[test]
fn the_chapter_for_apps_names_every_error() {
    let rows = rows().into_iter().filter(|(_, cells)| cells[0].parse::<u16>().is_ok());
    let named: BTreeSet<&str> = rows.flat_map(|(names, _)| names).collect();
    let (code, everywhere) = (source("src/api/v1") + include_str!("../../../src/api/input.rs"), source("src"));
    let of_new = code.split("Problem::new(").skip(1).filter_map(|rest| rest.split('"').nth(1));
    let of_fields = code.split(" name: \"").skip(1).filter_map(|rest| rest.split('"').next());
    for name in of_new.chain(of_fields) {
        assert!(named.contains(name), "{name} is not in the table");
    }
    for name in named {
        assert!(everywhere.contains(&format!("\"{name}\"")), "{name} is no error");
    }
}

#[test]
fn the_chapter_for_apps_has_every_reason_with_its_text() {
    let (rows, shown) = (rows(), source("src/api/v1"));
    for reason in ReasonCode::ALL {
        let row = rows.iter().find(|(names, _)| *names == [reason.as_str()]);
        let (_, cells) = row.unwrap_or_else(|| panic!("{} is not in the table", reason.as_str()));
        assert!(shown.contains(&format!("\"{}\"", cells[0])), "{cells:?}");
    }
}
