//! The sandbox when it is told to fail.

use std::time::Duration;

use serde_json::{Value, json};
use soloist::sandbox::{Faults, Outage, SandboxConfig};
use tokio::task::JoinSet;

use crate::sandbox::{KEYS, LIST, client, get_bare, started};

#[tokio::test]
async fn faults_show_as_the_failures_they_are_named_after() {
    let sandbox = started(SandboxConfig::default()).await;
    sandbox.login("ann", None).unwrap();
    let url = format!("{}{LIST}&{KEYS}", sandbox.url());
    let all = 100.0;
    let cases = [
        (Faults { throttled_percent: all, retry_after_seconds: Some(7), ..Faults::default() }, 429),
        (Faults { unknown_error_percent: all, ..Faults::default() }, 500),
        (Faults { disguised_percent: all, ..Faults::default() }, 200),
        (Faults { secret_rotated: true, ..Faults::default() }, 401),
        (Faults { outage: Outage::Unavailable, ..Faults::default() }, 503),
    ];
    for (faults, status) in cases {
        sandbox.set_faults(faults.clone());
        let response = client().get(&url).send().await.unwrap();
        assert_eq!(response.status().as_u16(), status, "{faults:?}");
        assert_eq!(response.headers().contains_key("retry-after"), status == 429);
        assert_eq!(response.text().await.unwrap().contains("950"), matches!(status, 500 | 200));
    }
    sandbox.set_faults(Faults { garbage_percent: all, ..Faults::default() });
    assert!(client().get(&url).send().await.unwrap().json::<Value>().await.is_err());
    sandbox.set_faults(Faults { hidden_rows_percent: all, ..Faults::default() });
    assert_eq!(get_bare(&sandbox, &format!("{LIST}&{KEYS}")).await.1["data"], json!([]));
    sandbox.set_faults(Faults { outage: Outage::Reset, ..Faults::default() });
    assert!(client().get(&url).send().await.is_err());
    sandbox.set_faults(Faults { hang_percent: all, ..Faults::default() });
    let impatient = client().get(&url).timeout(Duration::from_millis(20)).send().await;
    assert!(impatient.unwrap_err().is_timeout());
}

#[tokio::test]
async fn an_answer_can_be_lost_after_the_call_had_its_effect() {
    let sandbox = started(SandboxConfig::default()).await;
    let token = sandbox.login("ann", None).unwrap().access_token;
    sandbox.set_faults(Faults { answer_lost_percent: 100.0, ..Faults::default() });

    let path = format!("/api/v2/access_token/invalidate?access_token={token}&{KEYS}");
    let answer = client().get(format!("{}{path}", sandbox.url())).send().await;

    assert!(answer.is_err());
    assert!(sandbox.sessions("ann").is_empty());
    assert_eq!(sandbox.report(1).answers, [("invalidate lost".to_owned(), 1)].into());
}

#[tokio::test]
async fn it_stops_while_a_call_hangs() {
    let faults = Faults { hang_percent: 100.0, ..Faults::default() };
    let sandbox = started(SandboxConfig { faults, ..SandboxConfig::default() }).await;
    let mut calls = JoinSet::new();
    let url = format!("{}{LIST}&{KEYS}", sandbox.url());
    calls.spawn(async move { client().get(url).send().await.is_err() });
    while sandbox.report(1).calls.is_empty() {
        tokio::task::yield_now().await;
    }

    sandbox.stop().await;

    assert!(calls.join_next().await.unwrap().unwrap(), "the connection is cut");
}
