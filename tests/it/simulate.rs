//! Observe, simulate, enforce: what was foretold is what happens.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use soloist::sandbox::SandboxConfig;

use crate::support::service::Service;
use crate::support::soon;

const USERS: usize = 500;
const PATIENCE: Duration = Duration::from_mins(2);

/// A user's session.
type Of = (String, String);

/// Runs a command beside the service; its exit code and output.
async fn command(service: &Service, args: &[&str]) -> (Option<i32>, String) {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_soloist"));
    command.args(args).env_clear().stdin(Stdio::null()).kill_on_drop(true);
    for (name, value) in [
        ("DATA_DIR", service.data_dir.path().to_str().unwrap()),
        ("LOGINRADIUS__API_URL", &service.sandbox.url()),
        ("LOGINRADIUS__API_KEY", "sandbox-key"),
        ("LOGINRADIUS__API_SECRET", "sandbox-secret"),
    ] {
        command.env(format!("SOLOIST_{name}"), value);
    }
    let output = soon("a command to end", command.output()).await.unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    (output.status.code(), text)
}

async fn lines(service: &Service, args: &[&str]) -> Vec<Value> {
    let (code, out) = command(service, args).await;
    assert_eq!(code, Some(0), "{args:?}: {out}");
    out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn written(folder: &Path, name: &str, policy: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, format!("[policy]\n{policy}\n")).unwrap();
    path.to_str().unwrap().to_owned()
}

fn all_sessions(service: &Service) -> BTreeSet<Of> {
    let of_user = |n: usize| {
        let uid = format!("user-{n}");
        let sessions = service.sandbox.sessions(&uid);
        sessions.into_iter().map(move |session| (uid.clone(), session.session)).collect::<Vec<_>>()
    };
    (0..USERS).flat_map(of_user).collect()
}

#[tokio::test]
async fn what_was_simulated_after_observing_is_what_enforcing_ends() {
    const OBSERVE: (&str, &str) = ("SOLOIST_POLICY__MODE", "observe");
    const BY_DEVICE: (&str, &str) = ("SOLOIST_POLICY__COUNT", "device");
    let service = Service::start_with(SandboxConfig::default(), &[OBSERVE, BY_DEVICE]).await;
    // One to four sessions, many at the very same instant, so that ties decide.
    for n in 0..USERS {
        let devices = ["phone", "laptop", "phone", "tv"].get(..=n % 4).unwrap();
        service.sandbox.login_at_once(&format!("user-{n}"), devices).unwrap();
    }
    service.settled_within(PATIENCE).await;
    let before = all_sessions(&service);
    let folder = tempfile::tempdir().unwrap();
    let file = written(folder.path(), "new.toml", "count = \"device\"");

    let mut simulated = lines(&service, &["simulate", "--policy", &file, "--recorded", "--json"]).await;

    let numbers = simulated.pop().unwrap();
    let word = |line: &Value, key: &str| line[key].as_str().unwrap().to_owned();
    let foretold: BTreeSet<Of> = simulated.iter().map(|line| (word(line, "uid"), word(line, "session"))).collect();
    assert_eq!(numbers["users"], USERS);
    assert_eq!(all_sessions(&service), before, "nothing has ended yet");
    let (sandbox, data_dir) = service.stop().await;
    let service = Service::start_on(sandbox, data_dir, &[BY_DEVICE]).await;
    for n in 0..USERS {
        let (status, _) = service.admin("POST", &format!("/admin/v1/users/user-{n}/enforce?queued=true")).await;
        assert_eq!(status, 202);
    }
    service.settled_within(PATIENCE).await;
    let after = all_sessions(&service);
    let ended: BTreeSet<Of> = before.difference(&after).cloned().collect();
    assert_eq!(ended.symmetric_difference(&foretold).count(), 0);
    assert_eq!((ended.len(), numbers["sessions"].as_u64()), (750, Some(750)));
    // What was ended is no longer foretold.
    let again = lines(&service, &["simulate", "--policy", &file, "--recorded", "--json"]).await;
    assert_eq!(again.last().unwrap()["sessions"], 0);
    service.stop().await;
}

#[tokio::test]
async fn a_policy_is_tried_on_one_user_as_listed_now() {
    let service = Service::start_with(SandboxConfig::default(), &[("SOLOIST_POLICY__LIMIT", "3")]).await;
    for device in ["phone", "laptop", "tv"] {
        service.sandbox.advance(Duration::from_millis(2));
        service.sandbox.login("ann", Some(device)).unwrap();
    }
    service.settled().await;
    let folder = tempfile::tempdir().unwrap();
    let two = written(folder.path(), "two.toml", "limit = 2");
    let ends = lines(&service, &["simulate", "--policy", &two, "--uid", "ann", "--json"]).await;
    assert_eq!((ends.len(), &ends[0]["reason"]), (2, &Value::from("displaced_by_newer_login")));

    let by_ip = written(folder.path(), "ip.toml", "count = \"device\"\ndevice_fields = [\"ip\"]");
    let (code, said) = command(&service, &["simulate", "--policy", &by_ip, "--recorded"]).await;
    assert!(code == Some(1) && said.contains("ledger.keep_ip"), "{said}");
    let (code, said) = command(&service, &["simulate", "--policy", &two, "--uid", "ann", "--recorded"]).await;
    assert_eq!(code, Some(64), "{said}");
    let wrong = written(folder.path(), "wrong.toml", "limt = 2");
    let (code, said) = command(&service, &["simulate", "--policy", &wrong, "--recorded"]).await;
    assert!(code == Some(64) && said.contains("did you mean \"limit\""), "{said}");

    let three = written(folder.path(), "three.toml", "limit = 3");
    let diff = lines(&service, &["policy", "diff", &three, &two, "--recorded", "--json"]).await.remove(0);
    assert_eq!((&diff["differences"][0]["a"], &diff["differences"][0]["b"]), (&Value::from("3"), &Value::from("2")));
    assert_eq!((&diff["recorded"]["sessions_a"], &diff["recorded"]["only_b"]["sessions"]), (&0.into(), &1.into()));
    let (code, said) = command(&service, &["policy", "diff", &two, &two]).await;
    assert!(code == Some(0) && said.contains("the policies are the same"), "{said}");
    service.stop().await;
}

#[tokio::test]
async fn the_commands_of_the_ledger_work_beside_a_running_service_and_without_one() {
    let mut service = Service::start().await;
    for uid in ["ann", "ann", "bob", "bob"] {
        service.sandbox.advance(Duration::from_millis(2));
        service.sandbox.login(uid, None).unwrap();
    }
    service.settled().await;
    let (code, why) = command(&service, &["why", "ann"]).await;
    assert!(code == Some(0) && why.contains("was ended") && why.contains("newer: session"), "{why}");
    let told = lines(&service, &["why", "ann", "--json"]).await;
    let session = told[0]["session"].as_str().unwrap().to_owned();
    let (code, why) = command(&service, &["why", &session]).await;
    assert!(code == Some(0) && why.contains("of ann"), "{why}");
    assert!(lines(&service, &["ledger", "export", "--user", "bob"]).await.iter().all(|line| line["uid"] == "bob"));
    let (code, said) = command(&service, &["ledger", "forget", "ann"]).await;
    assert!(code == Some(64) && said.contains("--yes"), "{said}");
    let (code, said) = command(&service, &["ledger", "forget", "ann", "--yes"]).await;
    assert!(code == Some(0) && said.contains("not reached"), "{said}");
    let checked = lines(&service, &["ledger", "verify", "--json"]).await.remove(0);
    assert_eq!((&checked["problem_count"], checked["forgotten"].as_u64() > Some(0)), (&0.into(), true));
    let head = checked["head"].as_str().unwrap().to_owned();

    // The same without a running service.
    service.set_down().await;
    let (code, said) = command(&service, &["ledger", "verify", "--head", &head]).await;
    assert!(code == Some(0) && said.contains("all as they were written"), "{said}");
    let db = rusqlite::Connection::open(service.data_dir.path().join("ledger.db")).unwrap();
    db.execute_batch("UPDATE decisions SET looked = 'lOgin'").unwrap();
    drop(db);
    let (code, said) = command(&service, &["ledger", "verify"]).await;
    assert!(code == Some(1) && said.contains("was changed"), "{said}");
}
