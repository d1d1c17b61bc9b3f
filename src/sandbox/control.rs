//! `/_sandbox/…`: log users in and out, set faults, read the report. For this machine only.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{ConnectInfo, DefaultBodyLimit, Path, Query, Request, State},
    http::{HeaderMap, StatusCode, Uri, header},
    middleware::{Next, from_fn},
    response::{Html, IntoResponse, Response},
    routing::{get, post, put},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    Shared, faults::Faults, line::Peer, login_made, report::Keep, user::Traits, webhooks::WebhookFate,
    world::LoginError,
};

/// Listings tell times to the millisecond: with this each login of a request is newer than the one before.
const BETWEEN_LOGINS: Duration = Duration::from_millis(1);
/// The largest request that a control route reads.
const BODY_BYTES_MAX: usize = 65_536;
/// Logins that one request may make.
const LOGINS_PER_REQUEST_MAX: u32 = 10_000;

/// A page that logs in here and asks a service on this machine. It runs the script of that service and of nobody else.
const APP: &str = include_str!("app.html");
const APP_MAY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; \
    script-src 'unsafe-inline' http://127.0.0.1:* http://localhost:*; \
    connect-src 'self' http://127.0.0.1:* http://localhost:*; \
    form-action 'none'; base-uri 'none'; frame-ancestors 'none'";

/// The control routes, to be put beside the vendor's.
pub(super) fn router() -> Router<Arc<Shared>> {
    Router::new()
        .route("/_sandbox", get(help))
        .route("/_sandbox/app", get(app))
        .route("/_sandbox/login", post(login))
        .route("/_sandbox/logout", post(logout))
        .route("/_sandbox/refresh", post(refresh))
        .route("/_sandbox/sessions/{uid}", get(sessions))
        .route("/_sandbox/users/{uid}", put(set_traits))
        .route("/_sandbox/faults", get(faults).put(set_faults).delete(clear_faults))
        .route("/_sandbox/webhook", get(webhook).put(set_webhook))
        .route("/_sandbox/report", get(report))
        .route("/_sandbox/advance", post(advance))
        .route("/_sandbox/reset", post(reset))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(from_fn(only_this_machine))
}

fn is_loopback_name(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || matches!(name, "127.0.0.1" | "::1")
}

/// Refuses other machines, and web pages of other origins that had a browser on this one send something: those give
/// themselves away by `Host` (DNS rebinding) or `Origin`.
fn is_from_this_machine(peer: Option<&Peer>, headers: &HeaderMap, uri: &Uri) -> bool {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let host = text(header::HOST).or_else(|| uri.host()).unwrap_or_default();
    let origin_is_ours = match text(header::ORIGIN) {
        None => !headers.contains_key(header::ORIGIN),
        Some(origin) => origin.split_once("://").is_some_and(|(_, host)| is_loopback_name(host)),
    };
    peer.is_some_and(|peer| peer.addr.ip().to_canonical().is_loopback()) && is_loopback_name(host) && origin_is_ours
}

async fn only_this_machine(request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<ConnectInfo<Peer>>().map(|info| &info.0);
    if is_from_this_machine(peer, request.headers(), request.uri()) {
        next.run(request).await
    } else {
        problem(StatusCode::FORBIDDEN, "control routes answer this machine only")
    }
}

fn problem(status: StatusCode, text: &str) -> Response {
    (status, Json(json!({ "error": text }))).into_response()
}

async fn help(State(shared): State<Arc<Shared>>) -> Json<Value> {
    Json(json!({
        "what": "a LoginRadius emulator; nothing in it is real",
        "now": shared.clock.now(),
        "webhook": shared.webhooks.target(),
        "devices": super::device::device_names().collect::<Vec<_>>(),
        "routes": [
            "GET /_sandbox/app?soloist=http://127.0.0.1:8080",
            "POST /_sandbox/login {uid, device?, count?, webhook?}",
            "POST /_sandbox/logout {access_token} or {uid}",
            "POST /_sandbox/refresh {access_token}",
            "GET /_sandbox/sessions/{uid}?ended=true",
            "PUT /_sandbox/users/{uid} {roles, custom_fields, sessions_limit, email}",
            "GET, PUT, DELETE /_sandbox/faults",
            "GET, PUT /_sandbox/webhook {url}",
            "GET /_sandbox/report?limit=1&keep=newest",
            "POST /_sandbox/advance {milliseconds}",
            "POST /_sandbox/reset",
        ],
    }))
}

async fn app() -> impl IntoResponse {
    ([(header::CONTENT_SECURITY_POLICY, APP_MAY), (header::CACHE_CONTROL, "no-store")], Html(APP))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LoginBody {
    uid: String,
    device: Option<String>,
    #[serde(default = "one")]
    count: u32,
    #[serde(default = "yes")]
    webhook: bool,
}

fn one() -> u32 {
    1
}

fn yes() -> bool {
    true
}

/// Several logins of one request happen at the same instant.
async fn login(State(shared): State<Arc<Shared>>, Json(body): Json<LoginBody>) -> Response {
    if body.count > LOGINS_PER_REQUEST_MAX {
        return problem(StatusCode::BAD_REQUEST, "count is at most 10000");
    }
    let login = |_| {
        let now = shared.clock.now();
        shared.clock.advance(BETWEEN_LOGINS);
        shared.login(&body.uid, body.device.as_deref(), body.webhook, now)
    };
    let logins: Result<Vec<_>, _> = (0..body.count).map(login).collect();
    match logins {
        Ok(logins) => Json(json!({ "logins": logins })).into_response(),
        Err(error @ LoginError::Limited) => problem(StatusCode::FORBIDDEN, &error.to_string()),
        Err(error) => problem(StatusCode::BAD_REQUEST, &error.to_string()),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LogoutBody {
    access_token: Option<String>,
    uid: Option<String>,
}

async fn logout(State(shared): State<Arc<Shared>>, Json(body): Json<LogoutBody>) -> Response {
    let now = shared.clock.now();
    let mut tokens: Vec<String> = body.access_token.into_iter().collect();
    if let Some(uid) = body.uid {
        tokens.extend(shared.sessions(&uid, false, now).into_iter().map(|session| session.access_token));
    }
    let mut world = shared.world();
    let logged_out = tokens.iter().filter(|token| world.logout(token, now)).count();
    Json(json!({ "logged_out": logged_out })).into_response()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RefreshBody {
    access_token: String,
}

async fn refresh(State(shared): State<Arc<Shared>>, Json(body): Json<RefreshBody>) -> Response {
    let now = shared.clock.now();
    let refreshed = shared.world().refresh(&body.access_token, now);
    match refreshed {
        Ok(session) => Json(login_made(&session, WebhookFate::NotSent)).into_response(),
        Err(_) => problem(StatusCode::CONFLICT, "this token cannot be refreshed"),
    }
}

#[derive(Deserialize)]
struct SessionsQuery {
    #[serde(default)]
    ended: bool,
}

async fn sessions(
    State(shared): State<Arc<Shared>>,
    Path(uid): Path<String>,
    Query(query): Query<SessionsQuery>,
) -> Response {
    Json(json!({ "sessions": shared.sessions(&uid, query.ended, shared.clock.now()) })).into_response()
}

async fn set_traits(
    State(shared): State<Arc<Shared>>,
    Path(uid): Path<String>,
    Json(traits): Json<Traits>,
) -> Response {
    let now = shared.clock.now();
    let set = shared.world().set_traits(&uid, traits, now);
    match set {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => problem(StatusCode::BAD_REQUEST, &error.to_string()),
    }
}

async fn faults(State(shared): State<Arc<Shared>>) -> Json<Faults> {
    Json(shared.dice().faults().clone())
}

async fn set_faults(State(shared): State<Arc<Shared>>, Json(faults): Json<Faults>) -> Json<Faults> {
    shared.set_faults(faults.clone());
    Json(faults)
}

async fn clear_faults(State(shared): State<Arc<Shared>>) -> Json<Faults> {
    set_faults(State(shared), Json(Faults::default())).await
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WebhookBody {
    url: Option<String>,
}

async fn webhook(State(shared): State<Arc<Shared>>) -> Json<WebhookBody> {
    Json(WebhookBody { url: shared.webhooks.target() })
}

async fn set_webhook(State(shared): State<Arc<Shared>>, Json(body): Json<WebhookBody>) -> Response {
    match shared.webhooks.set_target(body.url.as_deref()) {
        Ok(()) => Json(WebhookBody { url: shared.webhooks.target() }).into_response(),
        Err(error) => problem(StatusCode::BAD_REQUEST, &format!("{error:#}")),
    }
}

#[derive(Deserialize)]
struct ReportQuery {
    limit: Option<usize>,
    #[serde(default)]
    keep: Keep,
}

async fn report(State(shared): State<Arc<Shared>>, Query(query): Query<ReportQuery>) -> Response {
    Json(shared.report(query.limit.unwrap_or(1), query.keep)).into_response()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AdvanceBody {
    milliseconds: u64,
}

async fn advance(State(shared): State<Arc<Shared>>, Json(body): Json<AdvanceBody>) -> Json<Timestamp> {
    shared.clock.advance(Duration::from_millis(body.milliseconds));
    Json(shared.clock.now())
}

async fn reset(State(shared): State<Arc<Shared>>) -> StatusCode {
    shared.reset();
    StatusCode::NO_CONTENT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_the_loopback_address_are_hosts_of_this_machine() {
        let ours = ["localhost", "LOCALHOST:9900", "127.0.0.1:9900", "[::1]:9900"];
        let others = ["", "rebound.example", "127.0.0.1.rebound.example", "localhost.rebound.example:9900", "[::2]"];

        assert!(ours.iter().all(|host| is_loopback_name(host)));
        assert!(!others.iter().any(|host| is_loopback_name(host)));
    }

    #[test]
    fn the_page_writes_no_markup_and_keeps_no_token() {
        for bad in
            ["innerHTML", "outerHTML", "insertAdjacent", "document.write", "localStorage", "sessionStorage", "eval("]
        {
            assert!(!APP.contains(bad), "{bad}");
        }
    }
}
