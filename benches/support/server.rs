//! A listener as the service runs it: the webhook's over any queue, or of other routes.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum_server::Handle;
use soloist::clock::Clock;
use soloist::http::{self, ServerConfig};
use soloist::model::TenantId;
use soloist::queue::Queue;
use soloist::telemetry::Metrics;
use soloist::webhook::{self, WebhookLimits, WebhookTenant};
use tokio::task::JoinSet;

use super::load::SECRET;

pub(crate) struct Server {
    handle: Handle<std::net::SocketAddr>,
    serving: JoinSet<anyhow::Result<()>>,
}

impl Server {
    /// The webhook's.
    pub(crate) fn start(queue: Arc<dyn Queue>, clock: Clock) -> anyhow::Result<Self> {
        let tenant = WebhookTenant { id: TenantId::default_tenant(), secrets: vec![SECRET.to_vec()] };
        let limits = WebhookLimits {
            body_bytes_max: 256 * 1024,
            body_timeout: Duration::from_secs(10),
            in_flight_max: 4_096,
            buffer_kib_max: WebhookLimits::BUFFER_KIB_MAX,
        };
        Self::of(webhook::router(vec![tenant], queue, limits, clock, Metrics::new()))
    }

    /// Listens on a free port of this machine and prints where.
    pub(crate) fn of(router: Router) -> anyhow::Result<Self> {
        let listener = http::bind("127.0.0.1:0".parse()?)?;
        println!("{}", listener.local_addr()?);
        let config = ServerConfig {
            header_timeout: Duration::from_secs(5),
            stall_timeout: http::STALL_TIMEOUT,
            connections_max: 4_096,
            tls: None,
        };
        let handle = Handle::new();
        let mut serving = JoinSet::new();
        serving.spawn(http::serve(listener, router, config, handle.clone()));
        Ok(Self { handle, serving })
    }

    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        self.handle.shutdown();
        while let Some(ended) = self.serving.join_next().await {
            ended??;
        }
        Ok(())
    }
}
