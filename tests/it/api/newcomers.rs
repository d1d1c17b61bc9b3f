//! Whether somebody may come in: `checkpoint` and `preflight`.

use std::time::Duration;

use serde_json::json;
use soloist::sandbox::{Faults, Sandbox, SandboxConfig};

use super::{Shop, ids};

const REJECT: [(&str, &str); 2] =
    [("SOLOIST_POLICY__STRATEGY", "reject_newest"), ("SOLOIST_BUDGET__REVOCATIONS", "1000")];

#[tokio::test]
async fn the_guides_outcome_one_session_is_allowed_and_a_second_is_prevented() {
    let shop = Shop::open(&REJECT).await;
    let first = shop.login_in_silence("ann", "phone");
    let (status, answer) = shop.app("/v1/checkpoint", &json!({"token": first.access_token})).await;
    assert_eq!((status, &answer["verdict"], &answer["reason"]), (200, &json!("allow"), &json!("within_limit")));

    let second = shop.login_in_silence("ann", "laptop");
    let (_, by_uid) = shop.app("/v1/checkpoint", &json!({"uid": "ann"})).await;
    assert_eq!((&by_uid["verdict"], &by_uid["ended"]), (&json!("deny"), &json!(false)), "with a uid nobody is ended");
    let (_, answer) = shop.app("/v1/checkpoint", &json!({"token": second.access_token})).await;
    assert_eq!((&answer["verdict"], &answer["reason"]), (&json!("deny"), &json!("over_limit")));
    assert_eq!((&answer["ended"], &answer["device_count"]), (&json!(true), &json!(2)));
    assert_eq!(ids(&answer["would_end"]), [second.session]);
    let left: Vec<String> = shop.service.sandbox.sessions("ann").into_iter().map(|s| s.session).collect();
    assert_eq!(left, std::slice::from_ref(&first.session));

    let (status, mine) = shop.user("POST", "/v1/checkpoint", &first).await;
    assert_eq!(status, 415, "a body is asked for, also where it is empty: {mine}");
    let asked = shop.request("POST", "/v1/checkpoint").bearer_auth(&first.access_token).json(&json!({}));
    assert_eq!(shop.ask(asked).await.1["verdict"], "allow");
    shop.close().await;
}

#[tokio::test]
async fn a_session_that_is_not_listed_yet_counts_as_present() {
    let lagging = SandboxConfig { list_lag: Duration::from_mins(10), ..SandboxConfig::default() };
    let shop = Shop::open_on(Sandbox::start(lagging).await.unwrap(), &REJECT).await;
    let first = shop.login_in_silence("ann", "phone");
    shop.service.sandbox.advance(Duration::from_secs(700));
    let second = shop.login_in_silence("ann", "laptop");
    let (_, answer) = shop.app("/v1/checkpoint", &json!({"token": second.access_token})).await;
    assert_eq!((&answer["verdict"], &answer["ended"]), (&json!("deny"), &json!(true)), "{answer}");
    let asked = shop.request("POST", "/v1/checkpoint").bearer_auth(&first.access_token).json(&json!({}));
    assert_eq!(shop.ask(asked).await.1["verdict"], "allow");
    shop.close().await;
}

#[tokio::test]
async fn where_the_oldest_give_way_a_newcomer_is_allowed_and_they_are_ended_at_once() {
    let shop = Shop::open(&[]).await;
    let first = shop.login_in_silence("ann", "phone");
    let second = shop.login_in_silence("ann", "laptop");
    let (_, answer) = shop.app("/v1/checkpoint", &json!({"uid": "ann"})).await;
    assert_eq!((&answer["verdict"], &answer["reason"]), (&json!("allow"), &json!("displaces_older")));
    assert_eq!(ids(&answer["would_end"]), [first.session]);
    shop.service.settled().await;
    let left: Vec<String> = shop.service.sandbox.sessions("ann").into_iter().map(|s| s.session).collect();
    assert_eq!(left, [second.session]);
    shop.close().await;
}

#[tokio::test]
async fn nobody_is_ended_or_denied_in_observe_mode() {
    let shop = Shop::open(&[REJECT[0], REJECT[1], ("SOLOIST_POLICY__MODE", "observe")]).await;
    shop.login_in_silence("ann", "phone");
    let second = shop.login_in_silence("ann", "laptop");
    for body in [json!({"uid": "ann"}), json!({"token": second.access_token})] {
        let (_, answer) = shop.app("/v1/checkpoint", &body).await;
        assert_eq!((&answer["verdict"], &answer["reason"]), (&json!("allow"), &json!("not_enforced")), "{answer}");
    }
    assert_eq!(shop.service.sandbox.sessions("ann").len(), 2);
    shop.close().await;
}

#[tokio::test]
async fn preflight_tells_who_would_be_displaced_and_ends_nobody() {
    let shop = Shop::open(&[]).await;
    let phone = shop.login_in_silence("ann", "phone");
    let (status, answer) = shop.app("/v1/preflight", &json!({"uid": "ann"})).await;
    assert_eq!((status, &answer["verdict"], &answer["session_count"]), (200, &json!("allow"), &json!(1)));
    assert_eq!(ids(&answer["would_displace"]), [phone.session]);
    assert_eq!(shop.service.sandbox.sessions("ann").len(), 1);
    let (_, nobody) = shop.app("/v1/preflight", &json!({"uid": "ben"})).await;
    assert_eq!(nobody["would_displace"], json!([]));
    shop.close().await;
}

#[tokio::test]
async fn an_unreachable_provider_is_said_with_a_time_to_come_again() {
    let shop = Shop::open(&[("SOLOIST_API__WAIT_MAX", "300ms")]).await;
    let login = shop.login("ann", "phone");
    shop.service.settled().await;
    shop.service.sandbox.set_faults(Faults { server_error_percent: 100.0, ..Faults::default() });
    let asked = shop.request("POST", "/v1/checkpoint").bearer_auth(super::KEY).json(&json!({"uid": "ann"}));
    let response = crate::support::soon("an answer", asked.send()).await.unwrap();
    assert_eq!((response.status().as_u16(), response.headers()["retry-after"].to_str().unwrap()), (503, "2"));
    let (status, verdict) = shop.app("/v1/verdict", &json!({"session": login.session})).await;
    assert_eq!((status, &verdict["verdict"]), (200, &json!("not_known_evicted")), "what is known here is told");
    shop.service.sandbox.set_faults(Faults::default());
    shop.close().await;
}
