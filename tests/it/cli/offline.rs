//! Commands that need nothing to run: help, usage, configuration, the rule.

use serde_json::{Value, json};
use soloist::model::AccessToken;
use tokio::io::AsyncWriteExt as _;

use super::Soloist;
use crate::support::soon;

const SAMPLE: &str = include_str!("../../fixtures/active_sessions_guide_sample2.json");

/// The commands that a help text lists.
fn listed(help: &str) -> Vec<String> {
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names = commands.filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

#[tokio::test]
async fn the_help_of_every_command_has_an_example() {
    let soloist = Soloist::bare();
    let mut commands = vec![vec![]];
    let mut seen = 0;
    while let Some(command) = commands.pop() {
        let args: Vec<&str> = command.iter().map(String::as_str).chain(["--help"]).collect();
        let help = soloist.done(&args).await;
        assert!(help.contains("Example"), "{args:?} shows no example:\n{help}");
        let below = listed(&help).into_iter().map(|name| command.iter().cloned().chain([name]).collect());
        commands.extend(below);
        seen += 1;
    }
    assert!(seen > 18, "{seen} commands");
}

#[tokio::test]
async fn wrong_usage_ends_with_64_and_questions_about_the_program_with_0() {
    let soloist = Soloist::for_api("http://127.0.0.1:9");
    for args in [
        &["no-such-command"][..],
        &[],
        &["sessions"],
        &["sessions", "a/b"],
        &["sessions", "ann", "--tenant", "No"],
        &["revoke", "ann", "not-an-id"],
        &["sandbox", "--faults", "{\"no_such_fault\": 1}"],
        &["dead-letters", "redrive"],
        &["dead-letters", "drop", "1", "--all"],
        &["send", "ann", "--tenant", "other"],
        &["send", "ann"],
        &["serve", "--role", "nobody"],
    ] {
        let ended = soloist.run(args).await;
        assert_eq!(ended.code, Some(64), "{args:?}: {ended:?}");
        assert!(ended.out.is_empty() && !ended.err.is_empty(), "{args:?}: {ended:?}");
    }
    assert!(soloist.done(&["--version"]).await.starts_with("soloist "));
}

#[tokio::test]
async fn some_roles_alone_are_refused_with_the_reason() {
    let soloist = Soloist::for_api("http://127.0.0.1:9");
    let ended = soloist.run(&["serve", "--role", "webhook,worker"]).await;
    assert_eq!(ended.code, Some(64));
    assert!(ended.err.contains("embedded queue"), "{}", ended.err);
    assert!(!soloist.data_dir().exists());
}

#[tokio::test]
async fn five_mistakes_in_the_configuration_are_five_lines() {
    let soloist = Soloist::bare();
    let file = soloist.folder().join("wrong.toml");
    let wrong = "[webhook]\nlisten = \"here\"\nbody_timeuot = \"10s\"\n[loginradius]\napi_key = \"key\"\n\
                 [policy]\nlimit = 0\n[worker]\nattempts_max = -1\n";
    std::fs::write(&file, wrong).unwrap();

    let ended = soloist.run(&["serve", "--config", file.to_str().unwrap()]).await;

    assert_eq!(ended.code, Some(64));
    let mut lines = ended.err.lines();
    assert_eq!(lines.next(), Some("error: invalid configuration:"));
    let mistakes: Vec<&str> = lines.collect();
    assert_eq!(mistakes.len(), 5, "{mistakes:#?}");
    for option in ["webhook.listen", "webhook.body_timeuot", "api_secret", "policy.limit", "worker.attempts_max"] {
        assert!(mistakes.iter().any(|line| line.starts_with("  ") && line.contains(option)), "{option}: {mistakes:#?}");
    }
}

#[tokio::test]
async fn the_effective_configuration_hides_secrets_and_names_origins() {
    let soloist = Soloist::for_api("http://127.0.0.1:9");
    let config = soloist.done(&["config"]).await;
    assert!(!config.contains("sandbox-secret") && config.contains("loginradius.api_secret = (hidden)"), "{config}");
    let lines = soloist.done(&["config", "--json"]).await;
    let options: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let listen = options.iter().find(|option| option["option"] == "webhook.listen").unwrap();
    assert_eq!(listen["from"], "SOLOIST_WEBHOOK__LISTEN");
}

#[tokio::test]
async fn deciding_the_guides_sample_keeps_the_newest_as_witness_of_the_others() {
    let page: Value = serde_json::from_str(SAMPLE).unwrap();
    let line = json!({ "policy": { "limit": 1 }, "sessions": page["data"], "uid": "ann" }).to_string();

    let ended = Soloist::bare().run_with(&["decide"], &format!("{line}\n")).await;

    assert_eq!((ended.code, ended.out.lines().count()), (Some(0), 1), "{ended:?}");
    let decision: Value = serde_json::from_str(&ended.out).unwrap();
    let id = |row: usize| {
        AccessToken::new(page["data"][row]["AccessToken"].as_str().unwrap()).digest().session_id().to_string()
    };
    let verdict = |row: usize| &decision["verdicts"][row];
    assert_eq!((&verdict(0)["session"], &verdict(0)["action"]), (&json!(id(0)), &json!("keep")));
    for row in [1, 2] {
        assert_eq!((&verdict(row)["session"], &verdict(row)["action"]), (&json!(id(row)), &json!("revoke")));
    }
    assert_eq!(verdict(1)["witnesses"], json!([id(0)]));
    assert_eq!(verdict(2)["witnesses"][0], json!(id(0)));
    assert!(!ended.out.contains("11c3b10a-85d2"), "a token is in the output");
}

#[tokio::test]
async fn a_bad_line_has_its_error_in_its_place_and_the_others_are_decided() {
    let good = r#"{"policy":{},"sessions":[]}"#;
    let ended = Soloist::bare().run_with(&["decide"], &format!("{good}\n{{\"policy\":7}}\n\n{good}")).await;
    assert_eq!(ended.code, Some(1));
    let answers: Vec<Value> = ended.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let is_error: Vec<bool> = answers.iter().map(|answer| answer["error"].is_string()).collect();
    assert_eq!(is_error, [false, true, false]);
}

#[tokio::test]
async fn a_reader_who_has_seen_enough_is_no_failure() {
    let mut child = Soloist::bare().command(&["decide"]).spawn().unwrap();
    drop(child.stdout.take());
    child.stdin.take().unwrap().write_all(b"{}\n{}\n").await.unwrap();
    let output = soon("decide to end", child.wait_with_output()).await.unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}

#[tokio::test]
async fn nobody_to_ask_is_said_so() {
    let soloist = Soloist::for_api("http://127.0.0.1:9");
    let ended = soloist.run(&["sandbox", "login", "ann", "--url", "http://127.0.0.1:9"]).await;
    assert!(ended.code == Some(1) && ended.err.contains("start one with `soloist sandbox`"), "{ended:?}");
    let ended = soloist.run(&["healthcheck", "--url", "http://127.0.0.1:9"]).await;
    assert!(ended.code == Some(1) && ended.err.contains("does not answer"), "{ended:?}");
    assert_eq!(ended.err.lines().count(), 1);
}

#[tokio::test]
async fn a_check_warns_of_a_key_that_has_expired() {
    let mut soloist = Soloist::for_api("http://127.0.0.1:9");
    let key = |name: &str, digit: &str, expires: &str| {
        format!(r#"{{name = "{name}", sha256 = "{}", scopes = ["verdict"]{expires}}}"#, digit.repeat(64))
    };
    let keys = [
        key("old", "a", r#", expires = "2020-01-01T00:00:00Z""#),
        key("young", "b", r#", expires = "2999-01-01T00:00:00Z""#),
        key("endless", "c", ""),
    ];
    soloist.set("API__KEYS", &format!("[{}]", keys.join(", ")));
    let check = soloist.run(&["check"]).await.out;
    let warnings: Vec<&str> = check.lines().filter(|line| line.contains("api.keys")).collect();
    assert!(warnings.len() == 1 && warnings[0].starts_with("warning") && warnings[0].contains("`old`"), "{check}");
    assert!(check.contains("soloist api-key new"), "{check}");
}
