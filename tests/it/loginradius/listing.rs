//! Listing: every spelling, paging, and when a view is complete.

use serde_json::json;
use soloist::model::View;
use soloist::provider::SessionProvider as _;
use soloist::provider::loginradius::{
    CredentialsIn, LoginRadius, LoginRadiusConfig, PAGES_MAX, ROWS_MAX, deserialize_sessions, read_sessions,
};

use super::*;

#[tokio::test]
async fn a_listing_asks_by_account_id_with_credentials_in_headers() {
    let vendor = Vendor::new([ok(&json!({"nextCursor": 0, "data": [row("a"), row("b")]}))]).await;

    let view = vendor.client().list(&ann()).await.unwrap();

    assert_eq!((tokens(&view), view.complete), (vec!["a", "b"], true));
    let [request] = vendor.seen().try_into().ok().unwrap();
    assert_eq!(request.uri, "/api/v2/access_token/activesession?accountid=ann");
    assert_eq!(request.header("x-loginradius-apikey"), Some(KEY));
    assert_eq!(request.header("x-loginradius-apisecret"), Some(SECRET));
    assert_eq!(request.header("user-agent"), Some(concat!("soloist/", env!("CARGO_PKG_VERSION"))));
}

#[tokio::test]
async fn every_spelling_of_the_vendors_samples_is_read() {
    let lower = json!({"data": [{
        "accesstoken": "a", "browser": "Safari", "device": "iPhone", "os": "iOS", "deviceType": "Mobile",
        "city": null, "country": "India", "Ip": "49.36.237.46", "LoginDate": "2023-09-15T04:04:43.72Z"}]});
    let old = json!({"data": [{
        "AccessToken": "a", "Browser": "Safari", "Device": "iPhone", "Os": "iOS", "DeviceType": "Mobile",
        "City": null, "Country": "India", "Ip": "49.36.237.46",
        "LoginDate": "2023-09-15T04:04:43.7200000Z"}], "nextcursor": 0});
    let view = list([ok(&lower)]).await.unwrap();
    assert_eq!(view, list([ok(&old)]).await.unwrap());
    let [session] = view.sessions.as_slice() else { panic!("one session") };
    assert_eq!(session.login_at, "2023-09-15T04:04:43.720Z".parse().ok());
    assert_eq!((session.device.os.as_deref(), session.device.city.as_deref()), (Some("iOS"), None));
    assert_eq!(session.device.ip.as_deref(), Some("49.36.237.46"));
}

#[tokio::test]
async fn no_sessions_in_any_wording_is_a_complete_empty_view() {
    let empty = View { sessions: vec![], complete: true };
    for body in [json!({"data": []}), json!({"data": null}), json!({"nextCursor": 0}), json!({"Data": [], "x": 1})] {
        assert_eq!(list([ok(&body)]).await.unwrap(), empty, "{body}");
    }
    for code in [1055, 997] {
        assert_eq!(list([json_reply(403, &json!({"errorCode": code}))]).await.unwrap(), empty, "{code}");
    }
}

#[tokio::test]
async fn an_unreadable_row_or_list_makes_the_view_incomplete_and_keeps_the_rest() {
    let view = list([ok(&json!({"data": [row("a"), {"Ip": "::1"}, 7, row("b")]}))]).await.unwrap();
    assert_eq!((tokens(&view), view.complete), (vec!["a", "b"], false));
    let view = list([ok(&json!({"data": {"AccessToken": "a"}}))]).await.unwrap();
    assert_eq!((tokens(&view), view.complete), (vec![], false));
}

#[tokio::test]
async fn what_is_no_listing_is_unavailable_and_never_an_empty_view() {
    let broken_sample = r#"{"data":[{"accesstoken":"a","Ip":"1.2.3.4" "LoginDate":"2023-01-01T00:00:00Z"}]}"#;
    for body in
        ["", "{}", "[]", "null", "7", r#""data""#, "<html>", r#"{"IsPosted":true}"#, r#"{"data":["#, broken_sample]
    {
        let error = list([reply(200, body)]).await.unwrap_err();
        assert_eq!(error.class(), "unavailable", "{body}");
    }
}

fn page(tokens: &[&str], next_cursor: u32) -> Reply {
    ok(&json!({"nextCursor": next_cursor, "data": tokens.iter().map(|token| row(token)).collect::<Vec<_>>()}))
}

#[tokio::test]
async fn a_listing_follows_the_cursor_to_its_end() {
    let vendor = Vendor::new([page(&["a", "b"], 2), page(&["c"], 3), page(&["d"], 0)]).await;

    let view = vendor.client().list(&ann()).await.unwrap();

    assert_eq!((tokens(&view), view.complete), (vec!["a", "b", "c", "d"], true));
    let cursors: Vec<_> = vendor.seen().iter().map(|request| request.query("nextcursor")).collect();
    assert_eq!(cursors, [None, Some("2".into()), Some("3".into())]);
}

#[tokio::test]
async fn paging_that_goes_in_circles_stops_incomplete() {
    let view = list([page(&["a"], 2), page(&["b"], 3), page(&["c"], 2), page(&["x"], 0)]).await.unwrap();
    assert_eq!((tokens(&view), view.complete), (vec!["a", "b", "c"], false), "the cursor repeats");
    let view = list([page(&["a", "b"], 2), page(&["a", "b"], 3), page(&["x"], 0)]).await.unwrap();
    assert_eq!((tokens(&view), view.complete), (vec!["a", "b"], false), "the page repeats");
}

#[tokio::test]
async fn paging_has_a_limit_of_pages_and_of_rows() {
    let pages = (1..).map(|n: u32| page(&[&n.to_string()], n)).take(PAGES_MAX + 1);
    let view = list(pages).await.unwrap();
    assert_eq!((view.sessions.len(), view.complete), (PAGES_MAX, false));

    let many: Vec<String> = (0..=ROWS_MAX).map(|n| n.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let view = list([page(&many, 0)]).await.unwrap();
    assert_eq!((view.sessions.len(), view.complete), (ROWS_MAX, false));
}

#[tokio::test]
async fn a_refused_cursor_ends_the_paging_and_an_outage_fails_the_listing() {
    for (code, complete) in [(997, true), (996, false), (908, false), (971, false), (1055, false)] {
        let view = list([page(&["a"], 2), json_reply(403, &json!({"errorCode": code}))]).await.unwrap();
        assert_eq!((tokens(&view), view.complete), (vec!["a"], complete), "{code}");
    }
    let view = list([ok(&json!({"data": [row("a")], "nextCursor": "more"}))]).await.unwrap();
    assert_eq!((tokens(&view), view.complete), (vec!["a"], false));
    for (second, class) in
        [(reply(502, ""), "unavailable"), (reply(429, ""), "throttled"), (reply(403, ""), "unauthorized")]
    {
        assert_eq!(list([page(&["a"], 2), second]).await.unwrap_err().class(), class);
    }
}

#[tokio::test]
async fn credentials_in_the_query_are_named_as_the_old_documentation_has_them() {
    let vendor = Vendor::new([ok(&json!({"data": []}))]).await;
    let config = LoginRadiusConfig { credentials_in: CredentialsIn::Query, ..vendor.config() };

    LoginRadius::new(config).unwrap().list(&ann()).await.unwrap();

    let [request] = vendor.seen().try_into().ok().unwrap();
    assert_eq!(request.uri, "/api/v2/access_token/activesession?accountid=ann&key=canary-key&secret=canary-secret");
    assert_eq!(request.header("x-loginradius-apisecret"), None);
}

#[tokio::test]
async fn a_token_of_any_length_and_alphabet_survives_its_way_through_the_url() {
    for token in ["a+b/c=".to_owned(), "ey.J-h_b".repeat(500), "a b&c%2B#ü".to_owned()] {
        let vendor = Vendor::new([ok(&json!({"data": [row(&token)]}))]).await;

        let view = vendor.client().list_by_token(&AccessToken::new(&token)).await.unwrap();

        assert_eq!(tokens(&view), [&token]);
        let [request] = vendor.seen().try_into().ok().unwrap();
        assert_eq!(request.query("token"), Some(token));
        assert_eq!(request.query("accountid"), None);
    }
}

#[tokio::test]
async fn a_base_path_stays_in_front_of_the_vendors_paths() {
    let vendor = Vendor::new([ok(&json!({"data": []}))]).await;
    let api_url = ApiUrl::parse(&format!("{}/lr/", vendor.url)).unwrap();
    LoginRadius::new(LoginRadiusConfig { api_url, ..vendor.config() }).unwrap().list(&ann()).await.unwrap();
    assert_eq!(vendor.seen()[0].url().path(), "/lr/api/v2/access_token/activesession");
}

#[tokio::test]
async fn a_user_with_a_thousand_sessions_is_listed_in_one_page() {
    let many: Vec<_> = (0..1000).map(|n| row(&format!("token-{n}"))).collect();
    let view = list([ok(&json!({"data": many}))]).await.unwrap();
    assert_eq!((view.sessions.len(), view.complete), (1000, true));
}

#[test]
fn rows_read_offline_are_the_rows_of_a_listing() {
    let rows = json!([row("a"), {"accesstoken": "b", "ip": "::1"}, null]);
    let text = rows.to_string();
    let from_text = deserialize_sessions(&mut serde_json::Deserializer::from_str(&text)).unwrap();
    assert_eq!(read_sessions(&rows), from_text);
    assert_eq!((tokens(&from_text), from_text.complete), (vec!["a", "b"], false));
}
