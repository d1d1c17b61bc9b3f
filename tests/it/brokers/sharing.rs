//! The broker that tests share, and machines that have none.

use super::amqp;
use crate::support::broker::{is_there_or_skip, own_broker};

#[tokio::test]
async fn vhosts_are_empty_and_apart() {
    let Some(broker) = own_broker("vhosts_are_empty_and_apart").await else { return };
    let first = broker.fresh_vhost().await;
    amqp::open(&first.url).await.unwrap();
    let second = broker.fresh_vhost().await;

    super::faults::declare(broker, &first.name, "q").await;

    assert!(!first.is_shared() && first.name != second.name);
    assert_eq!(broker.queue_depth(&first.name, "q").await, Some(0));
    assert_eq!(broker.queue_depth(&second.name, "q").await, None);
    assert_eq!(second.url, broker.url_of(&second.name));
    assert_eq!(
        second.url_through("127.0.0.9:7".parse().unwrap()),
        format!("amqp://guest:guest@127.0.0.9:7/{}", second.name)
    );
}

#[tokio::test]
async fn vhosts_do_not_run_out() {
    let Some(broker) = own_broker("vhosts_do_not_run_out").await else { return };
    let mut names = std::collections::BTreeSet::new();
    for _ in 0..20 {
        names.insert(broker.fresh_vhost().await.name);
    }
    assert_eq!(names.len(), 20);
    amqp::open(&broker.url_of(names.last().unwrap())).await.unwrap();
}

#[test]
fn without_a_broker_a_test_is_skipped_unless_brokers_are_required() {
    assert!(is_there_or_skip("a test", true, Some("required")));
    assert!(!is_there_or_skip("a test", false, None));
    std::panic::catch_unwind(|| is_there_or_skip("a test", false, Some("required"))).unwrap_err();
}
