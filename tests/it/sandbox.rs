//! The sandbox over HTTP, as the vendor's clients see it.

use std::time::Duration;

use axum::{Router, body::Bytes, extract::State, http::HeaderMap, http::StatusCode, routing::post};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use soloist::sandbox::{
    DeadToken, EmptyList, ExpiredRows, Faults, LoginDate, RefreshRow, RefreshTime, RowCase, Sandbox, SandboxConfig,
    TokenForm, Traits, UnknownUser, WebhookFate,
};
use tokio::{net::TcpListener, sync::mpsc, task::JoinSet};

/// A client that trusts nobody, so that it can be built where there are no certificates.
pub(super) fn client() -> reqwest::Client {
    reqwest::Client::builder().tls_certs_only([]).no_proxy().build().unwrap()
}

pub(super) async fn started(config: SandboxConfig) -> Sandbox {
    Sandbox::start(config).await.unwrap()
}

/// Status and body of a GET with the credentials in headers.
pub(super) async fn get(sandbox: &Sandbox, path_and_query: &str) -> (u16, Value) {
    let request = client()
        .get(format!("{}{path_and_query}", sandbox.url()))
        .header("X-LoginRadius-ApiKey", "sandbox-key")
        .header("X-LoginRadius-ApiSecret", "sandbox-secret");
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

/// Status and body of a GET without any header.
pub(super) async fn get_bare(sandbox: &Sandbox, path_and_query: &str) -> (u16, Value) {
    let response = client().get(format!("{}{path_and_query}", sandbox.url())).send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

#[tokio::test]
async fn a_login_is_listed_until_it_is_invalidated() {
    let sandbox = started(SandboxConfig::default()).await;
    let made = sandbox.login("ann", Some("phone")).unwrap();

    let (status, page) = get(&sandbox, "/api/v2/access_token/activeSession?accountid=ann").await;
    assert_eq!((status, &page["nextCursor"]), (200, &json!(0)));
    assert_eq!(page["data"][0]["AccessToken"], made.access_token);
    assert_eq!(page["data"][0]["DeviceType"], "Mobile");

    let path = format!("/api/v2/access_token/invalidate?access_token={}&preventRefresh=true", made.access_token);
    assert_eq!(get(&sandbox, &path).await, (200, json!({ "IsPosted": true })));

    assert_eq!(get(&sandbox, "/api/v2/access_token/activesession?accountid=ann").await.1["data"], json!([]));
    assert!(sandbox.sessions("ann").is_empty());
    assert_eq!(sandbox.refresh(&made.access_token), None);
}

type Received = (HeaderMap, Bytes);

async fn receiver() -> (String, mpsc::UnboundedReceiver<Received>, JoinSet<()>) {
    let (sender, received) = mpsc::unbounded_channel::<Received>();
    let take = |State(sender): State<mpsc::UnboundedSender<Received>>, headers: HeaderMap, body: Bytes| async move {
        sender.send((headers, body)).unwrap();
        StatusCode::ACCEPTED
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        axum::serve(listener, Router::new().route("/hook", post(take)).with_state(sender)).await.unwrap();
    });
    (url, received, tasks)
}

#[tokio::test]
async fn a_login_is_told_to_the_webhook_once_with_a_signature() {
    let (url, mut received, _tasks) = receiver().await;
    let sandbox = started(SandboxConfig { webhook: Some(url), ..SandboxConfig::default() }).await;

    let made = sandbox.login("ann", None).unwrap();
    sandbox.webhooks_settled().await;

    let (headers, body) = received.recv().await.unwrap();
    let mac = Hmac::<Sha256>::new_from_slice(b"sandbox-secret").unwrap().chain_update(&body).finalize();
    assert_eq!(headers["signature"], hex::encode_upper(mac.into_bytes()));
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((&body["HookName"], &body["Data"]["Uid"]), (&json!("login"), &json!("ann")));
    assert_eq!(headers["content-type"], "application/json; charset=utf-8");
    assert!(!body.to_string().contains(&made.access_token));
    assert!(received.try_recv().is_err());
    assert_eq!(sandbox.report(1).webhooks.outcomes, [("202".to_owned(), 1)].into());
}

#[tokio::test]
async fn a_control_route_logs_a_user_in() {
    let sandbox = started(SandboxConfig::default()).await;

    let body = json!({ "uid": "ann", "device": "tv", "count": 2 });
    let response = client().post(format!("{}/_sandbox/login", sandbox.url())).json(&body).send().await.unwrap();

    let made: Value = response.json().await.unwrap();
    let tokens: Vec<String> = sandbox.sessions("ann").into_iter().map(|session| session.access_token).collect();
    assert_eq!(tokens.len(), 2);
    assert_eq!(made["logins"][1]["access_token"], tokens[1]);
    assert_eq!(get_bare(&sandbox, "/_sandbox/report?limit=1").await.1["over_limit"], json!(["ann"]));
}

pub(super) const LIST: &str = "/api/v2/access_token/activesession?accountid=ann";
pub(super) const KEYS: &str = "key=sandbox-key&secret=sandbox-secret";

fn code(page: &(u16, Value)) -> (u16, u64) {
    let code = page.1.get("errorCode").or_else(|| page.1.get("ErrorCode"));
    (page.0, code.and_then(Value::as_u64).unwrap_or_default())
}

fn tokens(page: &Value) -> Vec<&str> {
    page["data"].as_array().unwrap().iter().map(|row| row["AccessToken"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn credentials_are_accepted_in_every_place_that_is_documented() {
    let sandbox = started(SandboxConfig::default()).await;
    sandbox.login("ann", None).unwrap();

    assert_eq!(get(&sandbox, LIST).await.0, 200);
    assert_eq!(get_bare(&sandbox, &format!("{LIST}&{KEYS}")).await.0, 200);
    assert_eq!(get_bare(&sandbox, &format!("{LIST}&apiKey=sandbox-key&Secret=sandbox-secret")).await.0, 200);
    let account = "/IDENTITY/v2/manage/account/ann?apikey=sandbox-key&apisecret=sandbox-secret";
    assert_eq!(get_bare(&sandbox, account).await.0, 200);
}

#[tokio::test]
async fn missing_wrong_and_malformed_credentials_have_codes_of_their_own() {
    let sandbox = started(SandboxConfig::default()).await;
    let cases = [
        ("", (400, 922)),
        ("&key=other", (403, 901)),
        ("&key=a%20b", (400, 920)),
        ("&key=sandbox-key", (400, 923)),
        ("&key=sandbox-key&secret=other", (401, 902)),
        ("&key=sandbox-key&secret=a%20b", (400, 921)),
    ];

    for (credentials, expected) in cases {
        assert_eq!(code(&get_bare(&sandbox, &format!("{LIST}{credentials}")).await), expected, "{credentials}");
    }
}

#[tokio::test]
async fn errors_come_in_the_envelope_of_their_family() {
    let sandbox = started(SandboxConfig::default()).await;

    let listing = get(&sandbox, LIST).await;
    let account = get(&sandbox, "/identity/v2/manage/account/ann").await;

    assert_eq!((code(&listing), listing.1.get("ErrorCode")), ((403, 938), None));
    assert_eq!((code(&account), &account.1["IsProviderError"]), ((403, 938), &json!(false)));
    assert_eq!(code(&get(&sandbox, "/identity/v2/manage/account/a%2Fb/role").await), (403, 1200));
    assert_eq!(code(&get(&sandbox, "/api/v2/access_token/activesession?accountid=").await), (403, 908));
    assert_eq!(code(&get(&sandbox, "/api/v2/access_token/activesession?profileid=nobody").await), (403, 937));
    assert_eq!(code(&get(&sandbox, "/api/v2/access_token/invalidate").await), (400, 1060));
    assert_eq!(code(&get(&sandbox, "/api/v2/access_token/invalidate?access_token=x").await), (403, 905));
}

#[tokio::test]
async fn a_long_listing_is_read_page_by_page() {
    let sandbox = started(SandboxConfig { page_size: 2, ..SandboxConfig::default() }).await;
    for _ in 0..5 {
        sandbox.advance(Duration::from_secs(1));
        sandbox.login("ann", None).unwrap();
    }

    let (mut cursor, mut seen) = (0, Vec::new());
    for _ in 0..3 {
        let page = get(
            &sandbox,
            &format!("{LIST}&nextcursor={}", if cursor == 0 { String::new() } else { cursor.to_string() }),
        )
        .await;
        seen.extend(tokens(&page.1).into_iter().map(str::to_owned));
        cursor = page.1["nextCursor"].as_u64().unwrap();
    }

    let mut newest_first: Vec<String> =
        sandbox.sessions("ann").into_iter().map(|session| session.access_token).collect();
    newest_first.reverse();
    assert_eq!((cursor, seen), (0, newest_first));
    assert_eq!(code(&get(&sandbox, &format!("{LIST}&nextcursor=0")).await), (403, 996));
    assert_eq!(code(&get(&sandbox, &format!("{LIST}&nextcursor=5")).await), (403, 997));
}

#[tokio::test]
async fn a_new_session_is_listed_only_after_the_lag() {
    let sandbox = started(SandboxConfig { list_lag: Duration::from_mins(10), ..SandboxConfig::default() }).await;
    sandbox.login("ann", None).unwrap();
    assert_eq!(get(&sandbox, LIST).await.1["data"], json!([]));

    sandbox.advance(Duration::from_mins(10));

    assert_eq!(tokens(&get(&sandbox, LIST).await.1).len(), 1);
}

#[tokio::test]
async fn an_invalidated_token_can_be_refreshed_unless_that_was_prevented() {
    for (prevent, refreshed) in [("", 200), ("&preventRefresh=", 200), ("&preventrefresh=True", 403)] {
        let sandbox = started(SandboxConfig::default()).await;
        let token = sandbox.login("ann", None).unwrap().access_token;
        let path =
            format!("/identity/v2/auth/access_token/InValidate?apikey=sandbox-key&access_token={token}{prevent}");
        assert_eq!(get_bare(&sandbox, &path).await, (200, json!({ "IsPosted": true })));
        assert!(sandbox.sessions("ann").is_empty());

        let path = format!("/api/v2/access_token/refresh?access_token={token}&secret=sandbox-secret");
        assert_eq!(get_bare(&sandbox, &path).await.0, refreshed, "{prevent}");
        assert_eq!(sandbox.report(1).refreshable_after_revocation == 1, refreshed == 200);
    }
}

#[tokio::test]
async fn a_refresh_replaces_or_doubles_the_row_and_keeps_or_renews_its_time() {
    let cases = [
        (RefreshRow::Replace, RefreshTime::Keep, 1, true),
        (RefreshRow::Replace, RefreshTime::Restamp, 1, false),
        (RefreshRow::Duplicate, RefreshTime::Restamp, 2, false),
    ];
    for (refresh_row, refresh_time, rows, same_time) in cases {
        let sandbox = started(SandboxConfig { refresh_row, refresh_time, ..SandboxConfig::default() }).await;
        let old = sandbox.login("ann", None).unwrap();
        sandbox.advance(Duration::from_mins(1));

        let new = sandbox.refresh(&old.access_token).unwrap();

        assert_eq!(tokens(&get(&sandbox, LIST).await.1).len(), rows);
        assert_eq!(new.login_at == old.login_at, same_time);
    }
}

#[tokio::test]
async fn an_expired_token_is_said_to_be_expired_and_its_row_stays_if_so_configured() {
    for (expired_rows, rows) in [(ExpiredRows::Pruned, 0), (ExpiredRows::Listed, 1)] {
        let sandbox = started(SandboxConfig { expired_rows, ..SandboxConfig::default() }).await;
        let token = sandbox.login("ann", None).unwrap().access_token;
        sandbox.advance(Duration::from_hours(24));

        assert_eq!(tokens(&get(&sandbox, LIST).await.1).len(), rows);
        let path = format!("/api/v2/access_token/validate?access_token={token}");
        assert_eq!(code(&get(&sandbox, &path).await), (403, 906));
        assert_eq!(sandbox.report(1).live_sessions, 0);
    }
}

#[tokio::test]
async fn what_the_vendor_leaves_open_is_a_switch() {
    let config = SandboxConfig {
        empty_list: EmptyList::Null,
        unknown_user: UnknownUser::Empty,
        dead_token: DeadToken::Posted,
        row_case: RowCase::Camel,
        login_date: LoginDate::Seconds,
        token_form: TokenForm::Jwe,
        ..SandboxConfig::default()
    };
    let sandbox = started(config).await;
    assert_eq!(get(&sandbox, LIST).await, (200, json!({ "nextCursor": 0, "data": null })));

    let token = sandbox.login("ann", Some("tablet")).unwrap().access_token;

    assert_eq!((token.len(), token.split('.').count()), (820, 5));
    let row = &get(&sandbox, LIST).await.1["data"][0];
    assert_eq!((&row["accesstoken"], &row["deviceType"]), (&json!(token), &json!("Tablet")));
    assert_eq!(row["LoginDate"].as_str().unwrap().len(), "2023-09-15T04:09:41Z".len());
    for _ in 0..2 {
        let path = format!("/api/v2/access_token/invalidate?access_token={token}");
        assert_eq!(get(&sandbox, &path).await, (200, json!({ "IsPosted": true })));
    }
    let sandbox = started(SandboxConfig { empty_list: EmptyList::NoActiveSession, ..SandboxConfig::default() }).await;
    let token = sandbox.login("ann", None).unwrap().access_token;
    sandbox.logout(&token);
    assert_eq!(code(&get(&sandbox, LIST).await), (403, 1055));
}

#[tokio::test]
async fn a_token_tells_whose_it_is() {
    let sandbox = started(SandboxConfig::default()).await;
    let roles = vec!["teacher".to_owned()];
    sandbox.set_traits("ann", Traits { roles, sessions_limit: Some(3), ..Traits::default() }).unwrap();
    let token = sandbox.login("ann", None).unwrap().access_token;

    let url = format!("{}/identity/v2/auth/account?apikey=sandbox-key&fields=Uid,SessionsLimit", sandbox.url());
    let profile: Value = client().get(url).bearer_auth(&token).send().await.unwrap().json().await.unwrap();

    assert_eq!(profile, json!({ "Uid": "ann", "SessionsLimit": 3 }));
    assert_eq!(get(&sandbox, "/identity/v2/manage/account/ann/role").await.1, json!({ "Roles": ["teacher"] }));
    let by_token = format!("/api/v2/access_token/activesession?token={token}");
    assert_eq!(tokens(&get(&sandbox, &by_token).await.1), [&token]);
    let by_profile = format!("/api/v2/access_token/activesession?profileid={}", sandbox.profile_id("ann").unwrap());
    assert_eq!(tokens(&get(&sandbox, &by_profile).await.1), [&token]);
}

#[tokio::test]
async fn several_logins_at_one_instant_show_the_same_time() {
    let sandbox = started(SandboxConfig::default()).await;
    sandbox.login_at_once("ann", &["phone", "laptop", "tv"]).unwrap();

    let page = get(&sandbox, LIST).await.1;

    let rows = page["data"].as_array().unwrap();
    assert!(rows.len() == 3 && rows.iter().all(|row| row["LoginDate"] == rows[0]["LoginDate"]));
}

#[tokio::test]
async fn calls_beyond_the_rate_limit_are_refused() {
    let sandbox = started(SandboxConfig { requests_per_second: Some(0), ..SandboxConfig::default() }).await;

    assert_eq!(code(&get(&sandbox, LIST).await), (429, 429));
    assert_eq!(sandbox.report(1).answers, [("list 429".to_owned(), 1)].into());
}

#[tokio::test]
async fn control_routes_answer_no_rebound_name_and_no_foreign_page() {
    let sandbox = started(SandboxConfig::default()).await;
    let url = format!("{}/_sandbox/reset", sandbox.url());
    let status = async |name: &'static str, value: &'static str| {
        client().post(&url).header(name, value).send().await.unwrap().status().as_u16()
    };
    sandbox.login("ann", None).unwrap();

    assert_eq!(status("host", "rebound.example:9900").await, 403);
    assert_eq!(status("origin", "https://page.example").await, 403);
    assert_eq!(status("origin", "null").await, 403);
    assert_eq!(sandbox.report(1).users, 1);
    assert_eq!(status("host", "localhost:9900").await, 204);
    assert_eq!(sandbox.report(1).users, 0);
}

#[tokio::test]
async fn webhooks_can_be_lost_or_sent_twice_and_are_never_tried_again() {
    let (url, mut received, _tasks) = receiver().await;
    let missing = url.replace("/hook", "/missing");
    let sandbox = started(SandboxConfig { webhook: Some(missing), ..SandboxConfig::default() }).await;
    sandbox.login("ann", None).unwrap();
    sandbox.set_webhook_url(Some(&url)).unwrap();
    sandbox.set_faults(Faults { webhooks_dropped_percent: 100.0, ..Faults::default() });
    assert_eq!(sandbox.login("ann", None).unwrap().webhook, WebhookFate::Dropped);
    sandbox.set_faults(Faults { webhooks_duplicated_percent: 100.0, ..Faults::default() });
    assert_eq!(sandbox.login("ann", None).unwrap().webhook, WebhookFate::Queued);
    sandbox.webhooks_settled().await;

    let (first, second) = (received.recv().await.unwrap(), received.recv().await.unwrap());

    assert_eq!((&first.1, &first.0["signature"]), (&second.1, &second.0["signature"]));
    assert!(received.try_recv().is_err());
    let webhooks = sandbox.report(1).webhooks;
    assert_eq!((webhooks.queued, webhooks.dropped, webhooks.pending), (2, 1, 0));
    assert_eq!(webhooks.outcomes, [("202".to_owned(), 2), ("404".to_owned(), 1)].into());
}

#[tokio::test]
async fn two_sandboxes_of_one_seed_play_the_same_world() {
    let play = async || {
        let starts_at = Some("2030-01-01T00:00:00Z".parse().unwrap());
        let sandbox = started(SandboxConfig { starts_at, seed: 7, ..SandboxConfig::default() }).await;
        ["ann", "bob", "ann"].map(|uid| sandbox.login(uid, None).unwrap()).map(|made| (made.session, made.device))
    };

    assert_eq!(play().await, play().await);
}

#[tokio::test]
async fn a_whole_run_ends_with_its_shutdown() {
    soloist::sandbox::run(SandboxConfig::default(), async {}).await.unwrap();
}
