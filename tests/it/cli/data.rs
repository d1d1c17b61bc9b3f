//! Commands on a data folder that no instance holds, and on one that is held without an answer.

use serde_json::Value;
use soloist::clock::Clock;
use soloist::message::{Remains, Unreadable};
use soloist::model::{Lane, TenantId};
use soloist::queue::embedded::{Buried, EmbeddedConfig, EmbeddedQueue, QueueThread};
use soloist::queue::{Queue as _, Settlement, Why};

use super::Soloist;
use crate::support::{login, soon};

/// More than one page, and more than one request to redrive or to drop.
const DEAD: usize = 1_005;

fn open(soloist: &Soloist) -> (EmbeddedQueue, QueueThread) {
    std::fs::create_dir_all(soloist.data_dir()).unwrap();
    EmbeddedQueue::open(&EmbeddedConfig::in_dir(&soloist.data_dir()), Clock::start()).unwrap()
}

/// Leaves `DEAD` dead letters behind.
async fn bury(soloist: &Soloist) {
    let (queue, thread) = open(soloist);
    let events: Vec<_> = (0..DEAD).map(|n| login("ann", &format!("event-{n}"))).collect();
    soon("the queue", queue.publish(&events)).await.unwrap();
    let tenant = TenantId::default_tenant();
    let subscription = queue.subscribe(&tenant, Lane::Logins, DEAD).await.unwrap();
    let mut tags = Vec::new();
    while tags.len() < DEAD {
        tags.push((soon("a delivery", subscription.receive()).await.unwrap().tag, dead()));
    }
    subscription.settle(&tags).await.unwrap();
    soon("the subscription to close", subscription.close()).await.unwrap();
    queue.stop();
    soon("the queue to stop", thread.ended()).await.unwrap();
}

fn dead() -> Settlement {
    Settlement::DeadLetter { why: Why::Refused }
}

#[tokio::test]
async fn dead_letters_are_listed_shown_put_back_and_dropped() {
    let soloist = Soloist::for_api("http://127.0.0.1:9");
    bury(&soloist).await;

    let lines = soloist.done(&["dead-letters", "ls", "--why", "refused", "--json"]).await;
    let dead: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((dead.len(), &dead[0]["uid"]), (DEAD, &"ann".into()));
    assert_eq!(soloist.done(&["dead-letters", "ls", "--why", "unreadable"]).await, "0 dead letters\n");
    let first = dead[0]["id"].to_string();
    assert!(soloist.done(&["dead-letters", "show", &first]).await.contains("event-0"));
    assert_eq!(soloist.run(&["dead-letters", "show", "99999"]).await.code, Some(1));

    assert_eq!(soloist.run(&["dead-letters", "drop", &first]).await.code, Some(64));
    assert_eq!(soloist.done(&["dead-letters", "drop", &first, "--yes"]).await, "deleted 1 dead letter\n");
    assert_eq!(soloist.run(&["dead-letters", "redrive", &first]).await.code, Some(1));
    let put_back = soloist.done(&["dead-letters", "redrive", "--all"]).await;
    assert_eq!(put_back, format!("put back {} dead letters\n", DEAD - 1));
    assert_eq!(soloist.done(&["dead-letters", "ls"]).await, "0 dead letters\n");
}

#[tokio::test]
async fn all_dead_letters_are_dropped_however_many_there_are() {
    let soloist = Soloist::for_api("http://127.0.0.1:9");
    bury(&soloist).await;
    let dropped = soloist.done(&["dead-letters", "drop", "--all", "--yes"]).await;
    assert_eq!(dropped, format!("deleted {DEAD} dead letters\n"));
    assert_eq!(soloist.done(&["dead-letters", "ls", "--json"]).await, "");
}

#[tokio::test]
async fn who_is_asked_on_a_terminal_must_say_yes_before_anything_is_deleted() {
    let soloist = Soloist::for_api("http://127.0.0.1:9");
    bury(&soloist).await;
    for (typed, code, said) in
        [("n", 1, "nothing was deleted"), ("", 1, "nothing was deleted"), ("Yes", 0, "deleted 2 dead")]
    {
        let ended = soloist.run_on_a_terminal(&["dead-letters", "drop", "1", "2"], &format!("{typed}\n")).await;
        assert!(ended.out.contains("Delete 2 dead letters for good? [y/N]"), "{typed:?}: {ended:?}");
        assert!(ended.code == Some(code) && ended.out.contains(said), "{typed:?}: {ended:?}");
    }
    let left = soloist.done(&["dead-letters", "ls", "--json"]).await;
    assert_eq!(left.lines().count(), DEAD - 2);
}

#[tokio::test]
async fn what_was_wrong_with_an_unreadable_message_is_told() {
    let soloist = Soloist::for_api("http://127.0.0.1:9");
    let (queue, thread) = open(&soloist);
    let body = Remains::of(b"rubbish", &Unreadable::MediaType).write();
    let (tenant, why) = (TenantId::default_tenant(), Why::MediaType.as_str().to_owned());
    queue.bury(&[Buried { tenant, lane: Lane::Logins, why, attempt: 1, body, may_be_known: false }]).await.unwrap();
    queue.stop();
    soon("the queue to stop", thread.ended()).await.unwrap();

    let listed = soloist.done(&["dead-letters", "ls"]).await;
    assert!(listed.contains("media_type") && listed.contains("(its content type is neither"), "{listed}");
    let shown = soloist.done(&["dead-letters", "show", "1"]).await;
    assert!(shown.contains("neither application/json nor") && shown.contains("body_bytes    7"), "{shown}");
}

#[tokio::test]
async fn looking_makes_no_data_folder() {
    let soloist = Soloist::for_api("http://127.0.0.1:9");
    assert_eq!(soloist.done(&["dead-letters", "ls"]).await, "0 dead letters\n");
    assert_eq!(soloist.run(&["sessions", "ann"]).await.code, Some(1));
    assert_eq!(soloist.run(&["check"]).await.code, Some(1));
    let decisions = soloist.run(&["decisions", "ann"]).await;
    assert!(decisions.code == Some(1) && decisions.err.contains("no ledger is in "), "{decisions:?}");
    assert!(!soloist.data_dir().exists());
}

#[tokio::test]
async fn a_folder_that_is_held_by_one_who_does_not_answer_is_explained() {
    let soloist = Soloist::for_api("http://127.0.0.1:9");
    let _held = open(&soloist);
    std::fs::write(soloist.data_dir().join("admin.key"), "key").unwrap();
    std::fs::write(soloist.data_dir().join("admin.addr"), "127.0.0.1:9").unwrap();

    let ended = soloist.run(&["dead-letters", "ls"]).await;

    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("127.0.0.1:9 does not answer") && ended.err.contains("try again"), "{}", ended.err);
}
