//! Tenants, queue and broker: how it goes.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::{Admin, queue_problem};
use crate::http::Problem;
use crate::queue::{BrokerCounts, BrokerHealth, LaneStats};
use crate::worker::LimiterSign;

#[derive(Serialize, ToSchema)]
pub(super) struct Status {
    tenants: Vec<Tenant>,
    queue: Vec<Lane>,
    /// Missing where no broker is used.
    broker: Option<Broker>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Tenants {
    tenants: Vec<Tenant>,
}

#[derive(Serialize, ToSchema)]
struct Tenant {
    #[schema(example = "default")]
    tenant: String,
    /// `running`, or why its workers pause.
    #[schema(example = "running")]
    state: &'static str,
    /// How LoginRadius' own limiter was noticed, which works against ours.
    vendor_limiter: Option<&'static str>,
}

/// What waits of one tenant in one lane. Missing is what only the control process knows.
#[derive(Serialize, ToSchema)]
struct Lane {
    tenant: String,
    #[schema(example = "login")]
    lane: &'static str,
    ready: u64,
    unsettled: Option<u64>,
    delayed: Option<u64>,
    dead: Option<u64>,
    oldest_accepted_at: Option<Timestamp>,
}

#[derive(Serialize, ToSchema)]
struct Broker {
    up: bool,
    blocked: bool,
    spooling: bool,
    trouble: Option<String>,
    spool_bytes: u64,
    spool_messages: u64,
    spool_oldest_accepted_at: Option<Timestamp>,
    delayed: Option<u64>,
    dead: Option<u64>,
}

/// Tenants and their pauses, the queue by lane, the broker.
#[utoipa::path(get, path = "/admin/v1/status",
    responses((status = 200, body = Status), (status = 401), (status = 403), (status = 503)))]
pub(super) async fn status(State(admin): State<Arc<Admin>>) -> Result<Json<Status>, Problem> {
    let lanes = admin.queue.stats().await.map_err(queue_problem)?;
    let counts = admin.queue.broker_counts().await;
    let broker = admin.queue.broker().await.map(|broker| shown_broker(broker, counts));
    Ok(Json(Status { tenants: admin.shown_tenants(), queue: lanes.iter().map(shown_lane).collect(), broker }))
}

/// The tenants that are configured.
#[utoipa::path(get, path = "/admin/v1/tenants",
    responses((status = 200, body = Tenants), (status = 401), (status = 403)))]
pub(super) async fn tenants(State(admin): State<Arc<Admin>>) -> Json<Tenants> {
    Json(Tenants { tenants: admin.shown_tenants() })
}

impl Admin {
    fn shown_tenants(&self) -> Vec<Tenant> {
        let tenants = self.tenants.iter().map(|(id, enforcer)| Tenant {
            tenant: id.as_str().to_owned(),
            state: enforcer.state().as_str(),
            vendor_limiter: enforcer.vendor_limiter().map(LimiterSign::as_str),
        });
        tenants.collect()
    }
}

fn shown_lane(lane: &LaneStats) -> Lane {
    Lane {
        tenant: lane.tenant.as_str().to_owned(),
        lane: lane.lane.as_str(),
        ready: lane.ready,
        unsettled: lane.unsettled,
        delayed: lane.delayed,
        dead: lane.dead,
        oldest_accepted_at: lane.oldest_accepted_at,
    }
}

fn shown_broker(broker: BrokerHealth, counts: Option<BrokerCounts>) -> Broker {
    Broker {
        up: broker.up,
        blocked: broker.blocked,
        spooling: broker.spooling,
        trouble: broker.trouble,
        spool_bytes: broker.spool_bytes,
        spool_messages: broker.spool_messages,
        spool_oldest_accepted_at: broker.spool_oldest_accepted_at,
        delayed: counts.map(|counts| counts.delayed),
        dead: counts.map(|counts| counts.dead),
    }
}
