//! The composition root: builds the parts from the configuration, runs them together, stops them together.

mod admin_addr;
mod admin_key;
mod bulletin;
mod core;
mod deciding;
mod fleet;
mod inside;
mod keeper;
mod offline;
mod parts;
mod records;
mod reload;
mod roles;
mod spool;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum_server::Handle;
use secrecy::{ExposeSecret as _, SecretString};
use tokio_util::sync::CancellationToken;

pub use self::admin_addr::read as read_admin_addr;
pub use self::admin_key::read as read_admin_key;
pub use self::core::Core;
use self::core::Purpose;
pub use self::inside::{Inside, Waiting};
pub use self::offline::{
    BrokerDuty, BrokerTrouble, ProbeFailed, decide_line, look_at_endpoint, new_api_key, now, openapi, probe,
    probe_broker, prober, read_notify_texts,
};
use self::parts::Parts;
pub use self::reload::RunningPolicies;
pub use self::roles::Roles;
pub use self::spool::{Drained, drain_spool};
use crate::api::Hosts;
use crate::api::probes::{self, Probes};
use crate::config::{Backend, Config, CredentialsIn, LoginRadiusSection};
use crate::http::{self, ServerConfig};
use crate::ledger::LedgerThread;
use crate::provider::loginradius::{self, ApiUrl, LoginRadius, LoginRadiusConfig};
use crate::queue::Queue;
use crate::telemetry::Metrics;
use crate::webhook::{self, WebhookLimits, WebhookTenant};

/// How long open requests may take to end when the listeners stop.
const LISTENER_DRAIN: Duration = Duration::from_secs(5);
/// The deadline for headers on the private listener.
const ADMIN_HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// The client of one tenant's LoginRadius API.
pub fn loginradius(section: &LoginRadiusSection) -> anyhow::Result<LoginRadius> {
    let mut config =
        LoginRadiusConfig::new(ApiUrl::parse(&section.api_url)?, section.api_key.clone(), section.api_secret.clone());
    config.timeout = section.timeout;
    config.connect_timeout = section.connect_timeout;
    config.credentials_in = match section.credentials_in {
        CredentialsIn::Headers => loginradius::CredentialsIn::Headers,
        CredentialsIn::Query => loginradius::CredentialsIn::Query,
    };
    LoginRadius::new(config)
}

/// A service that is built and bound, but does not run yet.
pub struct App {
    core: Core,
    roles: Roles,
    /// `None` where this process takes neither webhooks nor questions of apps.
    public: Option<Listener>,
    private: Listener,
    /// Ends the streams of the public listener.
    streams: CancellationToken,
    admin_key: SecretString,
}

struct Listener {
    socket: TcpListener,
    addr: SocketAddr,
    router: Router,
    server: ServerConfig,
}

impl Listener {
    fn bind(addr: SocketAddr, router: Router, server: ServerConfig) -> anyhow::Result<Self> {
        let socket = http::bind(addr)?;
        Ok(Self { addr: socket.local_addr()?, socket, router, server })
    }
}

/// Builds the whole service in one process: webhook, workers and control.
pub async fn build(config: &Config) -> anyhow::Result<App> {
    build_as(config, Roles::ALL).await
}

/// Builds what these roles need.
///
/// # Errors
/// Also when the embedded queue is to serve some roles only: it belongs to one process.
pub async fn build_as(config: &Config, roles: Roles) -> anyhow::Result<App> {
    anyhow::ensure!(
        roles == Roles::ALL || config.queue.backend == Backend::Rabbitmq,
        "the embedded queue belongs to one process, so webhook, worker and control must run in it together"
    );
    let core = Core::open(config, Purpose::Serve(roles))?;
    warn_of_unknown_tenants(config, &core).await?;
    let streams = CancellationToken::new();
    let public_addr = if roles.webhook { Some(config.webhook.listen) } else { config.api.listen };
    let public = match public_addr {
        Some(addr) if roles.webhook || roles.control => {
            Some(public_listener(config, &core, (roles, addr), &streams).await?)
        }
        _ => None,
    };
    admin_addr::remove(&config.data_dir)?;
    let admin_key = admin_key::write(&config.data_dir)?;
    let hosts = if config.admin.insecure { Hosts::AnyAddress } else { Hosts::Loopback };
    let private = core.admin_router_for(admin_key.clone(), hosts).merge(probes::private_router(probes(&core), hosts));
    let private_server = ServerConfig {
        header_timeout: ADMIN_HEADER_TIMEOUT,
        stall_timeout: http::STALL_TIMEOUT,
        connections_max: http::ADMIN_CONNECTIONS_MAX,
        tls: None,
    };
    let private = Listener::bind(config.admin.listen, private, private_server)?;
    admin_addr::write(&config.data_dir, private.addr)?;
    Ok(App { core, roles, public, private, streams, admin_key })
}

fn probes(core: &Core) -> Probes {
    Probes {
        queue: Arc::clone(&core.queue),
        tenants: core.enforcers().into_iter().collect(),
        metrics: core.metrics.clone(),
        clock: core.clock,
    }
}

async fn public_listener(
    config: &Config,
    core: &Core,
    (roles, addr): (Roles, SocketAddr),
    streams: &CancellationToken,
) -> anyhow::Result<Listener> {
    let tls = match (&config.webhook.tls_cert, &config.webhook.tls_key) {
        (Some(cert), Some(key)) => Some(http::tls_from_files(cert, key).await?),
        _ => None,
    };
    let tenants = config
        .tenants
        .iter()
        .map(|(id, tenant)| {
            let secrets = tenant.loginradius.webhook_secrets.iter();
            WebhookTenant { id: id.clone(), secrets: secrets.map(|s| s.expose_secret().as_bytes().to_vec()).collect() }
        })
        .collect();
    let limits = WebhookLimits {
        body_bytes_max: config.webhook.body_bytes_max,
        body_timeout: config.webhook.body_timeout,
        in_flight_max: config.webhook.in_flight_max,
        buffer_kib_max: WebhookLimits::BUFFER_KIB_MAX,
    };
    let mut router = probes::public_router(probes(core));
    if roles.webhook {
        let queue = Arc::clone(&core.queue);
        router = router.merge(webhook::router(tenants, queue, limits, core.clock, core.metrics.clone()));
    }
    if roles.control {
        core.remember_endings().await;
        router = router.merge(core.v1_router(config, streams.clone())?);
    }
    let router = router.fallback(async || http::NO_ROUTE).method_not_allowed_fallback(async || http::WRONG_METHOD);
    let connections_max = http::connections_that_fit(config.webhook.connections_max);
    if connections_max < config.webhook.connections_max {
        tracing::warn!(
            "the limit of open files leaves room for {connections_max} connections only, not webhook.connections_max: \
             raise it (ulimit -n, or LimitNOFILE)"
        );
    }
    let server = ServerConfig {
        header_timeout: config.webhook.header_timeout,
        stall_timeout: http::STALL_TIMEOUT,
        connections_max,
        tls,
    };
    Listener::bind(addr, router, server)
}

/// Messages of a tenant that is no longer configured are kept, but nobody works on them.
async fn warn_of_unknown_tenants(config: &Config, core: &Core) -> anyhow::Result<()> {
    for lane in core.journal.stats().await? {
        let waiting = lane.ready + lane.delayed.unwrap_or(0);
        if waiting > 0 && !config.tenants.contains_key(&lane.tenant) {
            tracing::error!(
                tenant = %lane.tenant,
                alarm = "unknown_tenant",
                "{waiting} messages wait for tenant `{}`, which is not configured: configure it again to have them settled",
                lane.tenant
            );
        }
    }
    Ok(())
}

impl App {
    /// Where the webhook listens, where it does.
    pub fn webhook_addr(&self) -> Option<SocketAddr> {
        self.public.as_ref().map(|listener| listener.addr)
    }

    /// Where the admin API listens.
    pub fn admin_addr(&self) -> SocketAddr {
        self.private.addr
    }

    pub fn admin_key(&self) -> &SecretString {
        &self.admin_key
    }

    /// For replacing policies while it runs; `started` is the configuration that the app was built from.
    pub fn policies(&self, started: Config) -> RunningPolicies {
        RunningPolicies::new(Arc::clone(&self.core.deciding.live), started)
    }

    pub fn metrics(&self) -> Metrics {
        self.core.metrics.clone()
    }

    /// Runs until `stop`: first no new requests and no new messages, then what has begun ends, then the journal is
    /// forwarded while the broker takes it, then the files close.
    ///
    /// A part that ends by itself, fails or panics stops the others and fails the whole run.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let (keeper, heard) = (self.core.keeper(), self.core.deciding.heard());
        let all_endings = self.core.remember_all_endings(stop.clone());
        let Core { journal, journal_thread, own_ledger, remote_ledger, broker, workers, sweep, notices, .. } =
            self.core;
        let mut parts = Parts::new(stop.clone());
        if let Some(keeper) = keeper {
            parts.add("keeper of directives", keeper.run(stop.clone()));
        }
        if self.public.is_some() && self.roles.control {
            parts.add("memory of ends", all_endings);
        }
        let listeners = [("webhook listener", self.public), ("admin listener", Some(self.private))];
        let (streams, told) = (self.streams, stop.clone());
        parts.add("end of streams", async move {
            told.cancelled().await;
            streams.cancel();
            Ok(())
        });
        for (name, listener) in listeners.into_iter().filter_map(|(name, listener)| Some((name, listener?))) {
            parts.add(name, serve(listener, stop.clone()));
        }
        if self.roles.worker {
            for (tenant, worker) in workers {
                let (heard, stop) = (heard.clone(), stop.clone());
                parts.add(&format!("worker of tenant {tenant}"), async move {
                    if let Some(heard) = heard {
                        heard.first_snapshot(&stop).await;
                    }
                    worker.run(stop).await
                });
            }
        }
        if let Some(ledger) = remote_ledger {
            parts.add("way to the ledger", ledger.carry_notes(stop.clone()));
        }
        if let Some(sweep) = sweep {
            parts.add("sweep", sweep.run(stop.clone()));
        }
        if let Some(notices) = notices {
            parts.add("notices", notices.run(stop.clone()));
        }
        let (ledger, ledger_thread) = own_ledger.unzip();
        let late = CancellationToken::new();
        let mut journal_ended = Box::pin(journal_thread.ended());
        let mut ledger_ended = Box::pin(at_its_end(ledger_thread.map(LedgerThread::ended), late.clone()));
        let mut broker_ended = Box::pin(at_its_end(broker.map(|broker| broker.run(late.clone())), late.clone()));
        let too_early = |what: &str| Err(anyhow::anyhow!("the {what} ended by itself"));
        let result = tokio::select! {
            result = parts.run() => result,
            result = &mut journal_ended => return result.and_then(|()| too_early("queue")),
            result = &mut ledger_ended => return result.and_then(|()| too_early("ledger")),
            result = &mut broker_ended => return result.and_then(|()| too_early("broker's side")),
        };
        late.cancel();
        let broker = broker_ended.await;
        journal.stop();
        if let Some(ledger) = ledger {
            ledger.stop();
        }
        result.and(broker).and(journal_ended.await).and(ledger_ended.await)
    }
}

/// The end of a part; one that this process does not have ends when it is told to.
async fn at_its_end(
    part: Option<impl Future<Output = anyhow::Result<()>>>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    if let Some(part) = part {
        return part.await;
    }
    stop.cancelled().await;
    Ok(())
}

async fn serve(listener: Listener, stop: CancellationToken) -> anyhow::Result<()> {
    let Listener { socket, router, server, .. } = listener;
    let handle = Handle::new();
    let serving = http::serve(socket, router, server, handle.clone());
    tokio::pin!(serving);
    tokio::select! {
        result = &mut serving => return result,
        () = stop.cancelled() => handle.graceful_shutdown(Some(LISTENER_DRAIN)),
    }
    serving.await
}
