//! `soloist demo`, the real binary with its output piped: what it prints, how it ends, what it leaves behind.

use std::process::{Output, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::timeout;

/// Longer than any demo may take, on a busy machine too.
const PATIENCE: Duration = Duration::from_mins(2);

/// Runs it with a folder for temporary files of its own.
async fn demo(args: &[&str]) -> (Output, TempDir) {
    let temporary = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_soloist"));
    command.arg("demo").args(args).env("TMPDIR", temporary.path()).kill_on_drop(true);
    let output = timeout(PATIENCE, command.stdin(Stdio::null()).output()).await.expect("the demo ends in time");
    (output.unwrap(), temporary)
}

/// What it printed, after checking what holds for every run that goes well.
async fn goes_well(args: &[&str]) -> String {
    let (output, temporary) = demo(args).await;
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{:?}\n{printed}{}", output.status, String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!printed.contains('\u{1b}') && !printed.contains('\r'), "control codes");
    let wide: Vec<_> = printed.lines().filter(|line| line.chars().count() > 80).collect();
    assert!(wide.is_empty(), "wider than 80 columns: {wide:#?}");
    assert!(printed.contains("Every user came down to one session."), "{printed}");
    let kept = std::fs::read_dir(temporary.path()).unwrap().count();
    assert_eq!(kept, usize::from(args.contains(&"--keep")), "folders left behind");
    printed
}

/// The words of the table's line that starts with `name`.
fn row<'a>(printed: &'a str, name: &str) -> Vec<&'a str> {
    let table = printed.split_once("What became of it").unwrap().1;
    let line = table.lines().find(|line| line.trim_start().starts_with(name)).unwrap();
    line.split_whitespace().collect()
}

#[tokio::test]
async fn it_shows_users_devices_and_ends_and_closes_with_a_table() {
    let printed = goes_well(&[]).await;

    assert!(printed.contains("ann   + ") && printed.contains("ann   - "), "{printed}");
    assert!(printed.contains(": newer login on "), "{printed}");
    assert!(printed.contains("a tie, "), "{printed}");
    assert_eq!(row(&printed, "all"), ["all", "30", "24", "6", "0"]);
    assert_eq!(row(&printed, "logged out by mistake").last(), Some(&"0"));
    assert!(printed.contains("displaced_by_newer_login"), "{printed}");
}

#[tokio::test]
async fn many_users_are_counted_rather_than_told() {
    let printed = goes_well(&["--users", "50", "--logins", "4"]).await;

    assert_eq!(row(&printed, "50 users"), ["50", "users", "200", "150", "50", "0"]);
    assert!(!printed.contains("finn   + "), "{printed}");
}

#[tokio::test]
async fn one_login_a_user_ends_nobody() {
    let printed = goes_well(&["--users", "2", "--logins", "1"]).await;

    assert_eq!(row(&printed, "all"), ["all", "2", "0", "2", "0"]);
}

#[tokio::test]
async fn faults_cost_time_and_nothing_else() {
    let printed = goes_well(&["--faults", "--keep"]).await;

    assert!(printed.contains("paused (outage)") && printed.contains("paused (unauthorized)"), "{printed}");
    assert_eq!(printed.matches("0 events given up, 0 logged out by mistake").count(), 6, "{printed}");
    assert_eq!(row(&printed, "all"), ["all", "102", "96", "6", "0"]);
    assert!(printed.contains("are kept in "), "{printed}");
}

#[tokio::test]
async fn a_reader_that_goes_away_is_no_panic() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_soloist"));
    command.args(["demo", "--users", "3"]).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());

    let output = timeout(PATIENCE, child.wait_with_output()).await.expect("the demo ends in time").unwrap();

    assert_eq!(output.status.code(), Some(1));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}
