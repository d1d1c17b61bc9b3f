//! When something is delivered again, and when it is given up.

use std::collections::BTreeSet;

use super::super::{Notice, Outbox, OutboxParts, Texts};
use super::*;
use crate::clock::Clock;
use crate::config::{NotifyEndpoint, NotifyEvent, NotifyFormat};
use crate::model::TenantId;
use crate::telemetry::Metrics;

fn open(folder: &std::path::Path, at: &str) -> (Outbox, OutboxTask) {
    let endpoint = NotifyEndpoint {
        name: "app".to_owned(),
        url: "http://127.0.0.1:9/".to_owned(),
        tenant: None,
        events: NotifyEvent::ALL.into(),
        format: NotifyFormat::Standard { secret: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".into() },
        allow_private: true,
        timeout: Duration::from_secs(1),
    };
    let parts = OutboxParts {
        data_dir: folder.to_owned(),
        endpoints: vec![endpoint],
        texts: Texts::default(),
        clock: Clock::starting_at(at.parse().unwrap()),
        metrics: Metrics::new(),
        chance: || 1.0,
    };
    Outbox::open(parts).unwrap()
}

fn notice(key: &str) -> Notice {
    Notice {
        key: key.to_owned(),
        event: NotifyEvent::SessionRevoked,
        at: "2026-01-01T00:00:00Z".parse().unwrap(),
        tenant: TenantId::default_tenant(),
        user: None,
        session: Some(key.to_owned()),
        reason: "admin".to_owned(),
        device: None,
        displaced_by: None,
    }
}

fn failed(is_of_endpoint: bool, retry_after: Option<u64>) -> Answer {
    let retry_after = retry_after.map(Duration::from_secs);
    Answer::Failed { retry_after, is_of_endpoint, why: "a test".to_owned() }
}

/// Gives what waits these answers, in its order.
async fn answer(task: &mut OutboxTask, answers: &[Answer]) {
    let waiting = task.shared.store.first("app", answers.len()).await.unwrap();
    let done = waiting.into_iter().zip(answers).map(|(pending, answer)| {
        let answer = answer.clone();
        Done { lane: 0, pending, answer }
    });
    let done = done.collect();
    task.lanes[0].settle(&task.shared, done).await;
}

async fn due_in_s(task: &OutboxTask) -> Vec<i64> {
    let (now_ms, waiting) = (task.shared.clock.now_ms(), task.shared.store.first("app", 99).await.unwrap());
    waiting.iter().map(|pending| (pending.due_at_ms - now_ms + 500).div_euclid(1_000)).collect()
}

#[tokio::test]
async fn a_notice_is_tried_again_by_the_ladder_and_later_where_the_receiver_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let (outbox, mut task) = open(folder.path(), "2026-01-01T00:00:00Z");
    outbox.post(vec![notice("a")]).await.unwrap();
    for expected in [1, 5, 30, 120, 600, 3_600, 3_600] {
        answer(&mut task, &[failed(false, None)]).await;
        assert_eq!(due_in_s(&task).await, [expected]);
    }
    outbox.post(vec![notice("b")]).await.unwrap();
    answer(&mut task, &[failed(true, Some(60))]).await;
    assert_eq!(due_in_s(&task).await, [60, 3_600]);
    assert_eq!(task.lanes[0].failures, 1);
}

#[tokio::test]
async fn an_endpoint_in_trouble_is_only_tried_and_what_waits_is_due_when_it_recovers() {
    let folder = tempfile::tempdir().unwrap();
    let (outbox, mut task) = open(folder.path(), "2026-01-01T00:00:00Z");
    outbox.post(["a", "b", "c"].map(notice).into()).await.unwrap();
    // Together is once.
    answer(&mut task, &[failed(true, None), failed(true, None)]).await;
    assert_eq!(task.lanes[0].failures, 1);
    assert!(task.lanes[0].state.failing_since_ms.is_some());
    let paused = task.begin_lane(0).await.unwrap().unwrap();
    assert!(paused <= Duration::from_secs(1) && task.begun.is_empty(), "{paused:?}");
    task.lanes[0].resume_at_ms = 0;
    task.begin_lane(0).await.unwrap();
    assert_eq!(task.begun.len(), 1, "one is tried");
    task.begun.shutdown().await;
    task.lanes[0].in_hand.clear();
    answer(&mut task, &[failed(true, None)]).await;
    assert_eq!(task.lanes[0].failures, 2);
    answer(&mut task, &[Answer::Delivered]).await;
    assert_eq!((due_in_s(&task).await, task.lanes[0].state), (vec![0, 0], State::default()));
    task.begin_lane(0).await.unwrap();
    assert_eq!(task.begun.len(), 2, "all at once");
}

#[tokio::test]
async fn after_five_days_a_notice_is_dropped_and_an_endpoint_is_disabled_until_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let (outbox, mut task) = open(folder.path(), "2026-01-01T00:00:00Z");
    outbox.post(vec![notice("old")]).await.unwrap();
    answer(&mut task, &[failed(true, None)]).await;
    drop((outbox, task));
    for (at, waiting, is_disabled) in [("2026-01-05T23:59:00Z", 2, false), ("2026-01-06T00:01:00Z", 2, true)] {
        let (outbox, mut task) = open(folder.path(), at);
        task.lanes[0].state = task.shared.store.state("app").await.unwrap();
        outbox.post(vec![notice(at)]).await.unwrap();
        answer(&mut task, &std::array::from_fn::<_, 3, _>(|_| failed(true, None))).await;
        assert_eq!(task.shared.store.waiting("app"), waiting, "{at}");
        assert_eq!(task.lanes[0].state.disabled_at_ms.is_some(), is_disabled, "{at}");
        let ids: BTreeSet<String> =
            task.shared.store.first("app", 9).await.unwrap().into_iter().map(|pending| pending.body).collect();
        assert_eq!(ids.iter().any(|body| body.contains("\"old\"")), !is_disabled, "{at}");
        if is_disabled {
            assert_eq!(task.begin_lane(0).await.unwrap(), None);
            assert!(task.begun.is_empty());
        }
    }
    let (_, task) = open(folder.path(), "2026-01-06T00:02:00Z");
    assert_eq!(task.shared.store.state("app").await.unwrap(), State::default());
}
