//! The walk through the product: sandbox, service, logins, and commands beside the running service.

use serde_json::Value;

use super::{Running, Soloist};
use crate::support::soon;

/// A sandbox and a service, each a process of its own.
struct Stage {
    soloist: Soloist,
    serve: Running,
    _sandbox: Running,
    sandbox_url: String,
    webhook: String,
}

impl Stage {
    async fn set(sandbox_flags: &[&str], options: &[(&str, &str)]) -> Self {
        let flags: Vec<&str> = ["sandbox", "--listen", "127.0.0.1:0"].iter().chain(sandbox_flags).copied().collect();
        let mut sandbox = Soloist::bare().start(&flags);
        let sandbox_url = sandbox.says("emulator on ").await;
        let mut soloist = Soloist::for_api(&sandbox_url);
        for (option, value) in options {
            soloist.set(option, value);
        }
        let mut serve = soloist.start(&["serve"]);
        let webhook = format!("http://{}", serve.says("listening for webhooks on ").await);
        serve.says("admin API on ").await;
        let stage = Self { soloist, serve, _sandbox: sandbox, sandbox_url, webhook };
        stage.point_webhook(true).await;
        stage
    }

    /// Whether the sandbox sends login events.
    async fn point_webhook(&self, on: bool) {
        let url = on.then(|| format!("{}/webhooks/loginradius", self.webhook));
        let client = reqwest::Client::builder().tls_certs_only([]).no_proxy().build().unwrap();
        let request = client.put(format!("{}/_sandbox/webhook", self.sandbox_url));
        let answer = soon("the sandbox", request.json(&serde_json::json!({ "url": url })).send()).await.unwrap();
        assert!(answer.status().is_success());
    }

    async fn log_in(&self, uid: &str, count: &str) -> Vec<Value> {
        let args = ["sandbox", "login", uid, "--count", count, "--url", &self.sandbox_url, "--json"];
        self.soloist.done(&args).await.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    async fn json(&self, args: &[&str]) -> Value {
        let args: Vec<&str> = args.iter().chain(&["--json"]).copied().collect();
        serde_json::from_str(&self.soloist.done(&args).await).unwrap()
    }

    /// Asks again and again until the answer is as wanted.
    async fn until(&self, args: &[&str], holds: impl Fn(&Value) -> bool) -> Value {
        soon(&args.join(" "), async {
            loop {
                let answer = self.json(args).await;
                if holds(&answer) {
                    return answer;
                }
            }
        })
        .await
    }
}

/// The newest as a listing shows it: by millisecond, then by id.
fn newest(logins: &[Value]) -> &str {
    let key = |login: &Value| {
        let at: jiff::Timestamp = login["login_at"].as_str().unwrap().parse().unwrap();
        (at.as_millisecond(), login["session"].as_str().unwrap().to_owned())
    };
    logins.iter().max_by_key(|login| key(login)).unwrap()["session"].as_str().unwrap()
}

/// A session id as tables show it.
fn short(id: &str) -> &str {
    id.get(..12).unwrap()
}

#[tokio::test]
async fn twenty_logins_come_down_to_the_newest_session() {
    let mut stage = Stage::set(&[], &[]).await;

    let logins = stage.log_in("ann", "20").await;
    let left = stage.until(&["sessions", "ann"], |answer| answer["session_count"] == 1).await;

    assert_eq!((logins.len(), left["device_count"].as_u64()), (20, Some(1)));
    assert_eq!(left["sessions"][0]["session"], newest(&logins));
    let shown = stage.soloist.done(&["sessions", "ann"]).await;
    assert!(shown.ends_with("\n1 session on 1 device\n") && shown.contains(short(newest(&logins))), "{shown}");
    assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
    assert_eq!(stage.soloist.done(&["dead-letters", "ls"]).await, "0 dead letters\n");
    let report = stage.json(&["sandbox", "report", "--url", &stage.sandbox_url]).await;
    assert_eq!((&report["wrong_revocations"], &report["emptied"]), (&Value::Array(vec![]), &Value::Array(vec![])));
    stage.serve.signal("TERM").await;
    assert_eq!(stage.serve.ended().await, Some(0));
}

#[tokio::test]
async fn people_ask_decide_and_revoke_beside_the_running_service() {
    let stage = Stage::set(&[], &[]).await;
    stage.point_webhook(false).await;
    let logins = stage.log_in("ann", "3").await;
    let soloist = &stage.soloist;

    let dry = soloist.done(&["enforce", "ann", "--dry-run"]).await;
    assert!(dry.ends_with("\nwould end 2 sessions\n"), "{dry}");
    assert_eq!(stage.json(&["sessions", "ann"]).await["session_count"], 3);
    assert!(soloist.done(&["enforce", "ann"]).await.ends_with("ended 2 sessions\n"));
    let id = newest(&logins);
    let decided = soloist.done(&["decisions", "ann"]).await;
    assert!(decided.contains("revoked") && decided.contains("newer login"), "{decided}");
    assert!(decided.contains(short(id)), "what displaced them: {decided}");
    assert!(decided.lines().all(|line| line.chars().count() <= 80), "{decided}");
    assert_eq!(soloist.done(&["revoke", "ann", short(id)]).await, format!("ended session {id} of ann\n"));
    assert!(soloist.done(&["sessions", "ann"]).await.ends_with("0 sessions on 0 devices\n"));
    assert_eq!(soloist.run(&["revoke", "ann", short(id)]).await.code, Some(1));
    let unknown = soloist.run(&["sessions", "nobody"]).await;
    assert!(unknown.code == Some(1) && unknown.err.contains("does not know this user"), "{unknown:?}");
}

#[tokio::test]
async fn sent_events_are_accepted_and_the_checks_are_fine() {
    let stage = Stage::set(&[], &[]).await;
    let url = stage.webhook.as_str();
    let sent = stage.soloist.done(&["send", "ann", "--count", "30", "--rate", "500", "--url", url]).await;
    assert!(sent.contains("202 Accepted") && sent.contains("30"), "{sent}");
    assert_eq!(stage.soloist.done(&["healthcheck", "--url", url]).await, "ready\n");
    let check = stage.soloist.done(&["check"]).await;
    for about in ["configuration", "credentials of tenant default", "queue", "clock", "disk"] {
        assert!(check.contains(&format!("  {about}: ")), "{about}: {check}");
    }
    let wrong = ["send", "ann", "--url", &format!("{url}/webhooks/loginradius/nobody")];
    let refused = stage.soloist.run(&wrong).await;
    assert!(refused.code == Some(1) && refused.out.contains("401"), "{refused:?}");
}

#[tokio::test]
async fn a_hangup_takes_over_policies_and_an_invalid_configuration_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("soloist.toml");
    let limit = |limit: &str| std::fs::write(&file, format!("[policy]\nlimit = {limit}\n")).unwrap();
    limit("1");
    let mut stage = Stage::set(&[], &[("CONFIG", file.to_str().unwrap())]).await;
    stage.point_webhook(false).await;
    stage.log_in("ann", "3").await;
    let surplus = |answer: &Value| {
        let sessions = answer["sessions"].as_array().unwrap().iter();
        sessions.filter(|session| session["action"] == "revoke").count()
    };
    assert_eq!(surplus(&stage.json(&["sessions", "ann"]).await), 2);

    limit("2\n[worker]\nconcurrency = 3");
    stage.serve.signal("HUP").await;
    assert_eq!(stage.serve.says("need a restart: ").await, "worker.concurrency");
    assert_eq!(surplus(&stage.json(&["sessions", "ann"]).await), 1);

    limit("0");
    stage.serve.signal("HUP").await;
    stage.serve.says("the policies stay as they are: invalid configuration").await;
    let valid = folder.path().join("empty.toml");
    std::fs::write(&valid, "").unwrap();
    assert_eq!(surplus(&stage.json(&["sessions", "ann", "--config", valid.to_str().unwrap()]).await), 1);
}

#[tokio::test]
async fn a_hangup_without_the_file_that_was_read_at_the_start_changes_nothing() {
    let soloist = Soloist::for_api("http://127.0.0.1:9");
    let file = soloist.folder().join("soloist.toml");
    std::fs::write(&file, "[policy]\nmode = \"observe\"\n").unwrap();
    let mut serve = soloist.start(&["serve"]);
    serve.says("admin API on ").await;

    std::fs::remove_file(&file).unwrap();
    serve.signal("HUP").await;

    let why = serve.says("the polic").await;
    assert!(why.starts_with("ies stay as they are: invalid configuration"), "{why}");
    serve.says("soloist.toml: cannot be read").await;
}

#[tokio::test]
async fn a_second_signal_quits_at_once() {
    let mut stage = Stage::set(&["--faults", r#"{"hang_percent": 100}"#], &[("LOGINRADIUS__TIMEOUT", "60s")]).await;
    stage.log_in("ann", "1").await;
    let report = ["sandbox", "report", "--url", &stage.sandbox_url];
    stage.until(&report, |report| report["most_calls_in_a_second"] != 0).await;

    stage.serve.signal("TERM").await;
    stage.serve.says("a second signal quits at once").await;
    stage.serve.signal("TERM").await;

    assert_eq!(stage.serve.ended().await, Some(1));
}
