//! Events that are made durable before it is known whether they are wanted.

use rusqlite::Connection;
use soloist::model::{Lane, LoginEvent, TenantId};
use soloist::queue::{Delivery, Queue, QueueError, Reserved, Settlement};
use tempfile::TempDir;

use crate::queue_contract::Backend as _;
use crate::queue_embedded::Embedded;
use crate::support::{login, soon};

async fn next(queue: &dyn Queue) -> Delivery {
    let subscription = queue.subscribe(&TenantId::default_tenant(), Lane::Logins, 1).await.unwrap();
    let delivery = soon("a delivery", subscription.receive()).await.unwrap();
    subscription.settle(&[(delivery.tag, Settlement::Ack)]).await.unwrap();
    delivery
}

/// Messages that wait to be handed out, and those that are in the file.
async fn counts(backend: &Embedded) -> (u64, u64) {
    let ready = backend.queue().stats().await.unwrap().iter().map(|lane| lane.ready).sum();
    (ready, backend.messages().await)
}

fn reserve(queue: &dyn Queue, event: &LoginEvent) -> Reserved {
    queue.reserve(event).expect("the embedded queue can take events back")
}

#[tokio::test]
async fn what_is_reserved_is_handed_out_once_it_is_wanted_and_holds_up_nobody() {
    let backend = Embedded::start().await;
    let queue = backend.queue();
    let reserved = reserve(queue, &login("ann", "reserved"));
    queue.publish(&[login("bob", "published")]).await.unwrap();
    assert_eq!(next(queue).await.event.id.as_str(), "published");
    assert_eq!(counts(&backend).await, (0, 1));

    reserved.wanted().await.unwrap();

    assert_eq!(next(queue).await.event, login("ann", "reserved"));
    assert_eq!(counts(&backend).await, (0, 0));
}

#[tokio::test]
async fn what_is_wanted_before_anybody_listens_is_handed_out_once() {
    let backend = Embedded::start().await;
    let queue = backend.queue();
    reserve(queue, &login("ann", "wanted")).wanted().await.unwrap();
    let subscription = queue.subscribe(&TenantId::default_tenant(), Lane::Logins, 8).await.unwrap();
    let wanted = soon("what is wanted", subscription.receive()).await.unwrap();
    queue.publish(&[login("bob", "published")]).await.unwrap();
    let published = soon("what is published", subscription.receive()).await.unwrap();
    assert_eq!([&wanted, &published].map(|delivery| delivery.event.id.as_str()), ["wanted", "published"]);
    subscription.settle(&[(wanted.tag, Settlement::Ack)]).await.unwrap();
    assert_eq!(counts(&backend).await, (0, 1));
}

#[tokio::test]
async fn whoever_stops_waiting_for_the_disk_has_it_handed_out_all_the_same() {
    let backend = Embedded::start().await;
    let mut wanted = Box::pin(reserve(backend.queue(), &login("ann", "wanted")).wanted());
    // It has been said by then, whether or not the answer is there already.
    drop(futures_util::poll!(&mut wanted));
    drop(wanted);
    assert_eq!(next(backend.queue()).await.event.id.as_str(), "wanted");
}

#[tokio::test]
async fn what_nobody_wants_is_gone_also_after_a_crash() {
    let mut backend = Embedded::start().await;
    drop(reserve(backend.queue(), &login("ann", "at-once")));
    let durable = reserve(backend.queue(), &login("ann", "later"));
    assert_eq!(counts(&backend).await, (0, 1));
    drop(durable);
    assert_eq!(counts(&backend).await, (0, 0));
    backend.crash().await;
    backend.queue().publish(&[login("bob", "published")]).await.unwrap();
    assert_eq!(next(backend.queue()).await.event.id.as_str(), "published");
    assert_eq!(counts(&backend).await, (0, 0));
}

#[tokio::test]
async fn what_is_wanted_survives_a_crash_and_what_is_undecided_then_is_handed_out() {
    let mut backend = Embedded::start().await;
    reserve(backend.queue(), &login("ann", "wanted")).wanted().await.unwrap();
    let undecided = reserve(backend.queue(), &login("bob", "undecided"));
    assert_eq!(counts(&backend).await, (1, 2));
    backend.crash().await;
    drop(undecided);
    assert_eq!(next(backend.queue()).await.event.id.as_str(), "wanted");
    assert_eq!(next(backend.queue()).await.event.id.as_str(), "undecided");
}

/// Lets the queue file fail as a disk does, in one place: before rows are added to it or taken from it.
fn break_before(folder: &TempDir, change: &str) -> Connection {
    let db = Connection::open(folder.path().join("queue.db")).unwrap();
    let trigger = format!("CREATE TRIGGER broken BEFORE {change} ON messages BEGIN SELECT RAISE(ABORT, 'broken'); END");
    db.execute_batch(&trigger).unwrap();
    db
}

#[tokio::test]
async fn where_it_cannot_be_made_durable_it_is_refused_and_nothing_is_left_of_it() {
    let backend = Embedded::start().await;
    backend.queue().publish(&[login("ann", "h1")]).await.unwrap();
    let db = break_before(backend.folder(), "INSERT");
    let refused = reserve(backend.queue(), &login("ann", "h2")).wanted().await;
    assert!(matches!(refused, Err(QueueError::Unavailable(_))), "{refused:?}");
    db.execute_batch("DROP TRIGGER broken").unwrap();
    assert_eq!(counts(&backend).await, (1, 1));
    assert_eq!(next(backend.queue()).await.event.id.as_str(), "h1");
}

#[tokio::test]
async fn what_cannot_be_taken_back_is_handed_out() {
    let backend = Embedded::start().await;
    let reserved = reserve(backend.queue(), &login("ann", "h1"));
    backend.queue().publish(&[login("bob", "h2")]).await.unwrap();
    assert_eq!(next(backend.queue()).await.event.id.as_str(), "h2");
    let db = break_before(backend.folder(), "DELETE");
    drop(reserved);
    assert_eq!(counts(&backend).await, (1, 1));
    db.execute_batch("DROP TRIGGER broken").unwrap();
    assert_eq!(next(backend.queue()).await.event.id.as_str(), "h1");
    assert_eq!(counts(&backend).await, (0, 0));
}
