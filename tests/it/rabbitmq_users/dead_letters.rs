//! `soloist dead-letters` with a fleet: the control process has all of them, and nobody else answers for it.

use serde_json::Value;
use soloist::queue::rabbitmq::topology;

use super::{
    Member, comes_down_to, configured, empty_vhost, hand_out_too_often, json_lines, logs_in, publish, sandbox, until,
};
use crate::support::amqp;
use crate::support::broker::shared_rabbitmq_or_skip;

const JSON: &str = "application/json";

async fn listed(control: &Member, args: &[&str]) -> Vec<Value> {
    json_lines(&control.says(&[&["dead-letters", "ls", "--json"], args].concat()).await)
}

fn id_of(letters: &[Value], uid: &str) -> String {
    letters.iter().find(|letter| letter["uid"] == uid).unwrap()["id"].to_string()
}

#[tokio::test]
async fn control_lists_shows_puts_back_and_drops_the_dead_letters_of_all_workers() {
    if !shared_rabbitmq_or_skip("control_lists_shows_puts_back_and_drops_the_dead_letters_of_all_workers") {
        return;
    }
    let (vhost, sandbox) = (empty_vhost().await, sandbox().await);
    let control = Member::start(configured(&sandbox, &vhost.url, &[]), "control").await;
    let users = ["ann", "bob", "cleo"].map(|user| logs_in(&sandbox, user));
    for user in &users {
        publish(&vhost.url, "default", JSON, format!(r#"{{"uid":"{}"}}"#, user.uid).as_bytes()).await;
    }
    hand_out_too_often(&vhost.url, users.len()).await;
    let worker = Member::start(configured(&sandbox, &vhost.url, &[]), "worker").await;
    publish(&vhost.url, "default", "text/plain", b"planted").await;
    let letters = control.dead_letters(4).await;

    let asked = worker.soloist.run(&["dead-letters", "ls"]).await;
    assert!(asked.code == Some(1) && asked.err.contains("ask the one that runs with --role control"), "{asked:?}");
    assert_eq!(listed(&control, &["--why", "delivery_limit"]).await.len(), 3);
    assert_eq!(listed(&control, &["--why", "media_type"]).await.len(), 1);
    let (ann, unreadable) = (id_of(&letters, "ann"), letters.iter().find(|letter| letter["uid"].is_null()).unwrap());
    let shown = control.says(&["dead-letters", "show", &ann]).await;
    assert!(shown.contains("delivery_limit") && shown.contains("ann"), "{shown}");

    // The one that cannot be read stays where it is.
    for (choice, count) in [
        (&[ann.as_str()][..], "1 dead letter"),
        (&["--why", "delivery_limit"], "3 dead letters"),
        (&["--all"], "3 dead letters"),
    ] {
        let said = control.says(&[&["dead-letters", "redrive", "--dry-run"], choice].concat()).await;
        assert_eq!(said, format!("would put back {count}\n"));
    }
    assert_eq!(listed(&control, &[]).await.len(), 4, "a dry run changes nothing");

    assert_eq!(control.says(&["dead-letters", "redrive", &ann]).await, "put back 1 dead letter\n");
    comes_down_to(&sandbox, &users[0]).await;
    let by_reason = ["dead-letters", "redrive", "--why", "delivery_limit"];
    assert_eq!(control.says(&by_reason).await, "put back 2 dead letters\n");
    comes_down_to(&sandbox, &users[1]).await;
    comes_down_to(&sandbox, &users[2]).await;
    assert_eq!(control.says(&["dead-letters", "redrive", "--all"]).await, "put back 0 dead letters\n");

    let last = unreadable["id"].to_string();
    let asked = control.soloist.run(&["dead-letters", "drop", &last]).await;
    assert!(asked.code == Some(64) && asked.err.contains("--yes"), "{asked:?}");
    assert_eq!(listed(&control, &[]).await.len(), 1, "nothing is deleted unasked");
    assert_eq!(control.says(&["dead-letters", "drop", &last, "--yes"]).await, "deleted 1 dead letter\n");
    assert_eq!(control.says(&["dead-letters", "ls"]).await, "0 dead letters\n");
    worker.stop().await;
    control.stop().await;
}

#[tokio::test]
async fn what_waits_while_control_is_away_is_taken_in_once_and_can_be_put_back_without_a_running_process() {
    if !shared_rabbitmq_or_skip("what_waits_while_control_is_away_is_taken_in_once_and_can_be_put_back") {
        return;
    }
    let (vhost, sandbox) = (empty_vhost().await, sandbox().await);
    let control = Member::start(configured(&sandbox, &vhost.url, &[]), "control").await.stop().await;
    let newest = logs_in(&sandbox, "ann");
    publish(&vhost.url, "default", JSON, br#"{"uid":"ann","id":"loop-1"}"#).await;
    hand_out_too_often(&vhost.url, 1).await;
    let (connection, channel) = amqp::connect(&vhost.url).await;
    until("the broker to give it up", async || amqp::depth(&channel, topology::DEAD).await == Some(1)).await;

    let control = Member::start(control, "control").await;
    let letters = control.dead_letters(1).await;
    assert_eq!((&letters[0]["why"], &letters[0]["event_id"]), (&"delivery_limit".into(), &"loop-1".into()));
    until("the queue to be empty", async || amqp::depth(&channel, topology::DEAD).await == Some(0)).await;
    connection.close(200, "done".into()).await.unwrap();
    let stopped = control.stop().await;
    assert_eq!(stopped.done(&["dead-letters", "redrive", "--all"]).await, "put back 1 dead letter\n");

    let control = Member::start(stopped, "control").await;
    let worker = Member::start(configured(&sandbox, &vhost.url, &[]), "worker").await;
    comes_down_to(&sandbox, &newest).await;
    assert_eq!(control.says(&["dead-letters", "ls"]).await, "0 dead letters\n");
    worker.stop().await;
    control.stop().await;
}
