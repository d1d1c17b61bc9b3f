//! A 202 is a promise: it is kept through a full disk.

use std::time::Duration;

use soloist::sandbox::{Faults, Outage, Sandbox, SandboxConfig, UnknownUser};
use tokio::process::Command;

use crate::support::process::{self, Serving, command};
use crate::support::soon;

fn small_login(n: usize) -> String {
    format!(r#"{{"HookName":"login","HookId":"h{n}","Time":"2026-01-01T00:00:00Z","Data":{{"Uid":"user-{n}"}}}}"#)
}

/// The limit stands in for a full disk: writes beyond it fail in the same place, and it can be lifted from outside.
#[tokio::test]
async fn a_full_disk_refuses_with_503_loses_nothing_and_recovers_by_itself() {
    let config = SandboxConfig { unknown_user: UnknownUser::Empty, ..SandboxConfig::default() };
    let sandbox = Sandbox::start(config).await.unwrap();
    sandbox.set_faults(Faults { outage: Outage::Unavailable, ..Faults::default() });
    let data_dir = tempfile::tempdir().unwrap();
    let mut limited = Command::new("bash");
    limited.args(["-c", "trap '' XFSZ; ulimit -S -f 320; exec \"$0\" serve", env!("CARGO_BIN_EXE_soloist")]);
    process::with_environment(&mut limited, data_dir.path(), &sandbox.url(), &[]);
    let serving = Serving::start(limited, data_dir.path()).await;

    let (mut accepted, mut refused) = (0_u64, 0_u64);
    for n in 0..5_000 {
        match serving.post(small_login(n)).await {
            Some(202) => accepted += 1,
            Some(503) => refused += 1,
            other => panic!("answered {other:?}"),
        }
        if refused >= 5 {
            break;
        }
    }
    assert!(refused >= 5, "the disk was never full");

    // While nothing can be written, nothing can be settled either: the worker looks, waits and lives.
    sandbox.set_faults(Faults::default());
    soon("users to be looked at", async {
        let mut pause = tokio::time::interval(Duration::from_millis(20));
        while sandbox.report(1).answers.get("list 200").is_none_or(|&count| count < 3) {
            pause.tick().await;
        }
    })
    .await;
    let pid = serving.id().to_string();
    let lifted = Command::new("prlimit").args(["--pid", &pid, "--fsize=unlimited:unlimited"]).status().await.unwrap();
    assert!(lifted.success());
    soon("space to be used again", async {
        let mut pause = tokio::time::interval(Duration::from_millis(20));
        let mut n = 10_000;
        while serving.post(small_login(n)).await != Some(202) {
            n += 1;
            pause.tick().await;
        }
        accepted += 1;
    })
    .await;
    serving.drained().await;

    let users = sandbox.report(1).answers["list 200"];
    assert!(users >= accepted, "{users} looks for {accepted} accepted logins of as many users");
    assert_eq!(serving.queued().await, (0, 0));
    assert_eq!(serving.stop().await.0, 0);
}

/// A disk that is full to the last byte takes no intent either, and without one nobody is ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_nothing_can_be_written_nobody_is_ended_and_after_a_kill_all_of_it_is_settled() {
    const USERS: u64 = 30;
    let sandbox = Sandbox::start(SandboxConfig::default()).await.unwrap();
    sandbox.set_faults(Faults { outage: Outage::Unavailable, ..Faults::default() });
    let data_dir = tempfile::tempdir().unwrap();
    let mut unlimited = Command::new("bash");
    unlimited.args(["-c", "trap '' XFSZ; exec \"$0\" serve", env!("CARGO_BIN_EXE_soloist")]);
    process::with_environment(&mut unlimited, data_dir.path(), &sandbox.url(), &[]);
    let serving = Serving::start(unlimited, data_dir.path()).await;
    for user in 0..USERS {
        sandbox.login_in_silence(&format!("user-{user}"), None).unwrap();
    }
    sandbox.advance(Duration::from_millis(2));
    for user in 0..USERS {
        let login = sandbox.login_in_silence(&format!("user-{user}"), None).unwrap();
        let body = serde_json::json!({
            "HookName": "login", "HookId": login.session, "Time": login.login_at,
            "Data": { "Uid": login.uid, "LastLoginDate": login.login_at },
        });
        assert_eq!(serving.post(body.to_string()).await, Some(202));
    }

    let pid = serving.id().to_string();
    let full = Command::new("prlimit").args(["--pid", &pid, "--fsize=1:unlimited"]).status().await.unwrap();
    assert!(full.success());
    assert_eq!(serving.post(small_login(0)).await, Some(503));
    sandbox.set_faults(Faults::default());
    soon("users to be looked at", async {
        let mut pause = tokio::time::interval(Duration::from_millis(20));
        while sandbox.report(1).answers.get("list 200").is_none_or(|&count| count < USERS / 2) {
            pause.tick().await;
        }
    })
    .await;
    assert_eq!(serving.post(small_login(1)).await, Some(503));
    let log = serving.kill().await;

    let report = sandbox.report(1);
    assert_eq!((report.over_limit.len() as u64, report.calls.get("auth_invalidate")), (USERS, None));
    assert!(log.iter().any(|line| line.contains("nobody is ended without a durable intent")), "{log:?}");
    let serving = Serving::start(command(data_dir.path(), &sandbox.url(), &[]), data_dir.path()).await;
    serving.drained().await;
    let report = sandbox.report(1);
    assert!(report.over_limit.is_empty() && report.wrong_revocations.is_empty(), "{report:?}");
    assert_eq!(serving.stop().await.0, 0);
}
