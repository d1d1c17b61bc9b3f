//! `soloist users`: on a data folder that nobody holds, and beside a running instance.

use serde_json::{Value, json};

use super::Soloist;

#[tokio::test]
async fn users_are_imported_into_the_file_and_a_bad_line_is_told_by_its_number() {
    let soloist = Soloist::for_api("http://127.0.0.1:9");
    let mut input = "uid,name\nann,\"Ann, A.\"\nb b\n{\"Uid\":\"bob\"}\n".to_owned();
    // More than one request.
    input.extend((0..1_500).map(|n| format!("user-{n:04}\r\n")));

    let ended = soloist.run_with(&["users", "import", "-"], &input).await;
    assert_eq!(
        (ended.code, ended.out.as_str()),
        (Some(1), "imported 1502 users, 0 already known, 1 bad line left out\n")
    );
    assert!(ended.err.contains("line 3: a uid must be"), "{}", ended.err);

    let file = soloist.folder().join("again.txt");
    std::fs::write(&file, "bob\ncleo\n").unwrap();
    let again = soloist.done(&["users", "import", file.to_str().unwrap(), "--json"]).await;
    let again: Value = serde_json::from_str(&again).unwrap();
    assert_eq!(again, json!({ "imported": 1, "already_known": 1, "bad": 0 }));

    assert!(soloist.done(&["users", "count"]).await.starts_with("1503 users\n"));
    let listed = soloist.done(&["users", "ls", "--json"]).await;
    let listed: Vec<Value> = listed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((listed.len(), &listed[0]["uid"], &listed[0]["source"]), (1_503, &json!("ann"), &json!("import")));
    assert_eq!(listed[0]["looked_at"], Value::Null);
    let table = soloist.done(&["users", "ls", "--after", "bob", "--limit", "2"]).await;
    assert!(table.contains("cleo") && table.contains("never") && table.ends_with("2 users\n"), "{table}");
}

#[tokio::test]
async fn a_running_instance_takes_users_in() {
    let soloist = Soloist::for_api("http://127.0.0.1:9");
    let mut serve = soloist.start(&["serve"]);
    serve.says("admin API on ").await;
    let ended = soloist.run_with(&["users", "import", "--json"], "ann\nbob\n").await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let count: Value = serde_json::from_str(&soloist.done(&["users", "count", "--json"]).await).unwrap();
    assert_eq!((&count["users"], &count["tenant"]), (&json!(2), &json!("default")));
    let wrong = soloist.run_with(&["users", "import", "--tenant", "acme"], "ann\n").await;
    assert!(wrong.code == Some(1) && wrong.err.contains("no such tenant"), "{wrong:?}");
}
