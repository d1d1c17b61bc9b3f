//! `soloist check --probe`: every habit that a sandbox can have is measured, and what cannot be enforced is refused.

use std::time::Duration;

use serde_json::{Value, json};
use soloist::sandbox::{DeadToken, ExpiredRows, Faults, RefreshRow, RefreshTime, Sandbox, SandboxConfig, Traits};
use tokio::task::JoinSet;

use super::{Ended, Soloist};

/// What was measured, all findings, and the exit code.
struct Probed {
    measured: Value,
    findings: Vec<Value>,
    code: Option<i32>,
}

impl Probed {
    fn finding(&self, about: &str) -> (&str, &str) {
        let finding = self.findings.iter().find(|finding| finding["about"] == about);
        let finding = finding.unwrap_or_else(|| panic!("nothing about {about}: {:?}", self.findings));
        (finding["state"].as_str().unwrap(), finding["found"].as_str().unwrap())
    }
}

fn soloist(sandbox: &Sandbox, limit: &str) -> Soloist {
    let mut soloist = Soloist::for_api(&sandbox.url());
    soloist.set("POLICY__LIMIT", limit);
    soloist
}

fn read(ended: &Ended) -> Probed {
    let (mut measured, mut findings) = (Value::Null, Vec::new());
    for line in ended.out.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        match line.get("measured") {
            Some(found) => measured = found.clone(),
            None => findings.push(line),
        }
    }
    Probed { measured, findings, code: ended.code }
}

async fn probe(sandbox: &Sandbox, limit: &str) -> Probed {
    read(&soloist(sandbox, limit).run(&["check", "--probe", "ann", "--yes", "--json"]).await)
}

const LAG: Duration = Duration::from_millis(1_200);

/// Every combination of refresh, expiry and lag.
fn combinations() -> Vec<SandboxConfig> {
    let mut all = Vec::new();
    for refresh_row in [RefreshRow::Replace, RefreshRow::Duplicate] {
        for refresh_time in [RefreshTime::Keep, RefreshTime::Restamp] {
            for expired_rows in [ExpiredRows::Pruned, ExpiredRows::Listed] {
                for list_lag in [Duration::ZERO, LAG] {
                    let token_lifetime = Duration::from_hours(1);
                    let config = SandboxConfig::default();
                    all.push(SandboxConfig {
                        refresh_row,
                        refresh_time,
                        expired_rows,
                        list_lag,
                        token_lifetime,
                        ..config
                    });
                }
            }
        }
    }
    all
}

async fn is_measured(config: SandboxConfig) {
    let sandbox = Sandbox::start(config.clone()).await.unwrap();
    sandbox.login_in_silence("ann", None).unwrap();
    sandbox.advance(Duration::from_hours(2));

    let probed = probe(&sandbox, "2").await;

    let (measured, duplicates) = (&probed.measured, config.refresh_row == RefreshRow::Duplicate);
    let dead = usize::from(config.expired_rows == ExpiredRows::Listed);
    assert_eq!(measured["dead_listed"], dead, "{measured}");
    let row = if duplicates { "duplicated" } else { "replaced" };
    let time = if config.refresh_time == RefreshTime::Keep { "kept" } else { "restamped" };
    assert_eq!((&measured["refresh"]["row"], &measured["refresh"]["time"]), (&json!(row), &json!(time)), "{measured}");
    let lag = measured["login"]["listed_after_ms"].as_u64().unwrap();
    assert_eq!(lag >= 1_000, config.list_lag == LAG, "{measured}");
    let ms = |key: &str| measured["login"][key].as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_millisecond();
    assert_eq!(ms("login_date"), ms("last_login_date"));
    let end = &measured["end"];
    assert_eq!((&end["second"]["code"], &end["comes_back"]), (&json!(905), &json!(false)), "{measured}");
    assert!(end["unlisted_after_ms"].is_u64(), "{measured}");
    let (state, found) = probed.finding("probe: refresh");
    assert_eq!(state == "problem" && found.starts_with("enforce is refused"), duplicates, "{found}");
    assert_eq!(probed.code, Some(i32::from(duplicates)), "{:?}", probed.findings);
    assert_eq!(sandbox.sessions("ann").len(), 0, "nothing that the probe began lives on");
    sandbox.stop().await;
}

#[tokio::test]
async fn every_habit_is_measured_and_a_limit_above_one_is_refused_where_rows_are_duplicated() {
    let mut probes: JoinSet<()> = combinations().into_iter().map(is_measured).collect();
    assert_eq!(probes.len(), 16);
    while let Some(probed) = probes.join_next().await {
        probed.unwrap();
    }
}

#[tokio::test]
async fn a_limit_of_one_is_not_refused_where_the_newer_row_of_a_refresh_wins() {
    let (refresh_row, refresh_time) = (RefreshRow::Duplicate, RefreshTime::Restamp);
    let dead_token = DeadToken::Posted;
    let sandbox = SandboxConfig { refresh_row, refresh_time, dead_token, ..SandboxConfig::default() };
    let sandbox = Sandbox::start(sandbox).await.unwrap();
    let probed = probe(&sandbox, "1").await;
    assert_eq!((probed.finding("probe: refresh").0, probed.code), ("ok", Some(0)));
    assert_eq!(probed.measured["end"]["second"], json!({ "code": null, "text": "HTTP 200" }));
    sandbox.stop().await;
}

#[tokio::test]
async fn without_leave_nothing_is_touched() {
    let sandbox = Sandbox::start(SandboxConfig::default()).await.unwrap();
    let probed = read(&soloist(&sandbox, "1").run(&["check", "--probe", "ann", "--json"]).await);
    assert_eq!((probed.code, probed.finding("probe").0), (Some(0), "warning"));
    assert!(probed.measured["login"].is_object() && probed.measured["refresh"].is_null(), "{}", probed.measured);
    assert_eq!(sandbox.sessions("ann").len(), 1, "the session that began lives on");
    let calls = sandbox.report(1).calls;
    assert!(!["refresh", "auth_invalidate", "identify"].iter().any(|call| calls.contains_key(*call)), "{calls:?}");
    sandbox.stop().await;
}

#[tokio::test]
async fn the_vendors_own_limiter_is_reported() {
    let config = SandboxConfig { login_limit: Some(1), ..SandboxConfig::default() };
    let sandbox = Sandbox::start(config).await.unwrap();
    let own = Traits { sessions_limit: Some(2), ..Traits::default() };
    sandbox.set_traits("ann", own).unwrap();
    let allowed = probe(&sandbox, "1").await;
    assert_eq!((allowed.finding("vendor limiter").0, allowed.code), ("warning", Some(0)));
    sandbox.login_in_silence("ann", None).unwrap();
    sandbox.login_in_silence("ann", None).unwrap();

    let refused = probe(&sandbox, "1").await;

    assert_eq!(refused.code, Some(1));
    let found: Vec<&str> = refused.findings.iter().filter_map(|finding| finding["found"].as_str()).collect();
    assert!(found.iter().any(|found| found.contains("the login was refused: code 1338")), "{found:?}");
    sandbox.stop().await;
}

#[tokio::test]
async fn a_refused_refresh_is_an_answer_and_people_read_it_in_a_table() {
    let sandbox = Sandbox::start(SandboxConfig::default()).await.unwrap();
    let operations = vec!["refresh".to_owned()];
    sandbox.set_faults(Faults { login_limited_percent: 100.0, operations, ..Faults::default() });
    let ended = soloist(&sandbox, "1").run(&["check", "--probe", "ann", "--yes"]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let out = ended.out.split_whitespace().collect::<Vec<_>>().join(" ");
    for words in ["is refused: HTTP 403, code 1338", "equals LastLoginDate", "HTTP 403, code 905"] {
        assert!(out.contains(words), "{words}: {}", ended.out);
    }
    for step in ["step 1 of 4", "logging ann in there", "step 3 of 4", "step 4 of 4"] {
        assert!(ended.err.contains(step), "{step}: {}", ended.err);
    }
    sandbox.stop().await;
}

#[tokio::test]
async fn a_probe_of_nobody_is_wrong_usage() {
    let soloist = Soloist::for_api("http://127.0.0.1:9");
    for args in
        [&["check", "--probe", "a/b"][..], &["check", "--probe", "ann", "--tenant", "nobody"], &["check", "--yes"]]
    {
        assert_eq!(soloist.run(args).await.code, Some(64), "{args:?}");
    }
}
