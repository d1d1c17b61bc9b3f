//! What the file of notices promises.

use std::collections::BTreeMap;
use std::path::Path;

use super::store::{Attempt, Mark, NewNotice, PENDING_MAX, State, Store};

const NOW: i64 = 1_790_000_000_000;

fn open(folder: &Path, endpoints: &[&str]) -> Store {
    let endpoints: Vec<String> = endpoints.iter().map(|name| (*name).to_owned()).collect();
    Store::open(folder, &endpoints, NOW).unwrap()
}

fn notice(number: u64, endpoint: &str) -> NewNotice {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&number.to_be_bytes());
    NewNotice { key, notice: format!("msg_{number}"), body: "{}".to_owned(), endpoints: vec![endpoint.to_owned()] }
}

async fn names(store: &Store, endpoint: &str) -> Vec<String> {
    store.first(endpoint, 10).await.unwrap().into_iter().map(|pending| pending.notice).collect()
}

#[tokio::test]
async fn a_notice_is_kept_once_and_leaves_once_it_is_over_also_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), &["app"]);
    let mark = Mark { place: Some(7), standing: Some(vec!["brake/default@x".to_owned()]) };
    store.post(vec![notice(1, "app"), notice(2, "app"), notice(1, "app")], mark, NOW).await.unwrap();
    drop(store);
    let store = open(folder.path(), &["app"]);
    store.post(vec![notice(2, "app"), notice(3, "app")], Mark::default(), NOW).await.unwrap();
    assert_eq!(names(&store, "app").await, ["msg_1", "msg_2", "msg_3"]);
    assert_eq!(store.place().await.unwrap(), Some(7), "a post without a mark leaves it alone");
    assert_eq!(store.standing().await.unwrap(), ["brake/default@x"]);
    let first = store.first("app", 1).await.unwrap()[0].id;
    store.settle("app", vec![(first, Attempt::Over)], State::default(), None).await.unwrap();
    store.post(vec![notice(1, "app")], Mark::default(), NOW).await.unwrap();
    assert_eq!((names(&store, "app").await, store.waiting("app")), (vec!["msg_2".into(), "msg_3".into()], 2));
}

#[tokio::test]
async fn beyond_the_limit_the_oldest_go() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), &["app", "other"]);
    let many = (0..PENDING_MAX + 3).map(|n| notice(n, "app")).chain([notice(u64::MAX, "other")]).collect();
    let dropped = store.post(many, Mark::default(), NOW).await.unwrap();
    assert_eq!(dropped, BTreeMap::from([("app".to_owned(), 3)]));
    assert_eq!((store.waiting("app"), store.waiting("other")), (PENDING_MAX, 1));
    assert_eq!(names(&store, "app").await[0], "msg_3");
    drop(store);
    assert_eq!(open(folder.path(), &["app"]).waiting("app"), PENDING_MAX);
}

#[tokio::test]
async fn a_start_enables_endpoints_and_forgets_those_that_are_gone_and_times_that_a_clock_has_put_away() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), &["app", "gone"]);
    store.post(vec![notice(1, "app"), notice(2, "gone")], Mark::default(), NOW).await.unwrap();
    let again = vec![(store.first("app", 1).await.unwrap()[0].id, Attempt::Again { due_at_ms: NOW * 2 })];
    let disabled = State { failing_since_ms: Some(NOW), disabled_at_ms: Some(NOW) };
    store.settle("app", again, disabled, None).await.unwrap();
    assert_eq!(store.state("app").await.unwrap(), disabled);
    drop(store);
    let store = open(folder.path(), &["app"]);
    assert_eq!(store.state("app").await.unwrap(), State::default());
    let waiting = store.first("app", 10).await.unwrap();
    assert_eq!(waiting.iter().map(|pending| (pending.due_at_ms, pending.attempts)).collect::<Vec<_>>(), [(NOW, 1)]);
    assert!(names(&store, "gone").await.is_empty());

    // One that fails, but is not given up, goes on counting.
    let failing = State { failing_since_ms: Some(NOW - 5), disabled_at_ms: None };
    store.settle("app", Vec::new(), failing, None).await.unwrap();
    drop(store);
    assert_eq!(open(folder.path(), &["app"]).state("app").await.unwrap(), failing);
}

#[tokio::test]
async fn what_was_delivered_is_not_left_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), &["app"]);
    let body = "planted-user".repeat(50);
    store.post(vec![NewNotice { body, ..notice(1, "app") }], Mark::default(), NOW).await.unwrap();
    let first = store.first("app", 1).await.unwrap()[0].id;
    store.settle("app", vec![(first, Attempt::Over)], State::default(), None).await.unwrap();
    drop(store);
    let file = std::fs::read(folder.path().join("notices.db")).unwrap();
    assert!(!file.windows(12).any(|bytes| bytes == b"planted-user"));
}
