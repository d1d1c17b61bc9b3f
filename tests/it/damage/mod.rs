//! What a broken disk does to the journal of `soloist serve`: found, told, set aside, and the rest settled.

mod bytes;
mod disk;
mod folder;
mod table;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use soloist::sandbox::{Faults, Outage, Sandbox, SandboxConfig};
use tempfile::TempDir;
use tokio::task::JoinSet;

use self::bytes::{Damage, Place};
use self::table::{Row, report_and_judge};
use crate::support::process::{Serving, command};
use crate::support::soon;

/// Accepted before the damage, each of a user of its own who has two sessions.
const EVENTS: usize = 200;
const SENDERS: usize = 8;
/// Starts that it may take: the damage may show only when a row is read, and then the next start repairs.
const STARTS_MAX: usize = 3;

async fn sandbox_with_users() -> Sandbox {
    let sandbox = Sandbox::start(SandboxConfig::default()).await.unwrap();
    for user in 0..EVENTS {
        sandbox.login_in_silence(&format!("user-{user}"), None).unwrap();
    }
    sandbox.advance(Duration::from_millis(2));
    for user in 0..EVENTS {
        sandbox.login_in_silence(&format!("user-{user}"), None).unwrap();
    }
    sandbox
}

/// A login that every listing shows.
fn login(user: usize) -> String {
    serde_json::json!({
        "HookName": "login", "HookId": format!("hook-{user}"), "Time": "2020-01-01T00:00:00Z",
        "Data": { "Uid": format!("user-{user}"), "LastLoginDate": "2020-01-01T00:00:00Z" },
    })
    .to_string()
}

/// A data folder in which all events wait. A process that was stopped has moved its log into the file, and one that was
/// killed has not.
async fn filled(is_stopped: bool) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let sandbox = Sandbox::start(SandboxConfig::default()).await.unwrap();
    sandbox.set_faults(Faults { outage: Outage::Unavailable, ..Faults::default() });
    let serving = Arc::new(Serving::start(command(folder.path(), &sandbox.url(), &[]), folder.path()).await);
    let mut senders = JoinSet::new();
    for sender in 0..SENDERS {
        let serving = Arc::clone(&serving);
        senders.spawn(async move {
            for user in (sender..EVENTS).step_by(SENDERS) {
                assert_eq!(serving.post(login(user)).await, Some(202));
            }
        });
    }
    soon("all events to be accepted", senders.join_all()).await;
    let serving = Arc::into_inner(serving).unwrap();
    if is_stopped {
        assert_eq!(serving.stop().await.0, 0);
    } else {
        serving.kill().await;
    }
    folder
}

fn copied(folder: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    copy
}

/// Starts the service on the folder, again when it ends by itself as a supervisor does, until nothing waits; all that
/// was logged, and the dead letters.
async fn settled(folder: &Path, sandbox: &Sandbox) -> (Vec<String>, u64) {
    let mut log = Vec::new();
    for _ in 0..STARTS_MAX {
        let mut serving = Serving::start(command(folder, &sandbox.url(), &[]), folder).await;
        let dead = soon("the rest to be settled", async {
            let mut pause = tokio::time::interval(Duration::from_millis(20));
            loop {
                pause.tick().await;
                if serving.has_ended() {
                    return None;
                }
                if let Some((0, dead)) = serving.queued_if_alive().await {
                    return Some(dead);
                }
            }
        })
        .await;
        if let Some(dead) = dead {
            let (code, said) = serving.stop().await;
            assert_eq!(code, 0, "{said:?}");
            log.extend(said);
            return (log, dead);
        }
        log.extend(serving.kill().await);
    }
    panic!("it ended {STARTS_MAX} times: {log:?}");
}

fn journal(folder: &Path) -> PathBuf {
    folder.join("queue.db")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_journal_is_found_told_set_aside_and_the_rest_of_it_is_settled() {
    let (stopped, killed) = tokio::join!(filled(true), filled(false));
    let mut rows = Vec::new();
    for damage in bytes::ALL {
        let folder = copied(if damage.place == Place::Log { killed.path() } else { stopped.path() });
        damage.inflict(&journal(folder.path()));
        let sandbox = sandbox_with_users().await;
        let (log, dead) = settled(folder.path(), &sandbox).await;
        rows.push(judged(damage, folder.path(), &sandbox, &log, dead));
    }
    report_and_judge("Damage to the journal of `soloist serve`", &rows);
}

fn judged(damage: Damage, folder: &Path, sandbox: &Sandbox, log: &[String], dead: u64) -> Row {
    let report = sandbox.report(1);
    let is_told = log.iter().any(|line| line.contains("the queue file was damaged"));
    let is_set_aside = folder.join("queue.db.damaged-1").exists();
    Row {
        damage,
        accepted: EVENTS,
        settled: EVENTS - report.over_limit.len(),
        wrong: report.wrong_revocations.len() + report.emptied.len(),
        dead: usize::try_from(dead).unwrap(),
        is_reported: is_told && is_set_aside,
    }
}
