//! Stage 1: authenticate a webhook request, take from it what is needed, make it durable, answer 202.

mod body;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::BodyExt as _;
use sha2::Sha256;
use tokio::sync::Semaphore;

use self::body::Buffered;
use crate::clock::Clock;
use crate::http::Problem;
use crate::message::{self, WebhookBody};
use crate::model::{LoginEvent, TenantId};
use crate::queue::{Queue, QueueError};
use crate::telemetry::{Metrics, causes, labels};

/// LoginRadius signs with this header: the upper-case hex of HMAC-SHA256 over the raw body.
const SIGNATURE: &str = "signature";
/// How long an event may wait for the disk. It may still become durable after that, which is harmless.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(10);
/// What a refused sender is asked to wait. LoginRadius does not come again; other gateways do.
const RETRY_AFTER_SECONDS: u32 = 5;

/// One tenant's way in.
pub struct WebhookTenant {
    pub id: TenantId,
    /// Any of them may have signed. LoginRadius uses the secret as text, however it looks.
    pub secrets: Vec<Vec<u8>>,
}

/// Limits of a webhook request.
#[derive(Clone, Copy, Debug)]
pub struct WebhookLimits {
    pub body_bytes_max: usize,
    pub body_timeout: Duration,
    /// Complete bodies that may wait for the disk.
    pub in_flight_max: usize,
    /// What all bodies together may take while they arrive and wait, in KiB.
    pub buffer_kib_max: usize,
}

impl WebhookLimits {
    /// 256 MiB: every place in flight filled with a body of 64 KiB, twenty times that of a login.
    pub const BUFFER_KIB_MAX: usize = 256 * 1024;
}

struct Webhook {
    tenants: BTreeMap<TenantId, Vec<Hmac<Sha256>>>,
    /// Keys an HMAC for tenants that do not exist, so that they are not told apart by time.
    nobody: Vec<Hmac<Sha256>>,
    queue: Arc<dyn Queue>,
    in_flight: Semaphore,
    /// Each permit is a KiB.
    buffer_kib: Semaphore,
    limits: WebhookLimits,
    clock: Clock,
    metrics: Metrics,
}

/// `POST /webhooks/loginradius` and `/webhooks/loginradius/{tenant}`.
pub fn router(
    tenants: Vec<WebhookTenant>,
    queue: Arc<dyn Queue>,
    limits: WebhookLimits,
    clock: Clock,
    metrics: Metrics,
) -> Router {
    for reason in REASONS {
        metrics.events_refused.get_or_create(&labels([("reason", reason)])).inc_by(0);
    }
    let keys = |secrets: Vec<Vec<u8>>| secrets.iter().filter_map(|secret| keyed(secret)).collect::<Vec<_>>();
    let webhook = Webhook {
        tenants: tenants.into_iter().map(|tenant| (tenant.id, keys(tenant.secrets))).collect(),
        nobody: keys(vec![b"nobody".to_vec()]),
        queue,
        in_flight: Semaphore::new(limits.in_flight_max),
        buffer_kib: Semaphore::new(limits.buffer_kib_max),
        limits,
        clock,
        metrics,
    };
    Router::new()
        .route("/webhooks/loginradius", post(receive_default))
        .route("/webhooks/loginradius/{tenant}", post(receive_for))
        .with_state(Arc::new(webhook))
}

async fn receive_default(State(webhook): State<Arc<Webhook>>, request: Request) -> Response {
    answer(&webhook, TenantId::DEFAULT, request).await
}

async fn receive_for(
    State(webhook): State<Arc<Webhook>>,
    tenant: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    // A segment that is no text names no tenant, and is answered as every other that does not.
    let tenant = tenant.map_or_else(|_no_text| String::new(), |Path(tenant)| tenant);
    answer(&webhook, &tenant, request).await
}

async fn answer(webhook: &Webhook, tenant: &str, request: Request) -> Response {
    match webhook.receive(tenant, request).await {
        Ok(response) => response,
        Err(error) => {
            webhook.metrics.events_refused.get_or_create(&labels([("reason", error.reason())])).inc();
            let (reason, status) = (error.reason(), error.status());
            if status.is_server_error() {
                tracing::error!(reason, "a login event is refused: {}", causes(&error));
            } else {
                tracing::info!(reason, "a webhook request is refused: {error}");
            }
            error.into_response()
        }
    }
}

impl Webhook {
    async fn receive(&self, tenant: &str, request: Request) -> Result<Response, WebhookError> {
        let (head, body) = request.into_parts();
        check_media_type(&head.headers)?;
        let body = self.read_body(&head.headers, body).await?;
        let _permit = self.in_flight.try_acquire().map_err(|_none_left| WebhookError::Busy)?;
        let read = self.read(tenant, &head.headers, &body.bytes)?;
        // Up to `in_flight_max` requests wait for the disk from here on: none of them keeps its bytes meanwhile.
        drop((head, body));
        match read {
            WebhookBody::Login(event) => self.accept(event).await,
            WebhookBody::Other(name) => {
                self.metrics.events_ignored.get_or_create(&labels([("tenant", tenant)])).inc();
                Ok(json(StatusCode::OK, &serde_json::json!({ "ignored": name })))
            }
        }
    }

    /// Takes what is needed from a body that one of the tenant's secrets signed.
    fn read(&self, tenant: &str, headers: &HeaderMap, body: &[u8]) -> Result<WebhookBody, WebhookError> {
        let known = TenantId::parse(tenant).ok().and_then(|id| self.tenants.get_key_value(&id));
        let keys = known.map_or(&self.nobody, |(_, keys)| keys);
        let authentic = verify(body, headers.get(SIGNATURE), keys)?;
        let (tenant, _) = known.ok_or(WebhookError::Unauthentic)?;
        message::read_webhook(authentic.0, tenant, self.clock.now()).map_err(WebhookError::Malformed)
    }

    async fn read_body(&self, headers: &HeaderMap, body: Body) -> Result<Buffered<'_>, WebhookError> {
        let declared = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        if declared.is_some_and(|bytes: usize| bytes > self.limits.body_bytes_max) {
            return Err(WebhookError::TooLarge);
        }
        match tokio::time::timeout(self.limits.body_timeout, self.collect(body)).await {
            Ok(collected) => collected,
            Err(_elapsed) => Err(WebhookError::Slow),
        }
    }

    /// Buffers a body within its own limit and within what all bodies together may take.
    ///
    /// The share is taken as bytes arrive, so a sender who only announces much takes nothing.
    async fn collect(&self, mut body: Body) -> Result<Buffered<'_>, WebhookError> {
        let mut buffered = Buffered::default();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_cut_off| WebhookError::CutOff)?.into_data() else { continue };
            if buffered.len() + data.len() > self.limits.body_bytes_max {
                return Err(WebhookError::TooLarge);
            }
            buffered.add(data, &self.buffer_kib).ok_or(WebhookError::Busy)?;
        }
        Ok(buffered.whole())
    }

    async fn accept(&self, event: LoginEvent) -> Result<Response, WebhookError> {
        let publish = self.queue.publish(std::slice::from_ref(&event));
        let published = match tokio::time::timeout(PUBLISH_TIMEOUT, publish).await {
            Ok(published) => published.map_err(WebhookError::NotDurable)?,
            Err(_late) => {
                return Err(WebhookError::NotDurable(QueueError::Unavailable(anyhow::anyhow!(
                    "the disk did not answer within {PUBLISH_TIMEOUT:?}"
                ))));
            }
        };
        let tenant = event.tenant.as_str();
        if published.duplicates > 0 {
            self.metrics.events_duplicate.get_or_create(&labels([("tenant", tenant)])).inc();
        } else {
            let of = labels([("tenant", tenant), ("via", published.via.as_str())]);
            self.metrics.events_accepted.get_or_create(&of).inc();
        }
        tracing::debug!(tenant, user.id = %event.user, event.id = %event.id, "accepted event `{}`", event.id);
        let body = serde_json::json!({ "id": event.id.as_str(), "accepted_via": published.via.as_str() });
        Ok(json(StatusCode::ACCEPTED, &body))
    }
}

fn json(status: StatusCode, body: &serde_json::Value) -> Response {
    let content_type = HeaderValue::from_static("application/json");
    (status, [(header::CONTENT_TYPE, content_type)], body.to_string()).into_response()
}

/// Only `signature` is load-bearing at LoginRadius, so a missing media type passes; a foreign one does not.
fn check_media_type(headers: &HeaderMap) -> Result<(), WebhookError> {
    let essence = |value: &HeaderValue| {
        let value = value.to_str().unwrap_or("?");
        value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
    };
    let json = headers.get(header::CONTENT_TYPE).is_none_or(|value| essence(value) == "application/json");
    let plain = headers.get(header::CONTENT_ENCODING).is_none_or(|value| essence(value) == "identity");
    if json && plain { Ok(()) } else { Err(WebhookError::MediaType) }
}

/// Proof that a body was signed with one of a tenant's secrets. Only [`verify`] makes one.
struct AuthenticBody<'a>(&'a [u8]);

/// Checks the hex signature, in either case, in constant time, against every secret.
fn verify<'a>(
    body: &'a [u8],
    signature: Option<&HeaderValue>,
    keys: &[Hmac<Sha256>],
) -> Result<AuthenticBody<'a>, WebhookError> {
    let mut claimed = [0; 32];
    let well_formed = signature.is_some_and(|hex| hex::decode_to_slice(hex.as_bytes(), &mut claimed).is_ok());
    // Every key is tried even after a match, and for a signature that cannot be right, too.
    let signed = keys.iter().fold(false, |signed, key| {
        let matches = key.clone().chain_update(body).verify_slice(&claimed).is_ok();
        signed | matches
    });
    if signed && well_formed { Ok(AuthenticBody(body)) } else { Err(WebhookError::Unauthentic) }
}

fn keyed(secret: &[u8]) -> Option<Hmac<Sha256>> {
    // HMAC takes keys of every length.
    Hmac::new_from_slice(secret).ok()
}

/// Every [`WebhookError::reason`], so that each series is there before its first event.
const REASONS: [&str; 9] = [
    "unauthentic",
    "malformed",
    "too_large",
    "media_type",
    "slow",
    "cut_off",
    "busy",
    "queue_full",
    "queue_unavailable",
];

/// Why a webhook request is refused.
#[derive(Debug, thiserror::Error)]
enum WebhookError {
    #[error("the signature is missing or wrong, or the tenant is unknown")]
    Unauthentic,
    #[error("the body cannot be read: {0}")]
    Malformed(message::Unreadable),
    #[error("the body is larger than allowed")]
    TooLarge,
    #[error("the body is not plain JSON")]
    MediaType,
    #[error("the body did not arrive in time")]
    Slow,
    #[error("the body ended early")]
    CutOff,
    #[error("too many requests wait already")]
    Busy,
    #[error("the event cannot be made durable")]
    NotDurable(#[source] QueueError),
}

impl WebhookError {
    /// The metric label.
    fn reason(&self) -> &'static str {
        match self {
            Self::Unauthentic => "unauthentic",
            Self::Malformed(_) => "malformed",
            Self::TooLarge => "too_large",
            Self::MediaType => "media_type",
            Self::Slow => "slow",
            Self::CutOff => "cut_off",
            Self::Busy => "busy",
            Self::NotDurable(QueueError::Full { .. } | QueueError::FullBytes { .. }) => "queue_full",
            Self::NotDurable(_) => "queue_unavailable",
        }
    }
}

impl WebhookError {
    fn status(&self) -> StatusCode {
        match self {
            Self::Unauthentic => StatusCode::UNAUTHORIZED,
            Self::Malformed(_) | Self::CutOff => StatusCode::BAD_REQUEST,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::MediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Slow => StatusCode::REQUEST_TIMEOUT,
            Self::Busy | Self::NotDurable(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// What the sender reads: fixed text.
    fn detail(&self) -> &'static str {
        match self {
            Self::Unauthentic => {
                "the signature header is missing or wrong, or no such tenant is configured: check the secret that signs this webhook"
            }
            Self::Malformed(_) => {
                "the signed body is not a LoginRadius webhook with HookName and, for a login, Data.Uid"
            }
            Self::CutOff => "the body ended before its declared length",
            Self::TooLarge => "the body is larger than this endpoint takes",
            Self::MediaType => "send application/json without a content encoding",
            Self::Slow => "the body did not arrive in time",
            Self::Busy => "too many events wait to be stored: send this one again",
            Self::NotDurable(_) => "the event could not be stored: send this one again",
        }
    }
}

impl IntoResponse for WebhookError {
    fn into_response(self) -> Response {
        let status = self.status();
        let retry_after = if status == StatusCode::SERVICE_UNAVAILABLE { RETRY_AFTER_SECONDS } else { 0 };
        Problem { status, name: self.reason(), detail: self.detail(), retry_after }.into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed(body: &[u8], signature: &str, secrets: &[&str]) -> bool {
        let keys: Vec<_> = secrets.iter().filter_map(|secret| keyed(secret.as_bytes())).collect();
        verify(body, HeaderValue::from_str(signature).ok().as_ref(), &keys).is_ok()
    }

    const LOGIN: &[u8] = br#"{"HookName":"login"}"#;
    const LOGIN_SIGNATURE: &str = "6B7E5FEAB9D8906A08D65F1C10F84257C5693A7F64F2F96612DF206D30760E93";

    #[test]
    fn known_signatures_verify_in_either_case_and_with_any_of_the_secrets() {
        assert!(signed(LOGIN, LOGIN_SIGNATURE, &["secret"]));
        assert!(signed(LOGIN, &LOGIN_SIGNATURE.to_lowercase(), &["old", "secret", "new"]));
        let body = r#"{"HookName":"login","Data":{"FirstName":"Zoë"}}"#;
        assert!(signed(
            body.as_bytes(),
            "C5AF18D5B99AD50E175C6B4C244CAAB48257E74155282FBCE28437C736F1539F",
            &["0f2c5d3e-1111-4222-8333-444455556666"]
        ));
    }

    #[test]
    fn everything_else_is_refused() {
        let short = LOGIN_SIGNATURE.get(1..).unwrap();
        let long = format!("{LOGIN_SIGNATURE}0");
        let base64 = "a35f6rnYkGoI1l8cEPhCV8VpOn9k8vlmEt8gbTB2DpM=";
        for wrong in ["", short, &long, base64, &"0".repeat(64), &"zz".repeat(32)] {
            assert!(!signed(LOGIN, wrong, &["secret"]), "{wrong}");
        }
        assert!(!signed(LOGIN, LOGIN_SIGNATURE, &["other"]));
        assert!(!signed(LOGIN, LOGIN_SIGNATURE, &[]), "no secret accepts nothing");
        assert!(!signed(br#"{"HookName": "login"}"#, LOGIN_SIGNATURE, &["secret"]));
        assert!(verify(LOGIN, None, &[keyed(b"secret").unwrap()]).is_err());
    }
}
