//! Whether somebody may come in: `checkpoint` and `preflight`.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use soloist::sandbox::{Faults, Outage, Sandbox, SandboxConfig, UnknownUser};

use tokio_util::sync::CancellationToken;

use super::{Shop, ids};
use crate::support::service::Service;
use crate::support::soon;

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
    assert_eq!((&by_uid["verdict"], &by_uid["ends_newcomer"]), (&json!("deny"), &json!(false)));
    shop.service.settled().await;
    assert_eq!(shop.service.sandbox.sessions("ann").len(), 2, "with a uid alone nobody is ended");
    let (_, answer) = shop.app("/v1/checkpoint", &json!({"token": second.access_token})).await;
    assert_eq!((&answer["verdict"], &answer["reason"]), (&json!("deny"), &json!("over_limit")));
    assert_eq!((&answer["ends_newcomer"], &answer["device_count"]), (&json!(true), &json!(2)));
    assert_eq!(ids(&answer["would_end"]), [second.session.as_str()]);
    shop.service.settled().await;
    let left: Vec<String> = shop.service.sandbox.sessions("ann").into_iter().map(|s| s.session).collect();
    assert_eq!(left, std::slice::from_ref(&first.session));
    let (_, why) = shop.user("POST", "/v1/why", &second).await;
    assert_eq!(why["reason"], "rejected_over_limit");
    let (status, dead) = shop.app("/v1/checkpoint", &json!({"token": second.access_token})).await;
    assert_eq!((status, &dead["verdict"], &dead["reason"]), (200, &json!("deny"), &json!("over_limit")));
    let (_, nobody) = shop.app("/v1/checkpoint", &json!({"token": "nobody's"})).await;
    assert_eq!((&nobody["verdict"], &nobody["reason"]), (&json!("deny"), &json!("no_session")));

    let (status, mine) = shop.user("POST", "/v1/checkpoint", &first).await;
    assert_eq!(status, 415, "a body is asked for, also where it is empty: {mine}");
    let asked = shop.request("POST", "/v1/checkpoint").bearer_auth(&first.access_token).json(&json!({}));
    assert_eq!(shop.ask(asked).await.1["verdict"], "allow");
    shop.close().await;
}

/// Who calls the checkpoint at each start of an app must not be turned away after days because a limit was lowered.
#[tokio::test]
async fn who_has_been_in_for_a_while_is_turned_away_no_more() {
    let shop = Shop::open(&REJECT).await;
    let (phone, laptop) = (shop.login_in_silence("ann", "phone"), shop.login_in_silence("ann", "laptop"));
    let dates = [(&phone.session, "2026-01-01T00:00:00Z"), (&laptop.session, "2026-01-02T00:00:00Z")];
    let login_dates = dates.map(|(session, at)| (session.clone(), at.to_owned())).into_iter().collect();
    shop.service.sandbox.set_faults(Faults { login_dates, ..Faults::default() });
    let (_, answer) = shop.app("/v1/checkpoint", &json!({"token": laptop.access_token})).await;
    assert_eq!((&answer["verdict"], &answer["reason"]), (&json!("allow"), &json!("not_enforced")), "{answer}");
    shop.service.settled().await;
    assert_eq!(shop.service.sandbox.sessions("ann").len(), 2);
    shop.close().await;
}

/// Each is the newest while the other one is not listed: but only what is listed is ended, by the rule.
#[tokio::test]
async fn two_newcomers_that_do_not_see_each_other_are_not_both_ended() {
    let lagging = SandboxConfig { list_lag: Duration::from_millis(700), ..SandboxConfig::default() };
    let shop = Shop::open_on(Sandbox::start(lagging).await.unwrap(), &REJECT).await;
    let (phone, laptop) = (shop.login_in_silence("ann", "phone"), shop.login_in_silence("ann", "laptop"));
    for login in [&laptop, &phone, &laptop, &phone] {
        shop.app("/v1/checkpoint", &json!({"token": login.access_token})).await;
    }
    shop.service.settled().await;
    let left: Vec<String> = shop.service.sandbox.sessions("ann").into_iter().map(|s| s.session).collect();
    assert!(left.contains(&phone.session), "the older one stays: {left:?}");
    shop.close().await;
}

#[tokio::test]
async fn a_canary_that_does_not_hold_for_a_user_denies_them_nothing() {
    let shop = Shop::open(&[REJECT[0], REJECT[1], ("SOLOIST_POLICY__CANARY_PERCENT", "0")]).await;
    shop.login_in_silence("ann", "phone");
    shop.login_in_silence("ann", "laptop");
    let (_, answer) = shop.app("/v1/checkpoint", &json!({"uid": "ann"})).await;
    assert_eq!((&answer["verdict"], &answer["reason"]), (&json!("allow"), &json!("not_enforced")), "{answer}");
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
    assert_eq!((&answer["verdict"], &answer["ends_newcomer"]), (&json!("deny"), &json!(true)), "{answer}");
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
async fn a_checkpoint_after_which_nobody_has_to_go_has_nobody_looked_at() {
    let world = SandboxConfig { unknown_user: UnknownUser::Empty, ..SandboxConfig::default() };
    let shop = Shop::open_on(Sandbox::start(world).await.unwrap(), &[]).await;
    let login = shop.login_in_silence("ann", "phone");
    for asked in [json!({"uid": "ann"}), json!({"token": login.access_token}), json!({"uid": "nobody"})] {
        shop.app("/v1/checkpoint", &asked).await;
    }
    shop.service.sandbox.set_faults(Faults { outage: Outage::Unavailable, ..Faults::default() });
    let (status, _) = shop.app("/v1/checkpoint", &json!({"uid": "ann"})).await;
    assert_eq!(status, 503);
    shop.service.sandbox.set_faults(Faults::default());
    shop.service.settled().await;
    assert_eq!(shop.service.sandbox.report(1).answers["list 200"], 3, "one list for each answer");
    shop.close().await;
}

/// The disk fails after the question, so what was prepared for its answer is looked at all the same.
#[tokio::test]
async fn a_look_that_cannot_be_taken_back_turns_nobody_away() {
    let shop = Shop::open(&REJECT).await;
    for device in ["phone", "laptop"] {
        shop.login_in_silence("ann", device);
    }
    let db = rusqlite::Connection::open(shop.service.data_dir.path().join("queue.db")).unwrap();
    db.execute_batch("CREATE TRIGGER stuck BEFORE DELETE ON messages BEGIN SELECT RAISE(ABORT, 'stuck'); END").unwrap();
    // What is taken back before it is durable needs no disk, so it is asked until a look has stayed.
    soon("a look at her", async {
        let mut asked = 0;
        while shop.service.sandbox.report(1).answers.get("list 200").is_none_or(|&lists| lists <= asked) {
            asked += 1;
            let (_, answer) = shop.app("/v1/checkpoint", &json!({"uid": "ann"})).await;
            assert_eq!((&answer["verdict"], &answer["ends_newcomer"]), (&json!("deny"), &json!(false)));
        }
    })
    .await;
    db.execute_batch("DROP TRIGGER stuck").unwrap();
    shop.service.settled().await;
    assert_eq!(shop.service.sandbox.sessions("ann").len(), 2);
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
    let response = soon("an answer", asked.send()).await.unwrap();
    assert_eq!((response.status().as_u16(), response.headers()["retry-after"].to_str().unwrap()), (503, "2"));
    let (status, verdict) = shop.app("/v1/verdict", &json!({"session": login.session})).await;
    assert_eq!((status, &verdict["verdict"]), (200, &json!("not_known_evicted")), "what is known here is told");
    shop.service.sandbox.set_faults(Faults::default());
    shop.close().await;
}

/// Asks for a user again and again until told to stop; how often it was answered.
async fn asks_on(shop: &Shop, user: usize, stop: &CancellationToken) -> u64 {
    let mut answered = 0;
    while !stop.is_cancelled() {
        let (status, _) = shop.app("/v1/checkpoint", &json!({"uid": format!("asked-{user}")})).await;
        assert!([200, 503].contains(&status), "{status}");
        answered += u64::from(status == 200 && !stop.is_cancelled());
        tokio::task::yield_now().await;
    }
    answered
}

#[tokio::test]
async fn once_the_provider_is_back_logins_come_before_what_apps_ask() {
    const USERS: usize = 30;
    const ASKING: usize = 200;
    // Apps get their tenth while logins wait. First come, first served would give them 69 of 100.
    const APPS_PERCENT_MAX: u64 = 30;
    let options = [
        ("SOLOIST_LOGINRADIUS__REQUESTS_PER_SECOND", "20"),
        ("SOLOIST_API__RATE_PERCENT", "10"),
        ("SOLOIST_API__WAIT_MAX", "10s"),
        ("SOLOIST_API__KEY_REQUESTS_PER_SECOND", "10000"),
    ];
    let shop = Shop::open(&options).await;
    shop.service.sandbox.set_faults(Faults { server_error_percent: 100.0, ..Faults::default() });
    for n in 0..USERS {
        shop.login(&format!("user-{n}"), "phone");
        shop.login(&format!("user-{n}"), "laptop");
    }
    for n in 0..ASKING {
        shop.login_in_silence(&format!("asked-{n}"), "phone");
    }
    let calls = |service: &Service| service.sandbox.report(1).calls.values().sum::<u64>();
    let stop = CancellationToken::new();
    let asking = join_all((0..ASKING).map(|user| asks_on(&shop, user, &stop)));
    let enforcing = async {
        shop.service.until("an answer that there is none", async |service| calls(service) >= 3).await;
        shop.service.sandbox.set_faults(Faults::default());
        let before = calls(&shop.service);
        shop.service.settled().await;
        stop.cancel();
        calls(&shop.service) - before
    };
    let (calls, answered) = tokio::join!(enforcing, asking);
    let answered: u64 = answered.into_iter().sum();
    assert!(
        answered * 100 < calls * APPS_PERCENT_MAX,
        "{answered} of {calls} calls were for apps, though logins waited"
    );
    assert!((0..USERS).all(|n| shop.service.sandbox.sessions(&format!("user-{n}")).len() == 1));
    shop.close().await;
}
