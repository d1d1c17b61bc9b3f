//! The composition root: builds the parts from the configuration, runs them together, stops them together.

mod admin_addr;
mod admin_key;
mod inside;
mod offline;
mod parts;
mod reload;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum_server::Handle;
use secrecy::{ExposeSecret as _, SecretString};
use tokio_util::sync::CancellationToken;

pub use self::admin_addr::read as read_admin_addr;
pub use self::admin_key::read as read_admin_key;
pub use self::inside::{Inside, Waiting};
pub use self::offline::{ProbeFailed, decide_line, now, probe};
use self::parts::Parts;
pub use self::reload::RunningPolicies;
use crate::api::Hosts;
use crate::api::admin::{self, Admin};
use crate::api::probes::{self, Probes};
use crate::clock::Clock;
use crate::config::{Config, CredentialsIn, LoginRadiusSection};
use crate::directives::ConfiguredDirectives;

use crate::http::{self, ServerConfig};
use crate::ledger::{LedgerThread, SqliteLedger};
use crate::model::TenantId;
use crate::provider::SessionProvider;
use crate::provider::loginradius::{self, ApiUrl, LoginRadius, LoginRadiusConfig};
use crate::queue::embedded::{EmbeddedConfig, EmbeddedQueue, InUse, QueueThread};
use crate::queue::{DeadLetters, Queue};
use crate::telemetry::Metrics;
use crate::webhook::{self, WebhookLimits, WebhookTenant};
use crate::worker::{TenantEnforcer, TenantWorker, WorkerParts};

/// How long open requests may take to end when the listeners stop.
const LISTENER_DRAIN: Duration = Duration::from_secs(5);
/// The deadline for headers on the private listener.
const ADMIN_HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// Everything that touches data, without listeners: what commands use when no instance runs.
pub struct Core {
    pub queue: EmbeddedQueue,
    queue_thread: QueueThread,
    ledger: SqliteLedger,
    ledger_thread: LedgerThread,
    pub directives: Arc<ConfiguredDirectives>,
    pub metrics: Metrics,
    pub clock: Clock,
    workers: BTreeMap<TenantId, TenantWorker>,
}

impl Core {
    /// Opens queue and ledger in the data folder, which is made if it is missing, for its owner alone.
    ///
    /// With `repair` a damaged file is set aside, and what can be read of the queue is carried over.
    fn open(config: &Config, repair: bool) -> anyhow::Result<Self> {
        let data_dir = &config.data_dir;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(data_dir)
            .with_context(|| format!("cannot make the data folder {}", data_dir.display()))?;
        let clock = Clock::start();
        let embedded = EmbeddedConfig {
            data_dir: data_dir.clone(),
            messages_max: config.queue.messages_max,
            bytes_max: None,
            tenants: config.tenants.len(),
            batch_max: config.queue.batch_max,
            dedupe_ids_max: config.webhook.dedupe_ids_max,
            dedupe_window: config.webhook.dedupe_window,
            repair,
        };
        let (queue, queue_thread) = EmbeddedQueue::open(&embedded, clock)?;
        let (ledger, ledger_thread) = SqliteLedger::open(data_dir, config.ledger.decisions_max, repair, clock)?;
        let directives = Arc::new(ConfiguredDirectives::new(config.policies()?));
        let metrics = Metrics::new();
        let mut workers = BTreeMap::new();
        for (id, tenant) in &config.tenants {
            let worker = TenantWorker::new(WorkerParts {
                tenant: id.clone(),
                provider: provider(&tenant.loginradius)
                    .with_context(|| format!("cannot set up the LoginRadius client of tenant `{id}`"))?,
                rate: tenant.loginradius.requests_per_second,
                queue: Arc::new(queue.clone()),
                directives: directives.clone(),
                ledger: Arc::new(ledger.clone()),
                config: config.worker.clone(),
                clock,
                metrics: metrics.clone(),
            });
            workers.insert(id.clone(), worker);
        }
        Ok(Self { queue, queue_thread, ledger, ledger_thread, directives, metrics, clock, workers })
    }

    /// For commands that look or act while no instance runs; `None` where one holds the data folder.
    ///
    /// # Errors
    /// A damaged file, too: a command repairs nothing.
    pub fn open_unless_running(config: &Config) -> anyhow::Result<Option<Self>> {
        match Self::open(config, false) {
            Ok(core) => Ok(Some(core)),
            Err(error) if error.is::<InUse>() => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub fn enforcers(&self) -> BTreeMap<TenantId, Arc<TenantEnforcer>> {
        self.workers.iter().map(|(id, worker)| (id.clone(), worker.enforcer())).collect()
    }

    /// The admin API's routes, behind `key`, for calls from this machine.
    pub fn admin_router(&self, key: SecretString) -> Router {
        self.admin_router_for(key, Hosts::Loopback)
    }

    fn admin_router_for(&self, key: SecretString, hosts: Hosts) -> Router {
        let queue = Arc::new(self.queue.clone());
        admin::router(Admin {
            tenants: self.enforcers(),
            queue: queue.clone() as Arc<dyn Queue>,
            dead_letters: queue as Arc<dyn DeadLetters>,
            ledger: Arc::new(self.ledger.clone()),
            key,
            hosts,
        })
    }

    /// Ends the threads of queue and ledger, after what was sent to them before.
    pub async fn close(self) -> anyhow::Result<()> {
        self.queue.stop();
        self.ledger.stop();
        self.queue_thread.ended().await.and(self.ledger_thread.ended().await)
    }
}

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

fn provider(section: &LoginRadiusSection) -> anyhow::Result<Arc<dyn SessionProvider>> {
    Ok(Arc::new(loginradius(section)?))
}

/// A service that is built and bound, but does not run yet.
pub struct App {
    core: Core,
    public: Listener,
    private: Listener,
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

/// Builds the whole service in one process: webhook, workers and admin API over the embedded queue.
pub async fn build(config: &Config) -> anyhow::Result<App> {
    let tls = match (&config.webhook.tls_cert, &config.webhook.tls_key) {
        (Some(cert), Some(key)) => Some(http::tls_from_files(cert, key).await?),
        _ => None,
    };
    let core = Core::open(config, true)?;
    let queue: Arc<dyn Queue> = Arc::new(core.queue.clone());
    warn_of_unknown_tenants(config, &*queue).await?;
    let probes = || Probes {
        queue: Arc::clone(&queue),
        tenants: core.enforcers().into_iter().collect(),
        metrics: core.metrics.clone(),
        clock: core.clock,
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
    let public = webhook::router(tenants, Arc::clone(&queue), limits, core.clock, core.metrics.clone())
        .merge(probes::public_router(probes()))
        .fallback(async || http::NO_ROUTE)
        .method_not_allowed_fallback(async || http::WRONG_METHOD);
    let public_server = ServerConfig {
        header_timeout: config.webhook.header_timeout,
        connections_max: config.webhook.connections_max,
        tls,
    };
    admin_addr::remove(&config.data_dir)?;
    let admin_key = admin_key::write(&config.data_dir)?;
    let hosts = if config.admin.insecure { Hosts::AnyAddress } else { Hosts::Loopback };
    let private = core.admin_router_for(admin_key.clone(), hosts).merge(probes::private_router(probes(), hosts));
    let private_server =
        ServerConfig { header_timeout: ADMIN_HEADER_TIMEOUT, connections_max: http::ADMIN_CONNECTIONS_MAX, tls: None };
    let public = Listener::bind(config.webhook.listen, public, public_server)?;
    let private = Listener::bind(config.admin.listen, private, private_server)?;
    admin_addr::write(&config.data_dir, private.addr)?;
    Ok(App { core, public, private, admin_key })
}

/// Messages of a tenant that is no longer configured are kept, but nobody works on them.
async fn warn_of_unknown_tenants(config: &Config, queue: &dyn Queue) -> anyhow::Result<()> {
    for lane in queue.stats().await? {
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
    /// Where the webhook listens.
    pub fn webhook_addr(&self) -> SocketAddr {
        self.public.addr
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
        RunningPolicies::new(Arc::clone(&self.core.directives), started)
    }

    pub fn metrics(&self) -> Metrics {
        self.core.metrics.clone()
    }

    /// Runs until `stop`: first no new requests and no new messages, then what has begun ends, then the queue closes.
    ///
    /// A part that ends by itself, fails or panics stops the others and fails the whole run.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let Core { queue, queue_thread, ledger, ledger_thread, workers, .. } = self.core;
        let mut parts = Parts::new(stop.clone());
        for (name, listener) in [("webhook listener", self.public), ("admin listener", self.private)] {
            let handle = Handle::new();
            let Listener { socket, router, server, .. } = listener;
            let serving = http::serve(socket, router, server, handle.clone());
            let stop = stop.clone();
            parts.add(name, async move {
                tokio::pin!(serving);
                tokio::select! {
                    result = &mut serving => return result,
                    () = stop.cancelled() => handle.graceful_shutdown(Some(LISTENER_DRAIN)),
                }
                serving.await
            });
        }
        for (tenant, worker) in workers {
            parts.add(&format!("worker of tenant {tenant}"), worker.run(stop.clone()));
        }
        let (mut queue_ended, mut ledger_ended) = (Box::pin(queue_thread.ended()), Box::pin(ledger_thread.ended()));
        let too_early = |what: &str| Err(anyhow::anyhow!("the {what} ended by itself"));
        let result = tokio::select! {
            result = parts.run() => result,
            result = &mut queue_ended => return result.and_then(|()| too_early("queue")),
            result = &mut ledger_ended => return result.and_then(|()| too_early("ledger")),
        };
        queue.stop();
        ledger.stop();
        let files = queue_ended.await.and(ledger_ended.await);
        result.and(files)
    }
}
