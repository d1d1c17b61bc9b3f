//! Every option: read once from file and environment, checked at once, and from then on plain data.
//!
//! A TOML file comes first, then variables `SOLOIST_<SECTION>__<KEY>`, which win. Every secret can also be given as the
//! path of a file that holds it, in `<key>_file`. `options` has the table that all of this follows, so a new option is
//! a field here, a line there, and a line in `deploy/soloist.example.toml`.

mod admin;
mod api;
mod brakes;
mod grammar;
mod ledger;
mod mistake;
mod notify;
mod options;
mod policies;
mod policy_file;
mod rabbitmq;
mod reader;
mod settings;
mod sweep;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;
use serde_json::Value;

pub use self::admin::AdminConfig;
pub use self::api::{ApiConfig, AppKey, Scope};
pub use self::brakes::{BudgetConfig, DirectivesConfig, GuardAction, GuardConfig, Revocations};
pub use self::grammar::{Grammar, duration};
pub use self::ledger::LedgerConfig;
pub use self::mistake::{ConfigError, Mistake};
pub use self::notify::{NotifyEndpoint, NotifyEvent, NotifyFormat, webhook_secret};
pub use self::options::{OptionDoc, options};
pub use self::policies::WrittenPolicies;
pub use self::policy_file::PolicyFile;
pub use self::rabbitmq::{Backend, RabbitmqConfig};
use self::reader::Reader;
pub use self::settings::{Origin, toml_value};
use self::settings::{Settings, chosen_file};
pub use self::sweep::SweepConfig;
use crate::model::TenantId;

/// Where a configuration comes from.
#[derive(Clone, Debug, Default)]
pub struct ConfigSources {
    /// The file of `--config`. Without it: the one that the variable `SOLOIST_CONFIG` names.
    pub file: Option<PathBuf>,
    /// The file to take if it exists and no other is named.
    pub default_file: Option<PathBuf>,
    /// The environment. Names that do not start with `SOLOIST_` are passed over.
    pub env: BTreeMap<String, String>,
}

/// The whole configuration. Every value in it follows its rules.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file that was read.
    pub file: Option<PathBuf>,
    pub data_dir: PathBuf,
    pub webhook: WebhookConfig,
    pub queue: QueueConfig,
    /// The `[policy]` table as written: what a tenant's own table adds to.
    pub policy: Value,
    /// At least one.
    pub tenants: BTreeMap<TenantId, TenantConfig>,
    pub worker: WorkerConfig,
    pub sweep: SweepConfig,
    pub api: ApiConfig,
    pub directives: DirectivesConfig,
    pub budget: BudgetConfig,
    pub guard: GuardConfig,
    pub admin: AdminConfig,
    pub ledger: LedgerConfig,
    /// Each with a name of its own.
    pub notify: Vec<NotifyEndpoint>,
    /// The file of texts that notices have instead of ours.
    pub notify_texts: Option<PathBuf>,
    pub telemetry: TelemetryConfig,
    effective: Vec<Effective>,
}

/// `[webhook]`: the public listener.
#[derive(Clone, Debug)]
pub struct WebhookConfig {
    pub listen: SocketAddr,
    /// Given if and only if `tls_key` is.
    pub tls_cert: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
    pub body_bytes_max: usize,
    pub header_timeout: Duration,
    pub body_timeout: Duration,
    pub in_flight_max: usize,
    pub connections_max: usize,
    pub dedupe_ids_max: usize,
    pub dedupe_window: Duration,
}

/// `[queue]`: where events wait.
#[derive(Clone, Debug)]
pub struct QueueConfig {
    pub backend: Backend,
    pub rabbitmq: RabbitmqConfig,
    pub messages_max: u64,
    pub batch_max: usize,
}

/// `[loginradius]` with `[policy]`, or one `[tenants.<name>]`.
#[derive(Clone, Debug)]
pub struct TenantConfig {
    pub loginradius: LoginRadiusSection,
    /// The tenant's own policy table as written. The default tenant's is [`Config::policy`].
    pub policy: Value,
    /// Where `policy` stands, for messages: `policy` or `tenants.<name>.policy`.
    pub policy_path: String,
}

impl TenantConfig {
    /// The tenant's own policy table and where it stands; the default tenant has none besides `[policy]`.
    fn own_policy<'a>(&'a self, id: &'a TenantId) -> Option<(&'a TenantId, &'a Value, &'a str)> {
        (self.policy_path != "policy").then_some((id, &self.policy, self.policy_path.as_str()))
    }
}

/// `[loginradius]`: the access to one tenant's API.
#[derive(Clone, Debug)]
pub struct LoginRadiusSection {
    /// Without a trailing slash; https, or http on this machine.
    pub api_url: String,
    pub api_key: SecretString,
    pub api_secret: SecretString,
    /// At least one.
    pub webhook_secrets: Vec<SecretString>,
    pub requests_per_second: Rate,
    pub timeout: Duration,
    pub connect_timeout: Duration,
    pub credentials_in: CredentialsIn,
}

/// How often something may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rate {
    PerSecond(NonZeroU32),
    Unlimited,
}

/// Where key and secret travel in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialsIn {
    Headers,
    Query,
}

/// `[worker]`: limits of the enforcement.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// For each tenant.
    pub concurrency: usize,
    pub step_deadline: Duration,
    pub revokes_per_step_max: usize,
    /// The first one included.
    pub attempts_max: u32,
    pub drain_timeout: Duration,
}

/// `[telemetry]`: what is logged, and how.
#[derive(Clone, Debug)]
pub struct TelemetryConfig {
    /// Filter directives that were checked.
    pub log: String,
    pub log_format: LogFormat,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Human,
    Json,
}

/// An option with the value that it has now, as it may be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    pub path: String,
    /// `(hidden)` for a secret, `(not set)` where there is neither a value nor a default.
    pub value: String,
    pub origin: Origin,
}

impl Config {
    /// Reads this process's environment, and `./soloist.toml` if no other file is named.
    pub fn from_process(file: Option<PathBuf>) -> Result<Self, ConfigError> {
        let (mut env, mut mistakes) = (BTreeMap::new(), Vec::new());
        for (name, value) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if !name.starts_with("SOLOIST_") {
                continue;
            }
            if let Ok(value) = value.into_string() {
                env.insert(name, value);
            } else {
                let problem = "must be UTF-8".to_owned();
                mistakes.push(Mistake { path: name, value: None, origin: None, problem });
            }
        }
        if !mistakes.is_empty() {
            return Err(ConfigError(mistakes));
        }
        Self::load(&ConfigSources { file, default_file: Some("./soloist.toml".into()), env })
    }

    /// The configuration that these sources give, or everything that is wrong with them.
    pub fn load(sources: &ConfigSources) -> Result<Self, ConfigError> {
        let file = chosen_file(sources);
        let mut reader = Reader::new(Settings::gather(sources, file.as_deref())?);
        let mut config = Self {
            file,
            data_dir: reader.take("data_dir"),
            webhook: read_webhook(&mut reader),
            queue: read_queue(&mut reader),
            policy: reader.policy(),
            tenants: read_tenants(&mut reader),
            worker: WorkerConfig {
                concurrency: reader.take("worker.concurrency"),
                step_deadline: reader.take("worker.step_deadline"),
                revokes_per_step_max: reader.take("worker.revokes_per_step_max"),
                attempts_max: reader.take("worker.attempts_max"),
                drain_timeout: reader.take("worker.drain_timeout"),
            },
            sweep: sweep::read(&mut reader),
            api: api::read(&mut reader),
            admin: admin::read(&mut reader),
            directives: brakes::read_directives(&mut reader),
            budget: brakes::read_budget(&mut reader),
            guard: brakes::read_guard(&mut reader),
            ledger: ledger::read(&mut reader),
            notify: Vec::new(),
            notify_texts: reader.take_optional("notify_texts"),
            telemetry: TelemetryConfig {
                log: reader.take("telemetry.log"),
                log_format: reader.take("telemetry.log_format"),
            },
            effective: Vec::new(),
        };
        config.notify = notify::read(&mut reader, &config.tenants);
        if config.admin.listen == config.webhook.listen && config.admin.listen.port() != 0 {
            reader.blame("admin.listen", "must differ from webhook.listen");
        }
        for (path, problem) in policies::mistakes(&config) {
            reader.blame_policy(path, problem);
        }
        reader.note_unknown();
        config.effective = reader.finish()?;
        Ok(config)
    }

    /// Every option with its value and where that comes from; secrets are hidden.
    pub fn effective(&self) -> &[Effective] {
        &self.effective
    }
}

fn read_webhook(reader: &mut Reader) -> WebhookConfig {
    let webhook = WebhookConfig {
        listen: reader.take("webhook.listen"),
        tls_cert: reader.take_optional("webhook.tls_cert"),
        tls_key: reader.take_optional("webhook.tls_key"),
        body_bytes_max: reader.take("webhook.body_bytes_max"),
        header_timeout: reader.take("webhook.header_timeout"),
        body_timeout: reader.take("webhook.body_timeout"),
        in_flight_max: reader.take("webhook.in_flight_max"),
        connections_max: reader.take("webhook.connections_max"),
        dedupe_ids_max: reader.take("webhook.dedupe_ids_max"),
        dedupe_window: reader.take("webhook.dedupe_window"),
    };
    for (given, missing) in [("webhook.tls_cert", "webhook.tls_key"), ("webhook.tls_key", "webhook.tls_cert")] {
        if reader.is_set(given) && !reader.is_set(missing) {
            reader.blame(missing, format!("is missing; {given} is of no use without it"));
        }
    }
    webhook
}

fn read_queue(reader: &mut Reader) -> QueueConfig {
    let backend = reader.take("queue.backend");
    QueueConfig {
        backend,
        rabbitmq: rabbitmq::read(reader, backend),
        messages_max: reader.take("queue.messages_max"),
        batch_max: reader.take("queue.batch_max"),
    }
}

fn read_tenants(reader: &mut Reader) -> BTreeMap<TenantId, TenantConfig> {
    let mut tenants = BTreeMap::new();
    let names = reader.settings().tenant_names();
    if reader.settings().mentions(&["loginradius"]) {
        let policy = reader.settings().table(&["policy".to_owned()]);
        if let Some(loginradius) = read_loginradius(reader) {
            let tenant = TenantConfig { loginradius, policy, policy_path: "policy".to_owned() };
            tenants.insert(TenantId::default_tenant(), tenant);
        }
    } else if names.is_empty() {
        let variables = "SOLOIST_LOGINRADIUS__API_KEY and SOLOIST_LOGINRADIUS__API_SECRET";
        reader.blame("loginradius", format!("no tenant has credentials; set api_key and api_secret, or {variables}"));
    }
    for name in names {
        reader.enter(Some(&name));
        match TenantId::parse(&name) {
            Ok(tenant) if tenant == TenantId::default_tenant() => {
                reader.blame("", "the tenant \"default\" is what [loginradius] and [policy] say");
            }
            Ok(tenant) => {
                let (policy, policy_path) = (reader.policy(), reader.path("policy"));
                if let Some(loginradius) = read_loginradius(reader) {
                    tenants.insert(tenant, TenantConfig { loginradius, policy, policy_path });
                }
            }
            Err(error) => reader.blame("", format!("the name of {error}")),
        }
    }
    reader.enter(None);
    tenants
}

/// `None`: key or secret is missing, which is noted.
fn read_loginradius(reader: &mut Reader) -> Option<LoginRadiusSection> {
    let api_url = reader.take("loginradius.api_url");
    let api_key: Option<SecretString> = reader.take_optional("loginradius.api_key");
    let api_secret: Option<SecretString> = reader.take_optional("loginradius.api_secret");
    let webhook_secrets: Option<Vec<SecretString>> = reader.take_optional("loginradius.webhook_secrets");
    let requests_per_second = reader.take("loginradius.requests_per_second");
    let timeout = reader.take("loginradius.timeout");
    let connect_timeout = reader.take("loginradius.connect_timeout");
    let credentials_in = reader.take("loginradius.credentials_in");
    for required in ["loginradius.api_key", "loginradius.api_secret"] {
        if !reader.is_set(required) {
            reader.blame(required, "is missing; the tenant cannot start without it");
        }
    }
    let api_secret = api_secret?;
    let webhook_secrets = webhook_secrets.unwrap_or_else(|| vec![api_secret.clone()]);
    Some(LoginRadiusSection {
        api_url,
        api_key: api_key?,
        api_secret,
        webhook_secrets,
        requests_per_second,
        timeout,
        connect_timeout,
        credentials_in,
    })
}

/// The user of this shell, as its environment says.
pub fn user_name() -> Option<String> {
    let names = ["SUDO_USER", "USER", "LOGNAME"].into_iter().filter_map(std::env::var_os);
    names.filter_map(|name| name.into_string().ok()).find(|name| !name.is_empty())
}
