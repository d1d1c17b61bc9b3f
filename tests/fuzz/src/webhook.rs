//! A webhook request: any tenant, any headers, any body, signed unless it brings a signature of its own.
//!
//! An input is the tenant on the first line, headers on the next, an empty line, and the body.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use http_body_util::BodyExt as _;
use serde_json::Value;
use sha2::Sha256;
use soloist::clock::Clock;
use soloist::message;
use soloist::model::{Lane, LoginEvent, TenantId};
use soloist::queue::{LaneStats, Published, Queue, QueueError, Subscription, Via};
use soloist::telemetry::Metrics;
use soloist::webhook::{self, WebhookLimits, WebhookTenant};
use tokio::runtime::Runtime;
use tower::ServiceExt as _;

/// What signs where an input brings no signature.
const SECRET: &str = "secret";
const TENANTS: [&str; 2] = ["default", "acme"];
const BODY_BYTES_MAX: usize = 256 * 1024;

/// # Panics
/// Where an answer is not one that was promised.
pub fn check(input: &[u8]) {
    let Some(request) = Given::read(input) else { return };
    with_receiver(|receiver| {
        let (answer, events) = receiver.ask(&request);
        let again = receiver.ask(&request);
        assert_eq!((&answer, &events), (&again.0, &again.1), "the same request got another answer");
        answer.is_one_that_was_promised(&request.tenant, &events);
        if matches!(answer.status, 200 | 202 | 400 | 401) {
            let (forged, events) = receiver.ask(&request.with_another_body());
            assert_eq!((forged.status, events), (401, vec![]), "a changed body passed");
        }
        if let Some((plain, uid)) = plain_login(&request.body) {
            let (answer, events) = receiver.ask(&Given::signed("default", HeaderMap::new(), plain));
            assert_eq!(answer.status, 202, "a plain login was refused");
            assert_eq!(events[0].user.as_str(), uid);
        }
    });
}

/// The body as we would write it and its user, where it is a login that nobody could mistake.
fn plain_login(body: &[u8]) -> Option<(Vec<u8>, String)> {
    let read: Value = serde_json::from_slice(body).ok()?;
    let uid = read["Data"]["Uid"].as_str().filter(|uid| is_uid(uid))?.to_owned();
    let is_login = read["HookName"].as_str()?.eq_ignore_ascii_case("login");
    let plain = serde_json::to_vec(&read).unwrap();
    (is_login && plain.len() <= BODY_BYTES_MAX).then_some((plain, uid))
}

/// The provider's grammar, written down a second time.
pub(crate) fn is_uid(uid: &str) -> bool {
    (1..=50).contains(&uid.len()) && uid.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c))
}

/// What every event of ours is, however it came.
pub(crate) fn assert_is_sound(event: &LoginEvent) {
    assert!(is_uid(event.user.as_str()), "{event:?}");
    let id = event.id.as_str();
    assert!((1..=128).contains(&id.len()) && id.chars().all(|c| c.is_ascii_graphic()), "{event:?}");
    assert!(TenantId::parse(event.tenant.as_str()).is_ok(), "{event:?}");
    let written = message::write(event);
    assert_eq!(message::read(&written).as_ref(), Ok(event));
    let json = Some("application/json");
    assert_eq!(message::read_foreign(&written, json, &event.tenant, jiff::Timestamp::UNIX_EPOCH).as_ref(), Ok(event));
}

struct Given {
    tenant: String,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Given {
    /// `None` where it could not come over HTTP.
    fn read(input: &[u8]) -> Option<Self> {
        let end = input.windows(2).position(|two| two == b"\n\n")?;
        let (head, body) = (std::str::from_utf8(&input[..end]).ok()?, &input[end + 2..]);
        let (tenant, lines) = head.split_once('\n').unwrap_or((head, ""));
        let mut headers = HeaderMap::new();
        for (name, value) in lines.lines().filter_map(|line| line.split_once(':')) {
            let name = HeaderName::from_bytes(name.as_bytes()).ok();
            if let (Some(name), Ok(value)) = (name, HeaderValue::from_bytes(value.trim().as_bytes())) {
                headers.try_append(name, value).ok()?;
            }
        }
        path_of(tenant).parse::<http::Uri>().ok()?;
        Some(Self::signed(tenant, headers, body.to_vec()))
    }

    fn signed(tenant: &str, mut headers: HeaderMap, body: Vec<u8>) -> Self {
        if !headers.contains_key("signature") {
            let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
            mac.update(&body);
            let signature = hex::encode_upper(mac.finalize().into_bytes());
            headers.append("signature", HeaderValue::from_str(&signature).unwrap());
        }
        Self { tenant: tenant.to_owned(), headers, body }
    }

    /// With the signature of the body that it had.
    fn with_another_body(&self) -> Self {
        let mut body = self.body.clone();
        match body.last_mut() {
            Some(last) => *last ^= 1,
            None => body.push(b' '),
        }
        Self { tenant: self.tenant.clone(), headers: self.headers.clone(), body }
    }

    fn request(&self) -> Request {
        let mut request = Request::post(path_of(&self.tenant)).body(Body::from(self.body.clone())).unwrap();
        *request.headers_mut() = self.headers.clone();
        request
    }
}

fn path_of(tenant: &str) -> String {
    if tenant.is_empty() { "/webhooks/loginradius".to_owned() } else { format!("/webhooks/loginradius/{tenant}") }
}

#[derive(Debug, PartialEq)]
struct Answer {
    status: u16,
    media_type: Option<HeaderValue>,
    body: Vec<u8>,
}

impl Answer {
    fn is_one_that_was_promised(&self, path: &str, events: &[LoginEvent]) {
        let text = String::from_utf8_lossy(&self.body);
        let json: Value = serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{self:?}: {text}"));
        match (self.status, events) {
            (202, [event]) => {
                assert_is_sound(event);
                assert_eq!(json, serde_json::json!({ "id": event.id.as_str(), "accepted_via": "journal" }));
                assert!(TENANTS.contains(&event.tenant.as_str()));
                assert!(path.is_empty() || path.contains('%') || path.starts_with(event.tenant.as_str()), "{path}");
            }
            (200, []) => {
                let name = json["ignored"].as_str().unwrap();
                assert!(name.len() <= message::EVENT_NAME_BYTES_MAX && name.chars().all(|c| c.is_ascii_graphic()));
            }
            (400 | 401 | 404 | 413 | 415, []) => {
                assert_eq!(self.media_type, Some(HeaderValue::from_static("application/problem+json")), "{text}");
                assert!(!text.contains("canary"), "the answer quotes the request: {text}");
                assert_eq!(json["status"], self.status, "{text}");
            }
            _ => panic!("answered {} {text} and published {events:?}", self.status),
        }
    }
}

/// The router as it is served, and what it accepted.
struct Receiver {
    runtime: Runtime,
    router: Router,
    accepted: Arc<Accepted>,
}

thread_local! {
    static RECEIVER: Receiver = Receiver::new();
}

fn with_receiver(use_it: impl FnOnce(&Receiver)) {
    RECEIVER.with(use_it);
}

impl Receiver {
    fn new() -> Self {
        let accepted = Arc::<Accepted>::default();
        let tenant = |name| WebhookTenant {
            id: TenantId::parse(name).unwrap(),
            secrets: vec![b"old".to_vec(), SECRET.as_bytes().to_vec()],
        };
        let limits = WebhookLimits {
            body_bytes_max: BODY_BYTES_MAX,
            body_timeout: Duration::from_secs(5),
            in_flight_max: 1,
            buffer_kib_max: WebhookLimits::BUFFER_KIB_MAX,
        };
        let queue: Arc<dyn Queue> = Arc::<Accepted>::clone(&accepted);
        let tenants = TENANTS.map(tenant).into();
        let router = webhook::router(tenants, queue, limits, Clock::start(), Metrics::new());
        let router = router.fallback(async || soloist::http::NO_ROUTE);
        Self { runtime: tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap(), router, accepted }
    }

    /// What it answers, and the events that it published meanwhile, as if accepted at one moment.
    fn ask(&self, given: &Given) -> (Answer, Vec<LoginEvent>) {
        let answer = self.runtime.block_on(async {
            let response = self.router.clone().oneshot(given.request()).await.unwrap();
            let (status, media_type) = (response.status(), response.headers().get(header::CONTENT_TYPE).cloned());
            let body = response.into_body().collect().await.unwrap().to_bytes().to_vec();
            Answer { status: status.as_u16(), media_type, body }
        });
        let mut events = std::mem::take(&mut *self.accepted.events.lock().unwrap());
        for event in &mut events {
            assert!(event.accepted_at.is_some());
            event.accepted_at = Some(jiff::Timestamp::UNIX_EPOCH);
        }
        (answer, events)
    }
}

/// A queue that keeps what it is given.
#[derive(Default)]
struct Accepted {
    events: Mutex<Vec<LoginEvent>>,
}

#[async_trait]
impl Queue for Accepted {
    async fn publish(&self, events: &[LoginEvent]) -> Result<Published, QueueError> {
        self.events.lock().unwrap().extend_from_slice(events);
        Ok(Published { via: Via::Journal, duplicates: 0 })
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
