//! A user's own sessions.

use serde_json::json;
use soloist::sandbox::Faults;

use super::{Shop, ids};

const TWO: (&str, &str) = ("SOLOIST_POLICY__LIMIT", "2");

#[tokio::test]
async fn a_user_sees_all_devices_with_every_field_of_the_listing_and_which_is_theirs() {
    let shop = Shop::open(&[TWO]).await;
    let phone = shop.login("ann", "phone");
    let laptop = shop.login("ann", "laptop");
    let (status, answer) = shop.user("GET", "/v1/me/sessions", &laptop).await;
    assert_eq!((status, &answer["session_count"], &answer["device_count"]), (200, &json!(2), &json!(2)));
    assert_eq!(ids(&answer["sessions"]), [laptop.session, phone.session]);
    let first = &answer["sessions"][0];
    assert_eq!((&first["current"], &answer["sessions"][1]["current"]), (&json!(true), &json!(false)));
    for field in ["browser", "os", "device", "device_type", "city", "country", "ip", "login_at", "label"] {
        assert!(!first[field].is_null(), "{field}: {first}");
    }
    assert!(!answer.to_string().contains(&laptop.access_token) && !answer.to_string().contains(&phone.access_token));
    shop.close().await;
}

#[tokio::test]
async fn sessions_come_in_pages_and_ghosts_of_one_device_as_one() {
    let shop = Shop::open(&[("SOLOIST_POLICY__LIMIT", "unlimited")]).await;
    for _ in 0..3 {
        shop.login_in_silence("ann", "phone");
    }
    let laptop = shop.login_in_silence("ann", "laptop");
    let (_, first) = shop.user("GET", "/v1/me/sessions?limit=3", &laptop).await;
    let cursor = first["next_cursor"].as_str().unwrap();
    let (_, rest) = shop.user("GET", &format!("/v1/me/sessions?limit=3&cursor={cursor}"), &laptop).await;
    assert_eq!(
        (ids(&first["sessions"]).len(), ids(&rest["sessions"]).len(), &rest["next_cursor"]),
        (3, 1, &json!(null))
    );
    let (status, _) = shop.user("GET", "/v1/me/sessions?cursor=none", &laptop).await;
    assert_eq!(status, 400);
    let (_, collapsed) = shop.user("GET", "/v1/me/sessions?collapse=true", &laptop).await;
    let counts: Vec<_> = collapsed["sessions"].as_array().unwrap().iter().map(|s| s["sessions"].clone()).collect();
    assert_eq!((counts, &collapsed["session_count"]), (vec![json!(1), json!(3)], &json!(4)));
    shop.close().await;
}

#[tokio::test]
async fn a_user_ends_one_session_and_nobody_elses() {
    let shop = Shop::open(&[TWO]).await;
    let (phone, laptop) = (shop.login("ann", "phone"), shop.login("ann", "laptop"));
    let stranger = shop.login("ben", "phone");
    let path = |id: &str| format!("/v1/me/sessions/{id}");
    assert_eq!(shop.user("DELETE", &path(&stranger.session), &laptop).await.0, 404);
    assert_eq!(shop.user("DELETE", &path("junk"), &laptop).await.0, 400);
    let (status, answer) = shop.user("DELETE", &path(&phone.session), &laptop).await;
    assert_eq!((status, &answer["ended"]), (200, &json!([{"session": phone.session, "ended": "revoked"}])));
    assert_eq!(shop.user("GET", "/v1/me/sessions", &phone).await.0, 401, "an ended token is dead at once");
    let (_, why) = shop.user("POST", "/v1/why", &phone).await;
    assert_eq!(why["reason"], "chosen_by_user");
    assert_eq!(shop.service.sandbox.sessions("ben").len(), 1);
    shop.close().await;
}

#[tokio::test]
async fn ending_all_others_needs_a_fresh_login() {
    let shop = Shop::open(&[("SOLOIST_POLICY__LIMIT", "3")]).await;
    let (phone, laptop) = (shop.login("ann", "phone"), shop.login("ann", "laptop"));
    let tablet = shop.login("ann", "tablet");
    let end_others = "/v1/me/sessions/end-others";
    for at in ["2026-01-01T00:00:00Z", "2999-01-01T00:00:00Z"] {
        let login_dates = [(tablet.session.clone(), at.to_owned())].into();
        shop.service.sandbox.set_faults(Faults { login_dates, ..Faults::default() });
        let (status, answer) = shop.user("POST", end_others, &tablet).await;
        assert_eq!((status, &answer["type"]), (403, &json!("urn:soloist:problem:login_too_old")), "{at}");
    }
    shop.service.sandbox.set_faults(Faults::default());
    let (status, answer) = shop.user("POST", end_others, &tablet).await;
    assert_eq!(status, 200, "{answer}");
    let mut ended = ids(&answer["ended"]);
    ended.sort_unstable();
    let mut expected = [phone.session.as_str(), laptop.session.as_str()];
    expected.sort_unstable();
    assert_eq!(ended, expected);
    assert_eq!(shop.service.sandbox.sessions("ann").len(), 1);
    shop.close().await;
}

#[tokio::test]
async fn a_kept_device_is_not_displaced_and_only_as_many_are_kept_as_the_policy_says() {
    let shop = Shop::open(&[("SOLOIST_POLICY__PINS_MAX", "1")]).await;
    let phone = shop.login("ann", "phone");
    shop.service.settled().await;
    let path = format!("/v1/me/sessions/{}/pin", phone.session);
    assert_eq!(shop.user("POST", &path, &phone).await, (200, json!({"pinned": phone.session})));
    let laptop = shop.login("ann", "laptop");
    shop.service.settled().await;
    assert_eq!(shop.service.sandbox.sessions("ann").len(), 2, "the pinned one stays beside the newest");
    let pin_laptop = format!("/v1/me/sessions/{}/pin", laptop.session);
    assert_eq!(shop.user("POST", &pin_laptop, &laptop).await.0, 409);
    shop.user("DELETE", &format!("/v1/me/sessions/{}", phone.session), &laptop).await;
    assert_eq!(shop.user("POST", &pin_laptop, &laptop).await.0, 200, "a session that is gone takes no place");
    shop.close().await;
}
