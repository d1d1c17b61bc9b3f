//! Log set-up, and every metric's name, help text and labels. Labels come from enums and configured tenant names only.

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::{LogFormat, TelemetryConfig};
use crate::model::{Lane, TenantId};

/// Label pairs in a fixed order: names are literals, values come from enums or the configuration.
pub type Labels = Vec<(&'static str, String)>;

pub fn labels<const N: usize>(pairs: [(&'static str, &str); N]) -> Labels {
    pairs.into_iter().map(|(name, value)| (name, value.to_owned())).collect()
}

/// Sends logs to standard error, as text for people or as one JSON object a line.
///
/// # Errors
/// When the filter cannot be read, or logs were set up before.
pub fn set_up_logs(config: &TelemetryConfig) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&config.log)?;
    let mut logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if !std::io::stderr().is_terminal() {
        logs = logs.with_ansi(false);
    }
    let may_be_logged = filter_fn(|metadata| !is_indiscreet(metadata.target()));
    match config.log_format {
        LogFormat::Human => logs.with_target(false).finish().with(may_be_logged).try_init()?,
        LogFormat::Json => {
            logs.json().flatten_event(true).with_current_span(true).finish().with(may_be_logged).try_init()?;
        }
    }
    Ok(())
}

/// The AMQP client logs whole messages, some at `warn`, and the broker's password at `trace`. So it is never heard,
/// whatever the configured filter names; what it has to say comes to us as errors.
fn is_indiscreet(target: &str) -> bool {
    ["lapin", "amq_protocol"].iter().any(|client| target.starts_with(client))
}

/// Sends logs to a file, as text without colours, so that they do not tear what a terminal shows.
///
/// # Errors
/// When logs were set up before.
pub fn set_up_log_file(file: std::fs::File) -> anyhow::Result<()> {
    let logs = tracing_subscriber::fmt().with_env_filter(EnvFilter::new("info")).with_ansi(false);
    Ok(logs.with_target(false).with_writer(std::sync::Mutex::new(file)).finish().try_init()?)
}

/// All metrics of a process. Cloning shares them.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    pub events_accepted: Family<Labels, Counter>,
    pub events_duplicate: Family<Labels, Counter>,
    pub events_ignored: Family<Labels, Counter>,
    pub events_refused: Family<Labels, Counter>,
    pub queue_messages: Family<Labels, Gauge>,
    pub queue_oldest_age: Family<Labels, Gauge>,
    pub login_to_settled: Family<Labels, Histogram>,
    pub deliveries_settled: Family<Labels, Counter>,
    pub provider_calls: Family<Labels, Counter>,
    pub decisions: Family<Labels, Counter>,
    pub sessions_revoked: Family<Labels, Counter>,
    pub sessions_already_gone: Family<Labels, Counter>,
    pub surplus_unresolved: Family<Labels, Counter>,
    pub rechecks: Family<Labels, Counter>,
    pub vendor_limiter: Family<Labels, Counter>,
    pub sessions_from_the_future: Family<Labels, Counter>,
    pub tenant_paused: Family<Labels, Gauge>,
    pub directives_stale: Family<Labels, Gauge>,
    pub decisions_held: Family<Labels, Counter>,
    pub contended_users: Family<Labels, Gauge>,
    pub budget_breached: Family<Labels, Gauge>,
    pub budget_granted: Family<Labels, Gauge>,
    pub ledger_lost: Counter,
    pub sweep_users: Family<Labels, Gauge>,
    pub sweep_oldest_age: Family<Labels, Gauge>,
    pub sweep_interval: Family<Labels, Gauge>,
    pub sweep_looks: Family<Labels, Counter>,
    pub broker_up: Gauge,
    pub broker_delayed: Gauge,
    pub broker_dead: Gauge,
    pub notices: NoticeMetrics,
    pub api: ApiMetrics,
    pub spooling: Gauge,
    pub spool_bytes: Gauge,
    pub spool_messages: Gauge,
    pub spool_oldest_age: Gauge,
}

/// What is asked of the session API. A route is named as its description names it, so no label says of whom it was asked.
#[derive(Clone)]
pub struct ApiMetrics {
    pub requests: Family<Labels, Counter>,
    pub duration: Family<Labels, Histogram>,
    pub streams: Gauge,
    pub refused: Family<Labels, Counter>,
}

impl ApiMetrics {
    /// What stands for a status, from 200 on.
    const CLASSES: [&str; 4] = ["2xx", "3xx", "4xx", "5xx"];
    /// What credentials a request may have.
    pub const CREDENTIALS: [&str; 3] = ["app_key", "user_token", "none"];

    fn new(register: &mut Registration<'_>) -> Self {
        Self {
            requests: register.counter("api_requests", "Requests of the session API (route, status)"),
            duration: register.histogram(
                "api_request_duration",
                "From a request of the session API to its answer, which a stream only begins (route)",
            ),
            streams: register.single("api_streams", "Streams of events that are open"),
            refused: register
                .counter("api_credentials_refused", "Requests whose credentials are nobody's (credentials)"),
        }
    }

    /// A route's series, which appear with zeros.
    pub fn of_route(&self, route: &str) -> RouteMetrics {
        for credentials in Self::CREDENTIALS {
            self.refused.get_or_create(&labels([("credentials", credentials)])).inc_by(0);
        }
        RouteMetrics {
            requests: Self::CLASSES
                .map(|class| self.requests.get_or_create(&labels([("route", route), ("status", class)])).clone()),
            duration: self.duration.get_or_create(&labels([("route", route)])).clone(),
        }
    }
}

/// The series of one route, found once: requests are too many to look for them each time.
pub struct RouteMetrics {
    /// By [`ApiMetrics::CLASSES`].
    requests: [Counter; 4],
    duration: Histogram,
}

impl RouteMetrics {
    /// Counts a request that was answered.
    pub fn observe(&self, status: u16, took: Duration) {
        let class = usize::from(status / 100).checked_sub(2);
        if let Some(requests) = class.and_then(|class| self.requests.get(class)) {
            requests.inc();
        }
        self.duration.observe(took.as_secs_f64());
    }
}

/// What became of notices, by the name of the endpoint in the configuration.
#[derive(Clone)]
pub struct NoticeMetrics {
    pub delivered: Family<Labels, Counter>,
    pub failed: Family<Labels, Counter>,
    pub dropped: Family<Labels, Counter>,
    pub pending: Family<Labels, Gauge>,
    pub disabled: Family<Labels, Gauge>,
}

impl NoticeMetrics {
    fn new(register: &mut Registration<'_>) -> Self {
        Self {
            delivered: register.counter("notices_delivered", "Notices that were delivered (endpoint)"),
            failed: register.counter("notices_failed", "Attempts to deliver a notice that failed (endpoint)"),
            dropped: register.counter("notices_dropped", "Notices that were given up (endpoint)"),
            pending: register.gauge("notices_pending", "Notices that wait to be delivered (endpoint)"),
            disabled: register.gauge("notices_disabled", "1 while an endpoint gets no notices (endpoint)"),
        }
    }

    /// Makes an endpoint's series appear with zeros.
    pub fn announce(&self, endpoint: &str) {
        let of = labels([("endpoint", endpoint)]);
        for counter in [&self.delivered, &self.failed, &self.dropped] {
            counter.get_or_create(&of).inc_by(0);
        }
        self.disabled.get_or_create(&of).set(0);
    }
}

/// 1 ms to about 35 min.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 22))
}

impl Metrics {
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("soloist");
        let mut register = Registration(&mut registry);
        let mut metrics = Self {
            events_accepted: register.counter("events_accepted", "Login events answered 202, new ones (tenant, via)"),
            events_duplicate: register
                .counter("events_duplicate", "Login events answered 202 that had been accepted before (tenant)"),
            events_ignored: register.counter("events_ignored", "Signed webhook requests about other events (tenant)"),
            events_refused: register.counter("events_refused", "Webhook requests that were refused (reason)"),
            queue_messages: register.gauge("queue_messages", "Messages in the queue (tenant, lane, state)"),
            queue_oldest_age: register.gauge_in(
                "queue_oldest_age",
                "Age of the oldest message that waits to be handed out (tenant, lane)",
                Unit::Seconds,
            ),
            login_to_settled: register
                .histogram("login_to_settled", "From accepting a login event to settling it (tenant)"),
            deliveries_settled: register
                .counter("deliveries_settled", "Deliveries by how they ended (tenant, settlement, why)"),
            provider_calls: register.counter("provider_calls", "Calls to the provider (tenant, operation, result)"),
            decisions: register.counter("decisions", "Decisions by mode (tenant, mode, outcome)"),
            sessions_revoked: register.counter("sessions_revoked", "Sessions that were ended (tenant, reason)"),
            sessions_already_gone: register
                .counter("sessions_already_gone", "Sessions to be ended that the provider no longer knew (tenant)"),
            surplus_unresolved: register
                .counter("surplus_unresolved", "Sessions over the limit that a decision could not end (tenant)"),
            rechecks: register.counter("rechecks", "Second looks that were scheduled (tenant, why)"),
            vendor_limiter: register
                .counter("vendor_limiter", "Signs that the provider limits sessions itself (tenant, sign)"),
            sessions_from_the_future: register.counter(
                "sessions_from_the_future",
                "Sessions whose login time is more than five minutes ahead of our clock (tenant)",
            ),
            tenant_paused: register.gauge("tenant_paused", "1 while a tenant's enforcement is paused (tenant, cause)"),
            directives_stale: register
                .gauge("directives_stale", "1 while directives are too old to end a session by (tenant)"),
            decisions_held: register
                .counter("decisions_held", "Decisions with surplus that was not ended (tenant, why)"),
            contended_users: register.gauge("contended_users", "Users whose devices end each other for ever (tenant)"),
            budget_breached: register
                .gauge("budget_breached", "1 while a tenant is only observed because its budget is used up (tenant)"),
            budget_granted: register
                .gauge("budget_granted", "Sessions granted to be ended within an hour, at the last grant (tenant)"),
            ledger_lost: Counter::default(),
            sweep_users: register.gauge("sweep_users", "Users that the sweep knows (tenant)"),
            sweep_oldest_age: register.gauge_in("sweep_oldest_age", "Longest wait for a look (tenant)", Unit::Seconds),
            sweep_interval: register.gauge_in("sweep_interval", "How long a sweep takes (tenant)", Unit::Seconds),
            sweep_looks: register.counter("sweep_looks", "Looks that the sweep asked for (tenant)"),
            broker_up: register.single("broker_up", "1 while the broker takes messages"),
            broker_delayed: register
                .single("broker_delayed_messages", "Messages of all tenants that wait for their time"),
            broker_dead: register.single("broker_dead_messages", "Given-up messages that no control has taken in yet"),
            notices: NoticeMetrics::new(&mut register),
            api: ApiMetrics::new(&mut register),
            spooling: register.single("spooling", "1 while events go to the journal instead of the broker"),
            spool_bytes: register.single_in("spool", "What waits in the journal for the broker", Unit::Bytes),
            spool_messages: register.single("spool_messages", "Events in the journal that wait for the broker"),
            spool_oldest_age: register.single_in(
                "spool_oldest_age",
                "Age of the oldest event that waits in the journal for the broker",
                Unit::Seconds,
            ),
            registry: Arc::default(),
        };
        register.0.register("ledger_lost", "Records that the ledger could not keep", metrics.ledger_lost.clone());
        metrics.registry = Arc::new(registry);
        metrics
    }

    /// Makes a tenant's series appear with zeros, so that a rate over them is right from the first event on.
    pub fn announce(&self, tenant: &TenantId) {
        for lane in Lane::ALL {
            for state in ["ready", "unsettled", "delayed", "dead"] {
                let of = labels([("tenant", tenant.as_str()), ("lane", lane.as_str()), ("state", state)]);
                self.queue_messages.get_or_create(&of).set(0);
            }
        }
        let tenant_label = labels([("tenant", tenant.as_str())]);
        self.events_duplicate.get_or_create(&tenant_label).inc_by(0);
        self.events_ignored.get_or_create(&tenant_label).inc_by(0);
        self.sessions_from_the_future.get_or_create(&tenant_label).inc_by(0);
        for sign in ["error_1338", "sessions_limit"] {
            self.vendor_limiter.get_or_create(&labels([("tenant", tenant.as_str()), ("sign", sign)])).inc_by(0);
        }
        for why in ["refused", "attempts_exhausted"] {
            let of = labels([("tenant", tenant.as_str()), ("settlement", "dead_letter"), ("why", why)]);
            self.deliveries_settled.get_or_create(&of).inc_by(0);
        }
        for cause in ["outage", "unauthorized"] {
            self.tenant_paused.get_or_create(&labels([("tenant", tenant.as_str()), ("cause", cause)])).set(0);
        }
    }

    /// The Prometheus text format.
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing into a string cannot fail.
        encode(&mut text, &self.registry).ok();
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

struct Registration<'a>(&'a mut Registry);

impl Registration<'_> {
    fn counter(&mut self, name: &str, help: &str) -> Family<Labels, Counter> {
        let family = Family::<Labels, Counter>::default();
        self.0.register(name, help, family.clone());
        family
    }

    fn gauge(&mut self, name: &str, help: &str) -> Family<Labels, Gauge> {
        let family = Family::<Labels, Gauge>::default();
        self.0.register(name, help, family.clone());
        family
    }

    /// In seconds.
    fn histogram(&mut self, name: &str, help: &str) -> Family<Labels, Histogram> {
        let family = Family::<Labels, Histogram>::new_with_constructor(seconds);
        self.0.register_with_unit(name, help, Unit::Seconds, family.clone());
        family
    }

    fn single(&mut self, name: &str, help: &str) -> Gauge {
        let gauge = Gauge::default();
        self.0.register(name, help, gauge.clone());
        gauge
    }

    fn single_in(&mut self, name: &str, help: &str, unit: Unit) -> Gauge {
        let gauge = Gauge::default();
        self.0.register_with_unit(name, help, unit, gauge.clone());
        gauge
    }

    fn gauge_in(&mut self, name: &str, help: &str, unit: Unit) -> Family<Labels, Gauge> {
        let family = Family::<Labels, Gauge>::default();
        self.0.register_with_unit(name, help, unit, family.clone());
        family
    }
}

/// An error with its causes, on one line: for one that is only lent, which `anyhow` cannot show so.
pub fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text = format!("{text}: {source}");
        cause = source.source();
    }
    text
}
