//! What people decide at run time, by the command line: beside a running service, and on the file alone.

use serde_json::Value;

use super::Soloist;

const SESSION: &str = "67ac86848e3967ac86848e3967ac8684";

fn keys(listed: &str) -> Vec<String> {
    let key = |line: &str| serde_json::from_str::<Value>(line).unwrap()["key"].as_str().unwrap().to_owned();
    listed.lines().map(key).collect()
}

#[tokio::test]
async fn every_directive_is_made_listed_and_removed_and_outlives_the_service() {
    let mut soloist = Soloist::for_api("http://127.0.0.1:1");
    soloist.set("BUDGET__REVOCATIONS", "50");
    let mut serve = soloist.start(&["serve"]);
    serve.says("admin API on ").await;
    for args in [
        &["mode", "observe", "--reason", "a try", "--for", "2h"] as &[&str],
        &["canary", "0.5", "--reason", "a try"],
        &["override", "ann", "limit=3", "count=device", "--reason", "a try", "--owner", "ops"],
        &["exempt", "email_domain=example.com", "--reason", "a try", "--for", "30d"],
        &["pin", "ann", SESSION, "--reason", "a try"],
    ] {
        let out = soloist.done(args).await;
        assert!(out.contains("holds from now on"), "{out}");
    }
    serve.signal("TERM").await;
    assert_eq!(serve.ended().await, Some(0));

    let pin = format!("pin/default/ann/{SESSION}");
    let all = ["canary/default", "exemption/default/email_domain=example.com", "mode/default", "override/default/ann"];
    let listed = soloist.done(&["directives", "ls", "--json"]).await;
    assert_eq!(keys(&listed), [&all[..], &[pin.as_str()]].concat());
    let table = soloist.done(&["directives", "ls"]).await;
    assert!(table.contains("0.5 %") && table.contains("5 directives"), "{table}");
    for key in all.iter().chain(&[pin.as_str()]) {
        soloist.done(&["directives", "rm", key, "--reason", "over"]).await;
    }
    assert_eq!(soloist.done(&["directives", "ls"]).await, "0 directives\n");
}

#[tokio::test]
async fn a_wrong_directive_says_what_is_wrong() {
    let soloist = Soloist::for_api("http://127.0.0.1:1");
    for (args, expected) in [
        (&["override", "ann", "limit=0", "--reason", "x"] as &[&str], "limit: must be 1 to 1000"),
        (&["override", "ann", "limit", "--reason", "x"], "must be KEY=VALUE"),
        (&["canary", "101", "--reason", "x"], "canary_percent"),
        (&["mode", "observe", "--reason", " "], "`reason` must be a text"),
        (&["mode", "observe", "--reason", "x", "--for", "2"], "must be a duration"),
        (&["directives", "rm", "mode/default", "--reason", "x"], "no directive of that key"),
        (&["resume", "--reason", "x"], "was not stopped by its budget"),
    ] {
        let ended = soloist.run(args).await;
        assert_ne!(ended.code, Some(0));
        assert!(ended.err.contains(expected), "{args:?}: {}", ended.err);
    }
}
