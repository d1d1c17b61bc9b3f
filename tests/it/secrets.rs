//! No token, secret, e-mail, phone, password or address in any log, file, metric, page or error: planted and searched.

use std::path::Path;
use std::process::Stdio;

use soloist::sandbox::{Faults, Sandbox, SandboxConfig, Traits};
use tokio::process::Command;

use crate::support::process::{Serving, command, signal, signature, with_environment};
use crate::support::soon;

const API_SECRET: &str = "planted-api-secret-5d1c";
const WEBHOOK_SECRET: &str = "sandbox-secret";

/// A webhook body with personal data in the places where LoginRadius has it.
fn personal(user: &str, id: &str) -> String {
    serde_json::json!({
        "HookName": "login", "HookId": id, "Time": "2026-01-01T00:00:00Z",
        "Data": {
            "Uid": user,
            "Password": "planted-password-hash",
            "Email": [{ "Type": "Primary", "Value": "planted-email@example.com" }],
            "PhoneId": "+1555planted",
            "FirstName": "planted-name",
            "LastLoginLocation": "planted-place",
            "ProviderAccessCredential": { "AccessToken": "planted-social-token" },
            "LastLoginDate": "2026-01-01T00:00:00.123Z"
        }
    })
    .to_string()
}

fn files_below(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            files.push((path.display().to_string(), std::fs::read(&path).unwrap()));
        }
    }
    files
}

/// What the command line is asked beside the running service. The first ones show a session's address on purpose.
const SHOW_ADDRESSES: [&str; 3] = ["sessions ann --json", "enforce ann --dry-run --json", "enforce ann --json"];
const COMMANDS: [&str; 7] = [
    "sessions ann",
    "decisions ann",
    "decisions ann --json",
    "dead-letters ls",
    "config",
    "check --json",
    "check --probe ann --yes --json",
];

/// Everything that a command writes to either of its outputs.
async fn told_by(command: &str, data_dir: &Path, api_url: &str, variables: &[(&str, &str)]) -> Vec<u8> {
    let mut soloist = Command::new(env!("CARGO_BIN_EXE_soloist"));
    soloist.args(command.split(' ')).stdin(Stdio::null()).kill_on_drop(true);
    with_environment(&mut soloist, data_dir, api_url, variables);
    let output = soon(command, soloist.output()).await.unwrap();
    assert!(!output.stdout.is_empty(), "{command}: {output:?}");
    [output.stdout, output.stderr].concat()
}

fn found<'a>(needles: &'a [String], hay: &[u8]) -> Option<&'a String> {
    needles.iter().find(|needle| hay.windows(needle.len()).any(|window| window == needle.as_bytes()))
}

/// A sandbox whose users have personal data in their profiles, too.
async fn personal_sandbox() -> Sandbox {
    let config = SandboxConfig { api_secret: API_SECRET.to_owned(), ..SandboxConfig::default() };
    let sandbox = Sandbox::start(config).await.unwrap();
    for user in ["ann", "bob", "cleo"] {
        let traits = Traits {
            roles: vec!["planted-role".to_owned()],
            custom_fields: [("Plan".to_owned(), "planted-plan".to_owned())].into(),
            email: Some(format!("planted-{user}@planted-domain.example")),
            ..Traits::default()
        };
        sandbox.set_traits(user, traits).unwrap();
    }
    sandbox
}

/// Whatever the service answers when all is well, in every class of failure, and to bad input.
async fn everything_it_says(sandbox: &Sandbox, serving: &Serving) -> Vec<String> {
    let mut answers: Vec<String> = Vec::new();
    for n in 0..4 {
        sandbox.login_in_silence("ann", None).unwrap();
        assert_eq!(serving.post(personal("ann", &format!("h{n}"))).await, Some(202));
    }
    let enforced = serving.admin_by("POST", "/admin/v1/users/ann/enforce").await;
    assert_eq!(enforced["session_count"], enforced["sessions"].as_array().unwrap().len(), "{enforced}");
    answers.push(enforced.to_string());
    answers.push(serving.admin("/admin/v1/users/ann/decisions").await.to_string());
    for faults in [
        Faults { server_error_percent: 50.0, garbage_percent: 40.0, ..Faults::default() },
        Faults { disguised_percent: 50.0, reset_percent: 50.0, ..Faults::default() },
        Faults { throttled_percent: 100.0, ..Faults::default() },
    ] {
        sandbox.set_faults(faults);
        for _ in 0..3 {
            sandbox.login_in_silence("bob", None).unwrap();
            let body = personal("bob", &sandbox.sessions_ever("bob").len().to_string());
            assert_eq!(serving.post(body).await, Some(202));
            answers.push(serving.admin_by("POST", "/admin/v1/users/bob/enforce").await.to_string());
            answers.push(serving.admin("/admin/v1/users/bob/sessions").await.to_string());
        }
    }
    sandbox.set_faults(Faults { secret_rotated: true, ..Faults::default() });
    serving.post(personal("cleo", "h")).await;
    answers.push(serving.admin("/admin/v1/users/cleo/sessions").await.to_string());
    answers.extend(refusals(serving).await);
    for path in ["/metrics", "/readyz", "/livez"] {
        let answer = soon(path, serving.client.get(format!("{}{path}", serving.admin_url)).send()).await.unwrap();
        answers.push(answer.text().await.unwrap());
    }
    answers
}

/// What senders are told whose request is not accepted.
async fn refusals(serving: &Serving) -> Vec<String> {
    let cut = personal("dora", "h").replace('}', "");
    let (good, foreign) = (personal("dora", "h"), personal("not/a/uid", "h"));
    let long = "x".repeat(300 << 10);
    let mut answers = Vec::new();
    for (body, signature, media_type, status) in [
        (foreign.clone(), signature(&foreign), "application/json", 400),
        (cut.clone(), signature(&cut), "application/json", 400),
        (good.clone(), signature("another"), "application/json", 401),
        (good.clone(), signature(&good), "text/plain", 415),
        (good.clone() + &long, signature(&good), "application/json", 413),
    ] {
        let request = serving.client.post(&serving.webhook_url).header("content-type", media_type);
        let answer = soon("an answer", request.header("signature", signature).body(body).send()).await.unwrap();
        assert_eq!(answer.status(), status);
        answers.push(answer.text().await.unwrap());
    }
    answers
}

/// Runs a service with its log wide open, and searches everything that comes out of it.
async fn nothing_is_found_with(option: (&str, &str)) {
    let sandbox = personal_sandbox().await;
    let data_dir = tempfile::tempdir().unwrap();
    let variables = [
        ("SOLOIST_LOGINRADIUS__API_SECRET", API_SECRET),
        ("SOLOIST_LOGINRADIUS__WEBHOOK_SECRETS", WEBHOOK_SECRET),
        // So that profiles are asked for.
        ("SOLOIST_POLICY__RULES", r#"[{ role = "family", limit = 3 }]"#),
        ("SOLOIST_TELEMETRY__LOG", "trace"),
        ("SOLOIST_TELEMETRY__LOG_FORMAT", "json"),
        option,
    ];
    let serving = Serving::start(command(data_dir.path(), &sandbox.url(), &variables), data_dir.path()).await;
    let answers = everything_it_says(&sandbox, &serving).await;
    let profiles = "soloist_provider_calls_total{tenant=\"default\",operation=\"profile\",result=\"ok\"}";
    assert!(answers.iter().any(|answer| answer.contains(profiles)), "profiles are asked for");

    let ips = ["198.51.100.", "203.0.113.", "192.0.2."].map(str::to_owned);
    let mut needles: Vec<String> = vec![API_SECRET.to_owned(), WEBHOOK_SECRET.to_owned(), "planted-".to_owned()];
    needles.push("+1555planted".to_owned());
    sandbox.set_faults(Faults::default());
    let mut told = Vec::new();
    for command in SHOW_ADDRESSES.into_iter().chain(COMMANDS) {
        told.push((command, told_by(command, data_dir.path(), &sandbox.url(), &variables).await));
    }
    let sessions = ["ann", "bob"].into_iter().flat_map(|user| sandbox.sessions_ever(user));
    needles.extend(sessions.map(|session| session.access_token));
    for answer in &answers {
        assert_eq!(found(&needles, answer.as_bytes()), None, "in the answer {answer}");
    }
    for (command, told) in &told {
        assert_eq!(found(&needles, told), None, "from `soloist {command}`");
        assert_eq!(
            found(&ips, told).is_some(),
            SHOW_ADDRESSES.contains(command),
            "an address from `soloist {command}`"
        );
    }
    signal(serving.id(), "HUP").await;
    let key = std::fs::read_to_string(data_dir.path().join("admin.key")).unwrap();
    let running_files = files_below(data_dir.path());
    let (code, log) = serving.stop().await;
    assert_eq!(code, 0);
    for (name, bytes) in running_files.into_iter().chain(files_below(data_dir.path())) {
        assert_eq!(found(&needles, &bytes), None, "in the file {name}");
        assert_eq!(found(&ips, &bytes), None, "an address in the file {name}");
    }
    needles.push(key.trim().to_owned());
    assert!(log.len() > 50, "the log is there to be searched");
    for line in log {
        assert_eq!(found(&needles, line.as_bytes()), None, "in the log line {line}");
        assert_eq!(found(&ips, line.as_bytes()), None, "an address in the log line {line}");
    }
}

#[tokio::test]
async fn planted_secrets_are_nowhere_to_be_found() {
    nothing_is_found_with(("SOLOIST_LOGINRADIUS__CREDENTIALS_IN", "headers")).await;
}

#[tokio::test]
async fn secrets_in_queries_are_nowhere_to_be_found_either() {
    nothing_is_found_with(("SOLOIST_LOGINRADIUS__CREDENTIALS_IN", "query")).await;
}

#[tokio::test]
async fn the_search_finds_what_is_there() {
    let needles = ["planted-".to_owned()];
    assert_eq!(found(&needles, b"xx planted-token"), Some(&needles[0]));
    let body = personal("ann", "h");
    assert!(found(&needles, body.as_bytes()).is_some());
}
