//! A data folder that may not be written to, before the start and under a running service.

use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use soloist::sandbox::{Faults, Outage};
use tokio::process::Command;

use super::{login, sandbox_with_users};
use crate::support::process::{self, Serving, command};
use crate::support::soon;

/// The service without the right of `root` to write wherever it likes; others never have it.
fn unprivileged(data_dir: &Path, api_url: &str) -> Command {
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        return command(data_dir, api_url, &[]);
    }
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", "-dac_override,-dac_read_search", "--", env!("CARGO_BIN_EXE_soloist"), "serve"]);
    process::with_environment(&mut command, data_dir, api_url, &[]);
    command
}

fn allow(data_dir: &Path, mode: u32) {
    set_permissions(data_dir, Permissions::from_mode(mode)).unwrap();
}

/// A start that must fail: its exit code and what it said.
async fn refused(data_dir: &Path, api_url: &str) -> (Option<i32>, String) {
    let mut command = unprivileged(data_dir, api_url);
    let child = command.stdin(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let output = soon("the start to fail", child.wait_with_output()).await.unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[tokio::test]
async fn a_read_only_data_folder_is_refused_at_the_start_with_what_to_do() {
    let data_dir = tempfile::tempdir().unwrap();
    allow(data_dir.path(), 0o500);
    let (code, said) = refused(data_dir.path(), "http://127.0.0.1:9").await;
    allow(data_dir.path(), 0o700);

    assert_eq!(code, Some(1), "{said}");
    let folder = data_dir.path().display().to_string();
    for words in
        [&*folder, "cannot write to the data folder", "let the user who runs soloist write", "Permission denied"]
    {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert_eq!(std::fs::read_dir(data_dir.path()).unwrap().count(), 0);
}

/// What it has open it can still write. What it could not, it would refuse; either way nothing that was accepted is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_folder_that_becomes_read_only_under_a_running_service_costs_no_event() {
    const USERS: usize = 40;
    let sandbox = sandbox_with_users().await;
    sandbox.set_faults(Faults { outage: Outage::Unavailable, ..Faults::default() });
    let data_dir = tempfile::tempdir().unwrap();
    let serving = Serving::start(unprivileged(data_dir.path(), &sandbox.url()), data_dir.path()).await;
    let mut accepted = Vec::new();
    for user in 0..USERS {
        if user == USERS / 2 {
            allow(data_dir.path(), 0o500);
        }
        match serving.post(login(user)).await {
            Some(202) => accepted.push(format!("user-{user}")),
            Some(503) => {}
            other => panic!("answered {other:?}"),
        }
    }
    assert!(accepted.len() >= USERS / 2);
    serving.kill().await;
    let (code, said) = refused(data_dir.path(), &sandbox.url()).await;
    assert!(code == Some(1) && said.contains("cannot write to the data folder"), "{said}");

    allow(data_dir.path(), 0o700);
    sandbox.set_faults(Faults::default());
    let serving = Serving::start(unprivileged(data_dir.path(), &sandbox.url()), data_dir.path()).await;
    soon("every accepted event to be settled", async {
        let mut pause = tokio::time::interval(Duration::from_millis(20));
        while accepted.iter().any(|user| sandbox.sessions(user).len() > 1) {
            pause.tick().await;
        }
    })
    .await;
    assert!(sandbox.report(1).wrong_revocations.is_empty());
    assert_eq!(serving.stop().await.0, 0);
}
