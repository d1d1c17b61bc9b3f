//! The chapters about rolling out and about deciding at run time: every command in them is run, in their order.

use serde_json::Value;

use super::walk::{Walk, words};
use super::{blocks, parts};
use crate::support::soon;

const ROLLING_OUT: &str = "Rolling out in a company";
const AFTERWARDS: [&str; 2] = ["Deciding at run time", "Evidence"];
/// Commands that have nothing to do here, and say so.
const NOTHING_TO_DO: [(&str, &str); 2] =
    [("resume", "the tenant was not stopped by its budget"), ("release", "there is no directive of that key")];
const USER: &str = "ann";

/// A tenant that only observes, as the chapter's configuration says, where `ann` has logged in three times.
async fn observing() -> Walk {
    let mut walk = Walk::new();
    walk.start_sandbox("http://127.0.0.1:9/webhooks/loginradius").await;
    walk.set("LOGINRADIUS__API_KEY", "sandbox-key");
    walk.set("LOGINRADIUS__API_SECRET", "sandbox-secret");
    let [written]: [String; 1] = blocks("toml")
        .filter(|block| block.section == ROLLING_OUT)
        .map(|block| block.lines.join("\n"))
        .collect::<Vec<_>>()
        .try_into()
        .unwrap();
    assert!(written.contains("mode = \"observe\"") && written.contains("revocations ="), "{written}");
    walk.write("soloist.toml", &written);
    walk.write("policy.toml", "[policy]\nlimit = 1\n");
    walk.write("users.csv", "uid,name\nann,Ann\ncat,Cat\n");
    walk.start_serve().await;
    walk.run(&["sandbox", "login", USER, "--count", "3"]).await;
    walk
}

/// The lines of a chapter that are for Soloist, as words.
fn commands(section: &'static str) -> Vec<Vec<String>> {
    let lines = parts().0.into_iter().filter(move |block| block.section == section && block.language == "sh");
    let words = lines.flat_map(|block| block.lines.into_iter().map(words).collect::<Vec<_>>());
    words
        .filter(|words| words.first().is_some_and(|program| program == "soloist"))
        .map(|words| words[1..].to_vec())
        .collect()
}

async fn sessions(walk: &Walk, user: &str) -> Vec<Value> {
    let listed: Value = serde_json::from_str(&walk.run(&["sessions", user, "--json"]).await).unwrap();
    listed["sessions"].as_array().unwrap().clone()
}

async fn until_sessions(walk: &Walk, user: &str, count: usize) {
    soon("the number of sessions", async { while sessions(walk, user).await.len() != count {} }).await;
}

/// Runs a command, with a user and a session for its placeholders.
async fn obey(walk: &Walk, command: &[String]) {
    let session = sessions(walk, USER).await[0]["session"].as_str().unwrap().to_owned();
    let filled: Vec<String> =
        command.iter().map(|word| word.replace("UID", USER).replace("SESSION", &session)).collect();
    let args: Vec<&str> = filled.iter().map(String::as_str).collect();
    let ended = walk.try_run(&args).await;
    let nothing_to_do = NOTHING_TO_DO.iter().find(|(command, _)| args[0] == *command);
    match nothing_to_do {
        Some((_, said)) => assert!(ended.code == Some(1) && ended.err.contains(said), "{args:?}: {ended:?}"),
        None => assert_eq!(ended.code, Some(0), "{args:?}: {ended:?}"),
    }
}

#[tokio::test]
async fn the_roll_out_goes_as_written_and_the_other_chapters_commands_work() {
    let walk = observing().await;
    let mut is_stopped = false;
    for command in commands(ROLLING_OUT) {
        obey(&walk, &command).await;
        match &command.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["mode", "enforce", ..] | ["canary", "1", ..] => assert_eq!(sessions(&walk, USER).await.len(), 3),
            ["canary", "100", ..] => until_sessions(&walk, USER, 1).await,
            ["mode", "observe", ..] => is_stopped = true,
            _ => {}
        }
    }
    assert!(is_stopped, "the chapter says how to stop");
    walk.run(&["sandbox", "login", "bob", "--count", "3"]).await;
    soon("a decision about bob", async { while !walk.run(&["decisions", "bob"]).await.contains("newer login") {} })
        .await;
    assert_eq!(sessions(&walk, "bob").await.len(), 3);
    for section in AFTERWARDS {
        let commands = commands(section);
        assert!(!commands.is_empty(), "{section}");
        for command in commands {
            obey(&walk, &command).await;
        }
    }
    let report: Value = serde_json::from_str(&walk.run(&["sandbox", "report", "--json"]).await).unwrap();
    // The probe ends the session that it began.
    let wrong = report["wrong_revocations"].as_array().unwrap().iter().filter(|wrong| wrong["uid"] != "test-user");
    assert_eq!(wrong.count(), 0, "{report}");
}
