//! The sandbox over HTTP, as the vendor's clients see it.

use axum::{Router, body::Bytes, extract::State, http::HeaderMap, http::StatusCode, routing::post};
use serde_json::{Value, json};
use soloist::sandbox::{Sandbox, SandboxConfig};
use tokio::{net::TcpListener, sync::mpsc, task::JoinSet};

/// A client that trusts nobody, so that it can be built where there are no certificates.
fn client() -> reqwest::Client {
    reqwest::Client::builder().tls_certs_only([]).no_proxy().build().unwrap()
}

async fn started(config: SandboxConfig) -> Sandbox {
    Sandbox::start(config).await.unwrap()
}

/// Status and body of a GET with the credentials in headers.
async fn get(sandbox: &Sandbox, path_and_query: &str) -> (u16, Value) {
    let request = client()
        .get(format!("{}{path_and_query}", sandbox.url()))
        .header("X-LoginRadius-ApiKey", "sandbox-key")
        .header("X-LoginRadius-ApiSecret", "sandbox-secret");
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

/// Status and body of a GET without any header.
async fn get_bare(sandbox: &Sandbox, path_and_query: &str) -> (u16, Value) {
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
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((&body["HookName"], &body["Data"]["Uid"]), (&json!("login"), &json!("ann")));
    assert_eq!(headers["signature"].len(), 64);
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
