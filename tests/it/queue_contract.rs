//! What every queue backend promises. A backend joins with one line at the end.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use soloist::model::{Lane, LoginEvent, Reason, TenantId};
use soloist::queue::{
    DeadLetter, DeadLetters, Delivery, Next, Queue, QueueError, Selection, Settlement, Subscription, Why,
};

use crate::support::{login, soon, tenant};

/// A backend as the suite needs it: a fresh queue, and a crash.
#[async_trait]
pub(crate) trait Backend: Send {
    /// Whether this machine has what the backend needs.
    fn is_there(_test: &str) -> bool
    where
        Self: Sized,
    {
        true
    }
    async fn start() -> Self
    where
        Self: Sized;
    fn queue(&self) -> &dyn Queue;
    fn dead_letters(&self) -> &dyn DeadLetters;
    /// The process dies without a word and comes again on the same data.
    async fn crash(&mut self);
    /// Puts a message there that is not JSON.
    async fn publish_rubbish(&mut self, tenant: &TenantId);
}

const SHORT: Duration = Duration::from_millis(30);

async fn receive(subscription: &Arc<dyn Subscription>) -> Delivery {
    soon("a delivery", subscription.receive()).await.unwrap()
}

async fn logins(queue: &dyn Queue, tenant: &TenantId) -> Arc<dyn Subscription> {
    queue.subscribe(tenant, Lane::Logins, 8).await.unwrap()
}

fn again(after: Duration, next: Next) -> Settlement {
    Settlement::Again { after, next, why: Why::Unavailable }
}

fn of_tenant(name: &str, event: LoginEvent) -> LoginEvent {
    LoginEvent { tenant: tenant(name), ..event }
}

/// Ready, delayed and dead messages; a broker counts a little behind, so this waits until the counts are so.
async fn wait_for(queue: &dyn Queue, expected: (u64, u64, u64)) {
    soon(&format!("{expected:?} messages"), async {
        let mut pause = tokio::time::interval(SHORT);
        loop {
            let stats = queue.stats().await.unwrap();
            let waiting = stats.iter().fold((0, 0, 0), |sum, lane| {
                (sum.0 + lane.ready, sum.1 + lane.delayed.unwrap_or(0), sum.2 + lane.dead.unwrap_or(0))
            });
            if waiting == expected {
                return;
            }
            pause.tick().await;
        }
    })
    .await;
}

/// The dead letters, once there are as many; a broker's are taken in a little later.
async fn dead(backend: &dyn Backend, selection: &Selection, count: usize) -> Vec<DeadLetter> {
    soon(&format!("{count} dead letters"), async {
        let mut pause = tokio::time::interval(SHORT);
        loop {
            let dead = backend.dead_letters().list(selection, 0, 10).await.unwrap();
            if dead.len() == count {
                return dead;
            }
            pause.tick().await;
        }
    })
    .await
}

pub(crate) async fn a_published_event_is_handed_out_as_it_was<B: Backend>() {
    let backend = B::start().await;
    let event = login("ann", "h1");
    backend.queue().publish(std::slice::from_ref(&event)).await.unwrap();

    let delivery = receive(&logins(backend.queue(), &event.tenant).await).await;

    assert_eq!((delivery.event, delivery.attempt, delivery.redelivered), (event, 1, false));
}

pub(crate) async fn what_was_published_survives_a_crash<B: Backend>() {
    let mut backend = B::start().await;
    let events: Vec<LoginEvent> = (0..20).map(|n| login("ann", &format!("h{n}"))).collect();
    backend.queue().publish(&events).await.unwrap();

    backend.crash().await;

    let subscription = backend.queue().subscribe(&events[0].tenant, Lane::Logins, 64).await.unwrap();
    let mut ids = BTreeSet::new();
    for _ in &events {
        ids.insert(receive(&subscription).await.event.id);
    }
    assert_eq!(ids.len(), events.len());
}

pub(crate) async fn an_unsettled_delivery_comes_again_after_a_crash_as_redelivered<B: Backend>() {
    let mut backend = B::start().await;
    let event = login("ann", "h1");
    backend.queue().publish(std::slice::from_ref(&event)).await.unwrap();
    receive(&logins(backend.queue(), &event.tenant).await).await;

    backend.crash().await;

    let delivery = receive(&logins(backend.queue(), &event.tenant).await).await;
    assert_eq!((delivery.event, delivery.attempt, delivery.redelivered), (event, 1, true));
}

pub(crate) async fn an_acked_delivery_is_gone<B: Backend>() {
    let mut backend = B::start().await;
    let event = login("ann", "h1");
    backend.queue().publish(std::slice::from_ref(&event)).await.unwrap();
    let subscription = logins(backend.queue(), &event.tenant).await;
    let delivery = receive(&subscription).await;

    subscription.settle(&[(delivery.tag, Settlement::Ack)]).await.unwrap();

    backend.crash().await;
    wait_for(backend.queue(), (0, 0, 0)).await;
}

pub(crate) async fn a_stale_tag_is_an_error_that_changes_nothing<B: Backend>() {
    let backend = B::start().await;
    let event = login("ann", "h1");
    backend.queue().publish(&[event.clone(), login("bob", "h2")]).await.unwrap();
    let first = logins(backend.queue(), &event.tenant).await;
    let stale = receive(&first).await.tag;
    first.close().await.unwrap();
    let second = logins(backend.queue(), &event.tenant).await;
    let fresh = receive(&second).await;
    receive(&second).await;

    let result = second.settle(&[(fresh.tag, Settlement::Ack), (stale, Settlement::Ack)]).await;

    assert!(matches!(result, Err(QueueError::StaleTag)));
    second.close().await.unwrap();
    // The good tag of the failed call is not settled either.
    wait_for(backend.queue(), (2, 0, 0)).await;
}

pub(crate) async fn settling_twice_is_an_error<B: Backend>() {
    let backend = B::start().await;
    let event = login("ann", "h1");
    backend.queue().publish(std::slice::from_ref(&event)).await.unwrap();
    let subscription = logins(backend.queue(), &event.tenant).await;
    let tag = receive(&subscription).await.tag;
    subscription.settle(&[(tag, Settlement::Ack)]).await.unwrap();
    assert!(matches!(subscription.settle(&[(tag, Settlement::Ack)]).await, Err(QueueError::StaleTag)));
}

pub(crate) async fn close_gives_back_what_is_unsettled_and_spends_no_attempt<B: Backend>() {
    let backend = B::start().await;
    let event = login("ann", "h1");
    backend.queue().publish(std::slice::from_ref(&event)).await.unwrap();
    let first = logins(backend.queue(), &event.tenant).await;
    receive(&first).await;

    first.close().await.unwrap();

    let delivery = receive(&logins(backend.queue(), &event.tenant).await).await;
    assert_eq!((delivery.attempt, delivery.redelivered), (1, true));
}

pub(crate) async fn a_dropped_subscription_gives_back_too<B: Backend>() {
    let backend = B::start().await;
    let event = login("ann", "h1");
    backend.queue().publish(std::slice::from_ref(&event)).await.unwrap();
    receive(&logins(backend.queue(), &event.tenant).await).await;
    assert_eq!(receive(&logins(backend.queue(), &event.tenant).await).await.event, event);
}

pub(crate) async fn prefetch_bounds_what_is_handed_out<B: Backend>() {
    let backend = B::start().await;
    let events: Vec<LoginEvent> = (0..5).map(|n| login("ann", &format!("h{n}"))).collect();
    backend.queue().publish(&events).await.unwrap();
    let subscription = backend.queue().subscribe(&events[0].tenant, Lane::Logins, 2).await.unwrap();
    let first = receive(&subscription).await;
    receive(&subscription).await;
    assert!(tokio::time::timeout(SHORT, subscription.receive()).await.is_err(), "two are out");

    subscription.settle(&[(first.tag, Settlement::Ack)]).await.unwrap();

    receive(&subscription).await;
}

pub(crate) async fn a_retry_comes_later_with_the_next_attempt<B: Backend>() {
    let backend = B::start().await;
    let event = login("ann", "h1");
    backend.queue().publish(std::slice::from_ref(&event)).await.unwrap();
    let subscription = logins(backend.queue(), &event.tenant).await;
    for attempt in 1..=3 {
        let delivery = receive(&subscription).await;
        assert_eq!((delivery.attempt, &delivery.event), (attempt, &event));
        subscription.settle(&[(delivery.tag, again(SHORT, Next::Retry))]).await.unwrap();
    }
}

pub(crate) async fn a_deferred_delivery_keeps_its_attempt<B: Backend>() {
    let backend = B::start().await;
    let event = login("ann", "h1");
    backend.queue().publish(std::slice::from_ref(&event)).await.unwrap();
    let subscription = logins(backend.queue(), &event.tenant).await;
    for after in [SHORT, Duration::ZERO, SHORT] {
        let delivery = receive(&subscription).await;
        assert_eq!(delivery.attempt, 1);
        subscription.settle(&[(delivery.tag, again(after, Next::Defer))]).await.unwrap();
    }
}

pub(crate) async fn a_recheck_lands_in_the_background_lane_with_attempt_one<B: Backend>() {
    let backend = B::start().await;
    let event = login("ann", "h1");
    backend.queue().publish(std::slice::from_ref(&event)).await.unwrap();
    let subscription = logins(backend.queue(), &event.tenant).await;
    let first = receive(&subscription).await;
    subscription.settle(&[(first.tag, again(SHORT, Next::Retry))]).await.unwrap();
    let second = receive(&subscription).await;

    subscription.settle(&[(second.tag, again(SHORT, Next::Recheck { rung: 2 }))]).await.unwrap();

    let background = backend.queue().subscribe(&event.tenant, Lane::Background, 8).await.unwrap();
    let delivery = receive(&background).await;
    assert_eq!(delivery.attempt, 1);
    assert_eq!(delivery.event, LoginEvent { reason: Reason::Recheck { rung: 2 }, ..event });
}

pub(crate) async fn a_delayed_message_survives_a_crash<B: Backend>() {
    let mut backend = B::start().await;
    let event = login("ann", "h1");
    backend.queue().publish(std::slice::from_ref(&event)).await.unwrap();
    let subscription = logins(backend.queue(), &event.tenant).await;
    let delivery = receive(&subscription).await;
    subscription.settle(&[(delivery.tag, again(SHORT, Next::Retry))]).await.unwrap();
    drop(subscription);

    backend.crash().await;

    assert_eq!(receive(&logins(backend.queue(), &event.tenant).await).await.attempt, 2);
}

pub(crate) async fn a_paused_tenant_does_not_delay_another<B: Backend>() {
    let backend = B::start().await;
    let stuck: Vec<LoginEvent> = (0..50).map(|n| of_tenant("stuck", login("ann", &format!("s{n}")))).collect();
    backend.queue().publish(&stuck).await.unwrap();
    backend.queue().publish(&[of_tenant("busy", login("bob", "b1"))]).await.unwrap();
    let held = backend.queue().subscribe(&tenant("stuck"), Lane::Logins, 4).await.unwrap();
    receive(&held).await;

    let delivery = receive(&logins(backend.queue(), &tenant("busy")).await).await;

    assert_eq!(delivery.event.user.as_str(), "bob");
}

pub(crate) async fn a_full_login_lane_does_not_hold_back_the_background_lane<B: Backend>() {
    let backend = B::start().await;
    let events: Vec<LoginEvent> = (0..200).map(|n| login("ann", &format!("h{n}"))).collect();
    backend.queue().publish(&events).await.unwrap();
    let sweep = LoginEvent { reason: Reason::Sweep, ..login("bob", "s1") };
    backend.queue().publish(std::slice::from_ref(&sweep)).await.unwrap();
    let flooded = logins(backend.queue(), &sweep.tenant).await;
    receive(&flooded).await;

    let background = backend.queue().subscribe(&sweep.tenant, Lane::Background, 8).await.unwrap();

    assert_eq!(receive(&background).await.event, sweep);
}

pub(crate) async fn a_repeated_login_event_is_accepted_but_not_queued_again<B: Backend>() {
    let backend = B::start().await;
    let event = login("ann", "h1");
    backend.queue().publish(std::slice::from_ref(&event)).await.unwrap();
    let published = backend.queue().publish(&[event.clone(), login("ann", "h2"), login("ann", "h2")]).await.unwrap();
    assert_eq!(published.duplicates, 2);
    wait_for(backend.queue(), (2, 0, 0)).await;
}

pub(crate) async fn rechecks_sweeps_and_enforces_bypass_the_dedupe<B: Backend>() {
    let backend = B::start().await;
    for reason in [Reason::Recheck { rung: 0 }, Reason::Sweep, Reason::Enforce] {
        let event = LoginEvent { reason, ..login("ann", "h1") };
        for _ in 0..2 {
            assert_eq!(backend.queue().publish(std::slice::from_ref(&event)).await.unwrap().duplicates, 0);
        }
    }
    wait_for(backend.queue(), (6, 0, 0)).await;
}

pub(crate) async fn a_dead_letter_is_listed_and_can_be_put_back<B: Backend>() {
    let mut backend = B::start().await;
    let event = login("ann", "h1");
    backend.queue().publish(std::slice::from_ref(&event)).await.unwrap();
    let subscription = logins(backend.queue(), &event.tenant).await;
    let delivery = receive(&subscription).await;
    subscription.settle(&[(delivery.tag, Settlement::DeadLetter { why: Why::Refused })]).await.unwrap();
    drop(subscription);
    backend.crash().await;

    let dead = dead(&backend, &Selection::Why("refused".to_owned()), 1).await;
    assert_eq!(dead.iter().map(|dead| dead.event.as_ref()).collect::<Vec<_>>(), [Some(&event)]);
    wait_for(backend.queue(), (0, 0, 1)).await;

    assert_eq!(backend.dead_letters().redrive(&Selection::Ids(vec![dead[0].id])).await.unwrap(), 1);
    let delivery = receive(&logins(backend.queue(), &event.tenant).await).await;
    assert_eq!(delivery.event, LoginEvent { reason: Reason::Redrive, ..event });
    assert_eq!(delivery.attempt, 1);
    let left = backend.dead_letters().list(&Selection::All, 0, 10).await.unwrap();
    assert!(left.iter().all(|left| left.id != dead[0].id), "{left:?}");
}

pub(crate) async fn a_dropped_dead_letter_is_gone<B: Backend>() {
    let backend = B::start().await;
    let events: Vec<LoginEvent> = (0..3).map(|n| login("ann", &format!("h{n}"))).collect();
    backend.queue().publish(&events).await.unwrap();
    let subscription = logins(backend.queue(), &events[0].tenant).await;
    for why in [Why::Refused, Why::AttemptsExhausted, Why::Refused] {
        let tag = receive(&subscription).await.tag;
        subscription.settle(&[(tag, Settlement::DeadLetter { why })]).await.unwrap();
    }
    dead(&backend, &Selection::All, 3).await;
    assert_eq!(backend.dead_letters().discard(&Selection::Why("refused".to_owned())).await.unwrap(), 2);
    let left = backend.dead_letters().list(&Selection::All, 0, 10).await.unwrap();
    assert_eq!(left.iter().map(|dead| dead.why.as_str()).collect::<Vec<_>>(), ["attempts_exhausted"]);
}

pub(crate) async fn an_unreadable_message_becomes_a_dead_letter_and_the_next_is_handed_out<B: Backend>() {
    let mut backend = B::start().await;
    let event = login("ann", "h1");
    backend.publish_rubbish(&event.tenant).await;
    backend.queue().publish(std::slice::from_ref(&event)).await.unwrap();

    assert_eq!(receive(&logins(backend.queue(), &event.tenant).await).await.event, event);

    let dead = dead(&backend, &Selection::All, 1).await;
    assert_eq!((dead[0].why.as_str(), dead[0].event.is_none(), dead[0].body_bytes > 0), ("unreadable", true, true));
}

/// Every promise above, for one backend.
macro_rules! every_promise {
    ($module:ident, $backend:ty: $($promise:ident)*) => {
        mod $module {
            $(#[tokio::test]
            async fn $promise() {
                if <$backend as super::Backend>::is_there(stringify!($promise)) {
                    super::$promise::<$backend>().await;
                }
            })*
        }
    };
    ($module:ident, $backend:ty) => {
        every_promise! { $module, $backend:
            a_published_event_is_handed_out_as_it_was
            what_was_published_survives_a_crash
            an_unsettled_delivery_comes_again_after_a_crash_as_redelivered
            an_acked_delivery_is_gone
            a_stale_tag_is_an_error_that_changes_nothing
            settling_twice_is_an_error
            close_gives_back_what_is_unsettled_and_spends_no_attempt
            a_dropped_subscription_gives_back_too
            prefetch_bounds_what_is_handed_out
            a_retry_comes_later_with_the_next_attempt
            a_deferred_delivery_keeps_its_attempt
            a_recheck_lands_in_the_background_lane_with_attempt_one
            a_delayed_message_survives_a_crash
            a_paused_tenant_does_not_delay_another
            a_full_login_lane_does_not_hold_back_the_background_lane
            a_repeated_login_event_is_accepted_but_not_queued_again
            rechecks_sweeps_and_enforces_bypass_the_dedupe
            a_dead_letter_is_listed_and_can_be_put_back
            a_dropped_dead_letter_is_gone
            an_unreadable_message_becomes_a_dead_letter_and_the_next_is_handed_out
        }
    };
}

every_promise!(embedded, crate::queue_embedded::Embedded);
every_promise!(rabbitmq, crate::queue_rabbitmq::Rabbit);
