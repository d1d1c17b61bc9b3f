//! What a sender of webhook requests sees: every answer, and the metric that counts it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Body;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;
use soloist::clock::Clock;
use soloist::model::{Lane, LoginEvent, TenantId};
use soloist::queue::{LaneStats, Published, Queue, QueueError, Subscription};
use soloist::sandbox::SandboxConfig;
use soloist::telemetry::Metrics;
use soloist::webhook::{self, WebhookLimits, WebhookTenant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tower::ServiceExt as _;

use crate::support::service::{API_SECRET, Service};
use crate::support::soon;

fn signature(body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(API_SECRET.as_bytes()).unwrap();
    mac.update(body);
    hex::encode_upper(mac.finalize().into_bytes())
}

fn login_body(id: &str) -> String {
    json!({ "HookName": "login", "HookId": id, "Time": "2026-01-01T00:00:00Z", "Data": { "Uid": "ann" } }).to_string()
}

async fn post(service: &Service, path: &str, body: &str, signature: &str) -> (u16, Value) {
    let request = service.client.post(format!("{}{path}", service.webhook_url)).body(body.to_owned());
    let response = request.header("content-type", "application/json; charset=utf-8").header("signature", signature);
    let response = soon("an answer", response.send()).await.unwrap();
    let status = response.status().as_u16();
    (status, response.json().await.unwrap())
}

fn refused(reason: &str) -> String {
    format!("soloist_events_refused_total{{reason=\"{reason}\"}}")
}

#[tokio::test]
async fn every_answer_says_what_is_wrong_and_is_counted() {
    let service = Service::start().await;
    let login = login_body("h1");
    let large = format!("{{\"HookName\":\"login\",\"x\":\"{}\"}}", "x".repeat(300 * 1024));
    let broken = "{\"HookName\":\"login\",";
    let other = json!({ "HookName": "Register", "Data": { "Uid": "ann" } }).to_string();
    for (path, body, signature, status, problem) in [
        ("", login.as_str(), "00".repeat(32), 401, "unauthentic"),
        ("", large.as_str(), signature(large.as_bytes()), 413, "too_large"),
        ("", broken, signature(broken.as_bytes()), 400, "malformed"),
        ("/nobody", login.as_str(), signature(login.as_bytes()), 401, "unauthentic"),
        ("/%ff%fe", login.as_str(), signature(login.as_bytes()), 401, "unauthentic"),
    ] {
        let (got, answer) = post(&service, path, body, &signature).await;
        assert_eq!((got, &answer["type"]), (status, &json!(format!("urn:soloist:problem:{problem}"))), "{answer}");
        assert!(answer["detail"].as_str().unwrap().len() > 20, "{answer}");
        assert!(service.metric(&refused(problem)) >= 1, "{problem}");
    }
    let (status, answer) = post(&service, "", &other, &signature(other.as_bytes())).await;
    assert_eq!((status, answer), (200, json!({ "ignored": "Register" })));
    assert_eq!(service.metric("soloist_events_ignored_total{tenant=\"default\"}"), 1);
    assert_eq!(service.metric(&refused("unauthentic")), 3);
    assert_eq!(service.queued().await, (0, 0, 0));
    service.stop().await;
}

#[tokio::test]
async fn a_login_is_accepted_and_its_repetition_is_accepted_but_not_queued() {
    let service = Service::start().await;
    let body = login_body("h1");
    for _ in 0..2 {
        let (status, answer) = post(&service, "", &body, &signature(body.as_bytes())).await;
        assert_eq!((status, answer), (202, json!({ "id": "h1", "accepted_via": "journal" })));
    }
    assert_eq!(service.metric("soloist_events_accepted_total{tenant=\"default\",via=\"journal\"}"), 1);
    assert_eq!(service.metric("soloist_events_duplicate_total{tenant=\"default\"}"), 1);
    service.stop().await;
}

#[tokio::test]
async fn a_foreign_media_type_or_encoding_is_refused() {
    let service = Service::start().await;
    let body = login_body("h1");
    for (name, value) in [("content-type", "text/plain"), ("content-encoding", "gzip")] {
        let request = service.client.post(&service.webhook_url).body(body.clone());
        let request = request.header(name, value).header("signature", signature(body.as_bytes()));
        assert_eq!(request.send().await.unwrap().status(), 415, "{name}: {value}");
    }
    let request = service.client.post(&service.webhook_url).body(body.clone());
    let untyped = request.header("signature", signature(body.as_bytes())).send().await.unwrap();
    assert_eq!(untyped.status(), 202, "a missing media type is no reason to lose a login");
    service.stop().await;
}

#[tokio::test]
async fn slow_clients_are_cut_off_while_others_are_served() {
    let service = Service::start_with(
        SandboxConfig::default(),
        &[("SOLOIST_WEBHOOK__HEADER_TIMEOUT", "200ms"), ("SOLOIST_WEBHOOK__BODY_TIMEOUT", "200ms")],
    )
    .await;
    let addr = service.webhook_url.split('/').nth(2).unwrap().to_owned();
    let mut silent = tokio::net::TcpStream::connect(&addr).await.unwrap();
    let mut headers = tokio::net::TcpStream::connect(&addr).await.unwrap();
    headers.write_all(b"POST /webhooks/loginradius HTTP/1.1\r\nhost: x\r\n").await.unwrap();
    let mut body = tokio::net::TcpStream::connect(&addr).await.unwrap();
    let head = b"POST /webhooks/loginradius HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{";
    body.write_all(head).await.unwrap();

    let (status, _) = post(&service, "", &login_body("h1"), &signature(login_body("h1").as_bytes())).await;
    assert_eq!(status, 202);

    let (mut headers_answer, mut body_answer) = (Vec::new(), Vec::new());
    soon("the silent one's cut", silent.read_to_end(&mut Vec::new())).await.ok();
    soon("the cut", headers.read_to_end(&mut headers_answer)).await.ok();
    soon("408", body.read_to_end(&mut body_answer)).await.ok();
    assert!(!headers_answer.starts_with(b"HTTP/1.1 2"));
    assert!(body_answer.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&body_answer));
    assert_eq!(service.metric(&refused("slow")), 1);
    service.stop().await;
}

#[tokio::test]
async fn a_connection_that_was_used_may_rest_longer_than_the_header_deadline() {
    let service = Service::start_with(SandboxConfig::default(), &[("SOLOIST_WEBHOOK__HEADER_TIMEOUT", "100ms")]).await;
    let addr = service.webhook_url.split('/').nth(2).unwrap().to_owned();
    let mut connection = tokio::net::TcpStream::connect(&addr).await.unwrap();
    let request = b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut answer = [0; 1024];
    connection.write_all(request).await.unwrap();
    let read = soon("the first answer", connection.read(&mut answer)).await.unwrap();
    assert!(answer[..read].starts_with(b"HTTP/1.1 200"));

    let rested = tokio::time::timeout(Duration::from_millis(400), connection.read(&mut answer)).await;

    assert!(rested.is_err(), "it was closed while it rested: a login sent at that moment would be lost");
    connection.write_all(request).await.unwrap();
    let read = soon("the second answer", connection.read(&mut answer)).await.unwrap();
    assert!(answer[..read].starts_with(b"HTTP/1.1 200"));
    service.stop().await;
}

#[tokio::test]
async fn http_2_is_spoken_too() {
    let service = Service::start().await;
    let client = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
    let body = login_body("h1");
    let request = client.post(&service.webhook_url).body(body.clone()).header("signature", signature(body.as_bytes()));
    let response = soon("an answer", request.send()).await.unwrap();
    assert_eq!((response.status().as_u16(), response.version()), (202, reqwest::Version::HTTP_2));
    service.stop().await;
}

#[tokio::test]
async fn the_webhook_listener_speaks_tls_from_files() {
    let folder = tempfile::tempdir().unwrap();
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&cert, certified.cert.pem()).unwrap();
    std::fs::write(&key, certified.signing_key.serialize_pem()).unwrap();
    let service = Service::start_with(
        SandboxConfig::default(),
        &[("SOLOIST_WEBHOOK__TLS_CERT", cert.to_str().unwrap()), ("SOLOIST_WEBHOOK__TLS_KEY", key.to_str().unwrap())],
    )
    .await;
    let trusted = reqwest::Certificate::from_pem(certified.cert.pem().as_bytes()).unwrap();
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([trusted]).build().unwrap();
    let url = service.webhook_url.replace("http://127.0.0.1", "https://localhost");
    let body = login_body("h1");
    let request = client.post(url).body(body.clone()).header("signature", signature(body.as_bytes()));
    assert_eq!(soon("an answer", request.send()).await.unwrap().status(), 202);
    service.stop().await;
}

#[tokio::test]
async fn the_admin_api_wants_its_key_its_host_and_no_foreign_page() {
    let service = Service::start().await;
    let url = format!("{}/admin/v1/status", service.admin_url);
    let key = service.admin_key.clone();
    let get =
        |change: &dyn Fn(reqwest::RequestBuilder) -> reqwest::RequestBuilder| change(service.client.get(&url)).send();
    assert_eq!(get(&|r| r.bearer_auth(&key)).await.unwrap().status(), 200);
    assert_eq!(get(&|r| r).await.unwrap().status(), 401);
    assert_eq!(get(&|r| r.bearer_auth("wrong")).await.unwrap().status(), 401);
    assert_eq!(get(&|r| r.bearer_auth(&key).header("host", "evil.example")).await.unwrap().status(), 403);
    assert_eq!(get(&|r| r.bearer_auth(&key).header("origin", "https://evil.example")).await.unwrap().status(), 403);
    assert_eq!(get(&|r| r.bearer_auth(&key).header("sec-fetch-site", "cross-site")).await.unwrap().status(), 403);
    let metrics = service.client.get(format!("{}/metrics", service.admin_url)).send().await.unwrap();
    assert!(metrics.text().await.unwrap().contains("soloist_queue_messages"));
    let mode =
        std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(service.data_dir.path().join("admin.key")).unwrap());
    assert_eq!(mode & 0o777, 0o600);
    service.stop().await;
}

/// Calls a route of the private listener with the key, under a host of one's own.
async fn called_as(service: &Service, host: &str, path: &str) -> u16 {
    let request = service.client.get(format!("{}{path}", service.admin_url)).bearer_auth(&service.admin_key);
    soon("an answer", request.header("host", host).send()).await.unwrap().status().as_u16()
}

#[tokio::test]
async fn no_route_of_the_private_listener_answers_under_a_foreign_name() {
    let service = Service::start().await;
    for path in ["/metrics", "/readyz", "/livez", "/admin/v1/status"] {
        for (host, status) in [("localhost:1", 200), ("[::1]", 200), ("192.0.2.7:8081", 403), ("evil.example", 403)] {
            assert_eq!(called_as(&service, host, path).await, status, "{host} {path}");
        }
    }
    service.stop().await;
}

#[tokio::test]
async fn a_private_listener_for_other_machines_answers_under_every_address_but_no_name() {
    let service = Service::start_with(SandboxConfig::default(), &[("SOLOIST_ADMIN__INSECURE", "true")]).await;
    for path in ["/metrics", "/readyz", "/admin/v1/status"] {
        for (host, status) in [("192.0.2.7:8081", 200), ("[2001:db8::1]:8081", 200), ("evil.example", 403)] {
            assert_eq!(called_as(&service, host, path).await, status, "{host} {path}");
        }
    }
    service.stop().await;
}

/// A queue whose disk never answers, or that is full.
struct StuckQueue {
    full: bool,
}

#[async_trait]
impl Queue for StuckQueue {
    async fn publish(&self, _: &[LoginEvent]) -> Result<Published, QueueError> {
        if self.full { Err(QueueError::Full { messages_max: 1 }) } else { std::future::pending().await }
    }
    async fn subscribe(&self, _: &TenantId, _: Lane, _: usize) -> Result<Arc<dyn Subscription>, QueueError> {
        Err(QueueError::StaleTag)
    }
    async fn check(&self) -> Result<(), QueueError> {
        Ok(())
    }
    async fn stats(&self) -> Result<Vec<LaneStats>, QueueError> {
        Ok(Vec::new())
    }
}

fn stuck_router(full: bool, in_flight_max: usize) -> axum::Router {
    router_with(full, in_flight_max, WebhookLimits::BUFFER_KIB_MAX)
}

fn router_with(full: bool, in_flight_max: usize, buffer_kib_max: usize) -> axum::Router {
    let tenant = WebhookTenant { id: TenantId::default_tenant(), secrets: vec![API_SECRET.as_bytes().to_vec()] };
    let limits =
        WebhookLimits { body_bytes_max: 1024, body_timeout: Duration::from_secs(5), in_flight_max, buffer_kib_max };
    webhook::router(vec![tenant], Arc::new(StuckQueue { full }), limits, Clock::start(), Metrics::new())
}

fn signed_request() -> axum::extract::Request {
    let body = login_body("h1");
    let request = axum::extract::Request::post("/webhooks/loginradius").header("signature", signature(body.as_bytes()));
    request.body(Body::from(body)).unwrap()
}

#[tokio::test]
async fn more_waiting_requests_than_the_limit_are_refused_at_once() {
    let router = stuck_router(false, 2);
    let mut waiting: tokio::task::JoinSet<_> = (0..2).map(|_| router.clone().oneshot(signed_request())).collect();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let refused = soon("a refusal", router.oneshot(signed_request())).await.unwrap();
    assert_eq!((refused.status().as_u16(), refused.headers().contains_key("retry-after")), (503, true));
    assert!(waiting.try_join_next().is_none(), "the first two still wait for the disk");
}

#[tokio::test]
async fn a_full_queue_is_answered_503() {
    let refused = stuck_router(true, 2).oneshot(signed_request()).await.unwrap();
    assert_eq!(refused.status(), 503);
}

#[tokio::test]
async fn bodies_beyond_the_memory_for_them_are_refused() {
    let refused = router_with(true, 2, 0).oneshot(signed_request()).await.unwrap();
    let body = axum::body::to_bytes(refused.into_body(), 10_000).await.unwrap();
    assert!(String::from_utf8_lossy(&body).contains("urn:soloist:problem:busy"));
}

#[tokio::test]
async fn a_body_in_many_small_pieces_takes_no_more_memory_than_its_bytes() {
    let body = login_body("h1");
    let pieces: Vec<Result<_, std::io::Error>> = body.bytes().map(|byte| Ok(vec![byte])).collect();
    let request = axum::extract::Request::post("/webhooks/loginradius").header("signature", signature(body.as_bytes()));
    let request = request.body(Body::from_stream(futures_util::stream::iter(pieces))).unwrap();

    let answer = router_with(true, 2, 1).oneshot(request).await.unwrap();

    let text = axum::body::to_bytes(answer.into_body(), 10_000).await.unwrap();
    assert!(String::from_utf8_lossy(&text).contains("queue_full"), "one KiB is enough for it");
}
