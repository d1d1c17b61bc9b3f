//! A 202 is a promise: it is kept through `kill -9` in the middle of the work, and through a full disk.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use jiff::Timestamp;
use soloist::sandbox::{Faults, Outage, Sandbox, SandboxConfig, UnknownUser};
use tokio::process::Command;
use tokio::task::JoinSet;

use crate::support::process::{self, Serving, command};
use crate::support::soon;

const USERS: usize = 12;
const SENDERS: usize = 8;

fn rounds() -> usize {
    if std::env::var_os("SOLOIST_TEST_LONG").is_some() { 100 } else { 5 }
}

/// Logs users in and posts the webhooks until the service is gone; the last accepted login of each user.
async fn send_until_gone(
    sandbox: Arc<Sandbox>,
    client: reqwest::Client,
    url: String,
    sender: usize,
    accepted: Arc<AtomicUsize>,
) -> BTreeMap<String, Timestamp> {
    let mut last = BTreeMap::new();
    for n in 0.. {
        let user = format!("user-{}", (sender + n * SENDERS) % USERS);
        let login = sandbox.login_in_silence(&user, None).unwrap();
        let body = serde_json::json!({
            "HookName": "login", "HookId": login.session, "Time": login.login_at,
            "Data": { "Uid": user, "LastLoginDate": login.login_at },
        });
        match process::post(&client, &url, body.to_string()).await {
            Some(202) => {
                accepted.fetch_add(1, Ordering::Relaxed);
                last.insert(user, login.login_at);
            }
            Some(other) => panic!("answered {other}"),
            None => break,
        }
    }
    last
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_accepted_event_is_settled_though_the_service_is_killed_in_every_round() {
    let sandbox = Arc::new(Sandbox::start(SandboxConfig::default()).await.unwrap());
    sandbox.set_faults(Faults { latency_ms: 2, jitter_ms: 5, ..Faults::default() });
    let data_dir = tempfile::tempdir().unwrap();
    let mut last_accepted: BTreeMap<String, Timestamp> = BTreeMap::new();
    let accepted = Arc::new(AtomicUsize::new(0));
    for round in 0..rounds() {
        let serving = Serving::start(command(data_dir.path(), &sandbox.url(), &[]), data_dir.path()).await;
        let mut senders = JoinSet::new();
        let target = accepted.load(Ordering::Relaxed) + 40 + round % 17 * 13;
        for sender in 0..SENDERS {
            let (client, url) = (serving.client.clone(), serving.webhook_url.clone());
            senders.spawn(send_until_gone(Arc::clone(&sandbox), client, url, sender, Arc::clone(&accepted)));
        }
        soon("the round's logins", async {
            while accepted.load(Ordering::Relaxed) < target {
                tokio::task::yield_now().await;
            }
        })
        .await;
        serving.kill().await;
        for last in soon("the senders", senders.join_all()).await {
            for (user, at) in last {
                let newest = last_accepted.entry(user).or_insert(at);
                *newest = at.max(*newest);
            }
        }
    }

    let serving = Serving::start(command(data_dir.path(), &sandbox.url(), &[]), data_dir.path()).await;
    serving.drained().await;

    let (queued, dead) = serving.queued().await;
    assert_eq!((queued, dead), (0, 0), "of {} accepted", accepted.load(Ordering::Relaxed));
    assert_eq!(serving.admin("/admin/v1/dead-letters").await["dead_letters"], serde_json::json!([]));
    for (user, at) in &last_accepted {
        let left = sandbox.sessions(user);
        assert!(!left.is_empty(), "{user} has no session left");
        let ms = |time: &Timestamp| time.as_millisecond();
        assert!(
            left.iter().all(|session| ms(&session.login_at) >= ms(at)),
            "{user}: a session older than the login accepted at {at} is alive: {left:?}"
        );
    }
    let report = sandbox.report(1);
    assert!(report.wrong_revocations.is_empty() && report.emptied.is_empty(), "{:?}", report.wrong_revocations);
    assert_eq!(serving.stop().await.0, 0);
}

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
        let mut pause = tokio::time::interval(std::time::Duration::from_millis(20));
        while sandbox.report(1).answers.get("list 200").is_none_or(|&count| count < 3) {
            pause.tick().await;
        }
    })
    .await;
    let pid = serving.id().to_string();
    let lifted = Command::new("prlimit").args(["--pid", &pid, "--fsize=unlimited:unlimited"]).status().await.unwrap();
    assert!(lifted.success());
    soon("space to be used again", async {
        let mut pause = tokio::time::interval(std::time::Duration::from_millis(20));
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
