//! `/livez`, `/readyz`, `/metrics`: no key, no secret in any of them.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::{StatusCode, header};
use serde_json::json;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::host::{self, Hosts};
use crate::clock::Clock;
use crate::model::TenantId;
use crate::queue::{BrokerHealth, LaneStats, Queue};
use crate::telemetry::{Metrics, labels};
use crate::worker::{TenantEnforcer, TenantState};

/// How long the queue may take to prove that it can write.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);
/// How long such a proof holds, so that many probes cost one write.
const CHECK_HOLDS: Duration = Duration::from_secs(1);

pub struct Probes {
    pub queue: Arc<dyn Queue>,
    pub tenants: Vec<(TenantId, Arc<TenantEnforcer>)>,
    pub metrics: Metrics,
    pub clock: Clock,
}

struct Shared {
    probes: Probes,
    checked: Mutex<Option<(Instant, bool)>>,
}

/// The probes for a listener that everybody may reach: a word, no tenant's name.
pub fn public_router(probes: Probes) -> Router {
    Router::new().route("/livez", get(livez)).route("/readyz", get(public_readyz)).with_state(Shared::of(probes))
}

/// The probes with their details, and `/metrics`, for who calls the listener by its own host.
pub fn private_router(probes: Probes, hosts: Hosts) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(render))
        .route_layer(middleware::from_fn_with_state(hosts, host::guard))
        .with_state(Shared::of(probes))
}

/// The process answers: that is all it says.
async fn livez() -> &'static str {
    "live\n"
}

async fn public_readyz(State(shared): State<Arc<Shared>>) -> Response {
    let (status, word) = shared.readiness().await;
    (status, Json(json!({ "status": word }))).into_response()
}

async fn readyz(State(shared): State<Arc<Shared>>) -> Response {
    let (status, word) = shared.readiness().await;
    let paused: Vec<_> =
        shared.paused().map(|(tenant, state)| json!({ "tenant": tenant.as_str(), "cause": state.as_str() })).collect();
    let journal_writable = status == StatusCode::OK;
    let broker = shared.probes.queue.broker().await.map(|broker| broker.is_well());
    let details = json!({ "status": word, "journal_writable": journal_writable, "broker_takes_events": broker, "paused": paused });
    (status, Json(details)).into_response()
}

async fn render(State(shared): State<Arc<Shared>>) -> Response {
    let probes = &shared.probes;
    let now_ms = probes.clock.now_ms();
    if let Ok(Ok(stats)) = timeout(CHECK_TIMEOUT, probes.queue.stats()).await {
        show_queue(&probes.metrics, &stats, now_ms);
    }
    if let Ok(Some(broker)) = timeout(CHECK_TIMEOUT, probes.queue.broker()).await {
        show_broker(&probes.metrics, &broker, now_ms);
    }
    if let Some(counts) = probes.queue.broker_counts().await {
        probes.metrics.broker_delayed.set(gauge(counts.delayed));
        probes.metrics.broker_dead.set(gauge(counts.dead));
    }
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], probes.metrics.render()).into_response()
}

/// Takes over into the metrics what waits in the queue now; `now_ms` in milliseconds since 1970.
fn show_queue(metrics: &Metrics, stats: &[LaneStats], now_ms: i64) {
    for lane in stats {
        let (tenant, name) = (lane.tenant.as_str(), lane.lane.as_str());
        let states = [
            ("ready", Some(lane.ready)),
            ("unsettled", lane.unsettled),
            ("delayed", lane.delayed),
            ("dead", lane.dead),
        ];
        for (state, count) in states.into_iter().filter_map(|(state, count)| Some((state, count?))) {
            let of = labels([("tenant", tenant), ("lane", name), ("state", state)]);
            metrics.queue_messages.get_or_create(&of).set(gauge(count));
        }
        let age_ms = lane.oldest_accepted_at.map_or(0, |at| (now_ms - at.as_millisecond()).max(0));
        let of = labels([("tenant", tenant), ("lane", name)]);
        metrics.queue_oldest_age.get_or_create(&of).set(age_ms / 1_000);
    }
}

/// Takes over into the metrics how the broker is.
fn show_broker(metrics: &Metrics, broker: &BrokerHealth, now_ms: i64) {
    metrics.broker_up.set(i64::from(broker.up && !broker.blocked));
    metrics.spooling.set(i64::from(broker.spooling || !broker.up || broker.blocked));
    metrics.spool_bytes.set(gauge(broker.spool_bytes));
    metrics.spool_messages.set(gauge(broker.spool_messages));
    let age_ms = broker.spool_oldest_accepted_at.map_or(0, |at| (now_ms - at.as_millisecond()).max(0));
    metrics.spool_oldest_age.set(age_ms / 1_000);
}

fn gauge(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

impl Shared {
    fn of(probes: Probes) -> Arc<Self> {
        Arc::new(Self { probes, checked: Mutex::new(None) })
    }

    /// Ready is who can accept an event durably. A provider or a broker in trouble makes it degraded, not unready:
    /// accepting goes on.
    async fn readiness(&self) -> (StatusCode, &'static str) {
        if !self.journal_writable().await {
            return (StatusCode::SERVICE_UNAVAILABLE, "unready");
        }
        let broker = self.probes.queue.broker().await;
        let degraded = self.paused().next().is_some() || broker.is_some_and(|broker| !broker.is_well());
        (StatusCode::OK, if degraded { "degraded" } else { "ready" })
    }

    fn paused(&self) -> impl Iterator<Item = (&TenantId, TenantState)> {
        let states = self.probes.tenants.iter().map(|(tenant, enforcer)| (tenant, enforcer.state()));
        states.filter(|(_, state)| *state != TenantState::Running)
    }

    async fn journal_writable(&self) -> bool {
        let mut checked = self.checked.lock().await;
        if let Some((at, writable)) = *checked
            && at.elapsed() < CHECK_HOLDS
        {
            return writable;
        }
        let writable = matches!(timeout(CHECK_TIMEOUT, self.probes.queue.check()).await, Ok(Ok(())));
        *checked = Some((Instant::now(), writable));
        writable
    }
}
