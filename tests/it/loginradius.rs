//! The LoginRadius client against a vendor that answers as scripted, over real sockets.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Response};
use reqwest::Url;
use serde_json::{Value, json};
use soloist::model::{AccessToken, UserId, View};
use soloist::provider::loginradius::{ApiUrl, CredentialsIn, LoginRadius, LoginRadiusConfig, PAGES_MAX, ROWS_MAX};
use soloist::provider::{ProviderError, Revoked, SessionProvider as _};
use tokio::task::JoinSet;

const KEY: &str = "canary-key";
const SECRET: &str = "canary-secret";
const TOKEN: &str = "canary-token";

/// What the vendor does with the next request.
enum Reply {
    Answer(Response<Body>),
    Silence,
}

fn reply(status: u16, body: impl Into<Body>) -> Reply {
    Reply::Answer(Response::builder().status(status).body(body.into()).unwrap())
}

fn json_reply(status: u16, body: &Value) -> Reply {
    reply(status, body.to_string())
}

fn ok(body: &Value) -> Reply {
    json_reply(200, body)
}

fn with_header(reply: Reply, name: &'static str, value: &str) -> Reply {
    let Reply::Answer(mut response) = reply else { panic!("silence has no headers") };
    response.headers_mut().insert(name, value.parse().unwrap());
    Reply::Answer(response)
}

/// A request as the vendor saw it.
struct Seen {
    uri: String,
    headers: HeaderMap,
}

impl Seen {
    fn url(&self) -> Url {
        Url::parse(&format!("http://vendor{}", self.uri)).unwrap()
    }

    fn query(&self, name: &str) -> Option<String> {
        self.url().query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

#[derive(Clone, Default)]
struct Script {
    replies: Arc<Mutex<VecDeque<Reply>>>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

/// A LoginRadius on a loopback port that gives its scripted replies in order, then `418`.
struct Vendor {
    url: String,
    script: Script,
    _server: JoinSet<()>,
}

impl Vendor {
    async fn new(replies: impl IntoIterator<Item = Reply>) -> Self {
        let script = Script::default();
        script.replies.lock().unwrap().extend(replies);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let app = Router::new().fallback(next_reply).with_state(script.clone());
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { url, script, _server: server }
    }

    fn config(&self) -> LoginRadiusConfig {
        LoginRadiusConfig::new(ApiUrl::parse(&self.url).unwrap(), KEY.into(), SECRET.into())
    }

    fn client(&self) -> LoginRadius {
        LoginRadius::new(self.config()).unwrap()
    }

    fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.script.seen.lock().unwrap())
    }
}

async fn next_reply(State(script): State<Script>, request: Request) -> Response<Body> {
    let seen = Seen { uri: request.uri().to_string(), headers: request.headers().clone() };
    script.seen.lock().unwrap().push(seen);
    let next = script.replies.lock().unwrap().pop_front();
    match next {
        Some(Reply::Answer(response)) => response,
        Some(Reply::Silence) => std::future::pending().await,
        None => Response::builder().status(418).body(Body::empty()).unwrap(),
    }
}

fn ann() -> UserId {
    UserId::parse("ann").unwrap()
}

fn token() -> AccessToken {
    AccessToken::new(TOKEN)
}

fn row(token: &str) -> Value {
    json!({"AccessToken": token, "LoginDate": "2023-09-15T04:09:41.281Z"})
}

fn tokens(view: &View) -> Vec<&str> {
    view.sessions.iter().map(|session| session.token.expose()).collect()
}

async fn list(replies: impl IntoIterator<Item = Reply>) -> Result<View, ProviderError> {
    Vendor::new(replies).await.client().list(&ann()).await
}

async fn revoke(reply: Reply) -> Result<Revoked, ProviderError> {
    Vendor::new([reply]).await.client().revoke(&token()).await
}

// Listing

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
        "City": null, "Country": "India", "Ip": "49.36.237.46", "LoginDate": "2023-09-15T04:04:43.7200000Z"}], "nextcursor": 0});
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

// Ending a session

#[tokio::test]
async fn a_revocation_prevents_refreshing_and_carries_the_token_in_a_header_and_no_secret() {
    for credentials_in in [CredentialsIn::Headers, CredentialsIn::Query] {
        let vendor = Vendor::new([ok(&json!({"IsPosted": true}))]).await;
        let client = LoginRadius::new(LoginRadiusConfig { credentials_in, ..vendor.config() }).unwrap();

        assert_eq!(client.revoke(&token()).await.unwrap(), Revoked::Done);

        let [request] = vendor.seen().try_into().ok().unwrap();
        assert_eq!(request.uri, "/identity/v2/auth/access_token/invalidate?preventRefresh=true&apikey=canary-key");
        assert_eq!(request.header("authorization"), Some("Bearer canary-token"));
        assert!(!format!("{}{:?}", request.uri, request.headers).contains(SECRET));
    }
}

#[tokio::test]
async fn a_revocation_is_done_unless_the_answer_says_no() {
    for body in [json!({"IsPosted": true}), json!({"isPosted": true}), json!({}), json!({"ErrorCode": null})] {
        assert_eq!(revoke(ok(&body)).await.unwrap(), Revoked::Done, "{body}");
    }
    for body in [json!({"IsPosted": false}), json!({"isPosted": null}), json!([]), json!(true)] {
        assert_eq!(revoke(ok(&body)).await.unwrap_err().class(), "unavailable", "{body}");
    }
    for body in ["", "<html>", r#"{"IsPosted":tr"#] {
        assert_eq!(revoke(reply(200, body)).await.unwrap_err().class(), "unavailable", "{body}");
    }
}

#[tokio::test]
async fn a_token_that_is_no_longer_known_is_already_gone_in_every_envelope() {
    for code in [905, 906, 2024, 1055] {
        let pascal = json!({"Description": "x", "ErrorCode": code, "Message": "y", "IsProviderError": false});
        let camel = json!({"errorCode": code.to_string(), "message": "x", "description": "y"});
        for body in [pascal, camel] {
            for status in [200, 400, 401, 403, 500] {
                assert_eq!(revoke(json_reply(status, &body)).await.unwrap(), Revoked::AlreadyGone, "{status} {body}");
            }
        }
    }
}

// Paging

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

// Transport

#[tokio::test]
async fn a_vendor_that_says_nothing_is_unavailable_after_the_timeout() {
    let vendor = Vendor::new([Reply::Silence]).await;
    let client = LoginRadius::new(LoginRadiusConfig { timeout: Duration::from_millis(50), ..vendor.config() }).unwrap();
    assert_eq!(client.list(&ann()).await.unwrap_err().class(), "unavailable");
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = Vendor::new([ok(&json!({"data": []}))]).await;
    let vendor =
        Vendor::new([302, 301, 307, 308].map(|status| with_header(reply(status, ""), "location", &elsewhere.url)))
            .await;
    for _ in 0..4 {
        assert_eq!(vendor.client().list(&ann()).await.unwrap_err().class(), "unavailable");
    }
    assert!(elsewhere.seen().is_empty());
}
