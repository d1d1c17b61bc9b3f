//! The session API as the service runs it, and the least that a handler does which lets the same callers in.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::response::IntoResponse;
use axum::routing::post;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use soloist::app;
use soloist::config::{Config, ConfigSources};
use soloist::model::SessionId;
use soloist::telemetry;
use subtle::ConstantTimeEq as _;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::child::{self, memory_mib};
use super::server::Server;

pub(crate) const APP_KEY: &str = "slk_of-the-bench";
/// Requests a second that no load here comes near to: the limits count, and refuse nobody.
const UNREACHED: NonZeroU32 = NonZeroU32::new(1_000_000).unwrap();
/// As the service has it.
const BODY_BYTES_MAX: usize = 16 * 1024;
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs the whole service in this process until its input ends. It says where it listens, and when it is asked how much
/// memory it takes.
pub(crate) async fn serve(folder: &str, api_url: &str) -> anyhow::Result<()> {
    let config = config(folder, api_url)?;
    telemetry::set_up_logs(&config.telemetry)?;
    let app = app::build(&config).await?;
    println!("{}", app.webhook_addr().context("it takes no webhooks")?);
    let (stop, mut running) = (CancellationToken::new(), JoinSet::new());
    running.spawn(app.run(stop.clone()));
    let mut asked = child::input();
    while asked.recv().await.is_some() {
        println!("{}", memory_mib("VmRSS")?);
    }
    stop.cancel();
    while let Some(ended) = running.join_next().await {
        ended??;
    }
    Ok(())
}

fn config(folder: &str, api_url: &str) -> anyhow::Result<Config> {
    let sha256 = hex::encode(Sha256::digest(APP_KEY.as_bytes()));
    let keys = format!(r#"[{{name = "bench", sha256 = "{sha256}", scopes = ["checkpoint", "verdict"]}}]"#);
    let unreached = UNREACHED.to_string();
    let set = |(name, value): (&str, &str)| (format!("SOLOIST_{name}"), value.to_owned());
    let env: BTreeMap<String, String> = [
        ("DATA_DIR", folder),
        ("WEBHOOK__LISTEN", "127.0.0.1:0"),
        ("ADMIN__LISTEN", "127.0.0.1:0"),
        ("LOGINRADIUS__API_URL", api_url),
        ("LOGINRADIUS__API_KEY", "sandbox-key"),
        ("LOGINRADIUS__API_SECRET", "sandbox-secret"),
        ("LOGINRADIUS__REQUESTS_PER_SECOND", "unlimited"),
        ("LEDGER__DECISIONS_MAX", "2000000"),
        ("TELEMETRY__LOG", "warn"),
        ("API__KEYS", &keys),
        ("API__STREAMS_MAX", "16384"),
        ("API__KEY_REQUESTS_PER_SECOND", &unreached),
        ("API__TOKEN_REQUESTS_PER_SECOND", "1000"),
        ("API__ADDRESS_REQUESTS_PER_SECOND", &unreached),
    ]
    .map(set)
    .into();
    Ok(Config::load(&ConfigSources { file: None, default_file: None, env })?)
}

struct Bare {
    key: [u8; 32],
    limit: DefaultKeyedRateLimiter<usize>,
    answer: String,
}

#[derive(Deserialize)]
struct Asked {
    session: String,
}

/// Answers every question about a session with this text: key, limit and body are checked as in the service, by the
/// shortest way, behind the same listener.
pub(crate) async fn bare(answer: &str) -> anyhow::Result<()> {
    let key = Sha256::digest(APP_KEY.as_bytes()).into();
    let limit = RateLimiter::keyed(Quota::per_second(UNREACHED));
    let bare = Arc::new(Bare { key, limit, answer: answer.to_owned() });
    let server = Server::of(Router::new().route("/v1/verdict", post(constant)).with_state(bare))?;
    let mut input = child::input();
    while input.recv().await.is_some() {}
    server.stop().await
}

async fn constant(
    State(bare): State<Arc<Bare>>,
    headers: HeaderMap,
    request: Request,
) -> Result<impl IntoResponse, StatusCode> {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    let digest: [u8; 32] = Sha256::digest(bearer.ok_or(StatusCode::UNAUTHORIZED)?.as_bytes()).into();
    if !bool::from(bare.key.ct_eq(&digest)) {
        return Err(StatusCode::UNAUTHORIZED);
    }
    bare.limit.check_key(&0).map_err(|_not_until| StatusCode::TOO_MANY_REQUESTS)?;
    if headers.get(header::CONTENT_TYPE).is_none_or(|value| value != "application/json") {
        return Err(StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
    let read = timeout(BODY_TIMEOUT, to_bytes(request.into_body(), BODY_BYTES_MAX)).await;
    let body = read.map_err(|_late| StatusCode::REQUEST_TIMEOUT)?.map_err(|_too_many| StatusCode::PAYLOAD_TOO_LARGE)?;
    let asked: Asked = serde_json::from_slice(&body).map_err(|_wrong| StatusCode::BAD_REQUEST)?;
    SessionId::parse(&asked.session).map_err(|_grammar| StatusCode::BAD_REQUEST)?;
    Ok(([(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")], bare.answer.clone()))
}
