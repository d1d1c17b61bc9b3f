//! The real service, built as in production, against a sandbox in the same process.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use secrecy::ExposeSecret as _;
use serde_json::Value;
use soloist::app;
use soloist::config::{Config, ConfigSources};
use soloist::sandbox::{Sandbox, SandboxConfig};
use soloist::telemetry::Metrics;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::soon;

pub(crate) const API_SECRET: &str = "sandbox-secret";

/// A running service with its sandbox.
pub(crate) struct Service {
    pub(crate) sandbox: Sandbox,
    pub(crate) data_dir: TempDir,
    pub(crate) webhook_url: String,
    pub(crate) admin_url: String,
    pub(crate) admin_key: String,
    pub(crate) metrics: Metrics,
    pub(crate) client: reqwest::Client,
    stop: CancellationToken,
    running: JoinSet<anyhow::Result<()>>,
}

/// The configuration of a service that works against `api_url`, with options on top.
pub(crate) fn config(data_dir: &Path, api_url: &str, options: &[(&str, &str)]) -> Config {
    let mut env: BTreeMap<String, String> = [
        ("SOLOIST_DATA_DIR", data_dir.to_str().unwrap()),
        ("SOLOIST_WEBHOOK__LISTEN", "127.0.0.1:0"),
        ("SOLOIST_ADMIN__LISTEN", "127.0.0.1:0"),
        ("SOLOIST_LOGINRADIUS__API_URL", api_url),
        ("SOLOIST_LOGINRADIUS__API_KEY", "sandbox-key"),
        ("SOLOIST_LOGINRADIUS__API_SECRET", API_SECRET),
        ("SOLOIST_LOGINRADIUS__REQUESTS_PER_SECOND", "unlimited"),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect();
    env.extend(options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    Config::load(&ConfigSources { file: None, default_file: None, env }).unwrap()
}

impl Service {
    pub(crate) async fn start() -> Self {
        Self::start_with(SandboxConfig::default(), &[]).await
    }

    pub(crate) async fn start_with(sandbox: SandboxConfig, options: &[(&str, &str)]) -> Self {
        let sandbox = Sandbox::start(sandbox).await.unwrap();
        Self::start_on(sandbox, tempfile::tempdir().unwrap(), options).await
    }

    pub(crate) async fn start_on(sandbox: Sandbox, data_dir: TempDir, options: &[(&str, &str)]) -> Self {
        let app = app::build(&config(data_dir.path(), &sandbox.url(), options)).await.unwrap();
        let webhook_url = format!("http://{}/webhooks/loginradius", app.webhook_addr().unwrap());
        let admin_url = format!("http://{}", app.admin_addr());
        let admin_key = app.admin_key().expose_secret().to_owned();
        let metrics = app.metrics();
        sandbox.set_webhook_url(Some(&webhook_url)).unwrap();
        let stop = CancellationToken::new();
        let mut running = JoinSet::new();
        running.spawn(app.run(stop.clone()));
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { sandbox, data_dir, webhook_url, admin_url, admin_key, metrics, client, stop, running }
    }

    /// Asks the admin API with the key.
    pub(crate) async fn admin(&self, method: &str, path: &str) -> (u16, Value) {
        let method = method.parse().unwrap();
        let request = self.client.request(method, format!("{}{path}", self.admin_url)).bearer_auth(&self.admin_key);
        let response = soon("the admin API", request.send()).await.unwrap();
        let status = response.status().as_u16();
        (status, serde_json::from_slice(&response.bytes().await.unwrap()).unwrap_or(Value::Null))
    }

    /// The same with a body.
    pub(crate) async fn tell(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let request = self.client.request(method.parse().unwrap(), format!("{}{path}", self.admin_url));
        let response = soon("the admin API", request.bearer_auth(&self.admin_key).json(body).send()).await.unwrap();
        let status = response.status().as_u16();
        (status, serde_json::from_slice(&response.bytes().await.unwrap()).unwrap_or(Value::Null))
    }

    /// What waits in the queue, delayed and dead included.
    pub(crate) async fn queued(&self) -> (u64, u64, u64) {
        let (_, status) = self.admin("GET", "/admin/v1/status").await;
        let sum = |state: &str| status["queue"].as_array().unwrap().iter().map(|l| l[state].as_u64().unwrap()).sum();
        (sum("ready"), sum("delayed"), sum("dead"))
    }

    /// A metric's value, 0 if it is not there; `series` is name and labels as rendered.
    pub(crate) fn metric(&self, series: &str) -> u64 {
        let text = self.metrics.render();
        let line = text.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')));
        line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
    }

    /// Waits until `holds`, asking again and again.
    pub(crate) async fn until(&self, what: &str, holds: impl AsyncFnMut(&Self) -> bool) {
        self.until_within(super::PATIENCE, what, holds).await;
    }

    async fn until_within(&self, patience: Duration, what: &str, mut holds: impl AsyncFnMut(&Self) -> bool) {
        let asked = tokio::time::timeout(patience, async {
            let mut pause = tokio::time::interval(Duration::from_millis(5));
            while !holds(self).await {
                pause.tick().await;
            }
        });
        asked.await.unwrap_or_else(|_| panic!("waited {patience:?} for {what}"));
    }

    /// Waits until every webhook that was sent is answered and every message is settled.
    pub(crate) async fn settled(&self) {
        self.settled_within(super::PATIENCE).await;
    }

    pub(crate) async fn settled_within(&self, patience: Duration) {
        soon("the webhooks", self.sandbox.webhooks_settled()).await;
        self.until_within(patience, "every message to be settled", async |service| service.open().await == 0).await;
    }

    /// Messages that wait, are held by a worker, or are dead: from one answer, since they move between these.
    async fn open(&self) -> u64 {
        let (_, status) = self.admin("GET", "/admin/v1/status").await;
        let lanes = status["queue"].as_array().unwrap();
        let states = ["ready", "unsettled", "delayed", "dead"];
        lanes.iter().flat_map(|lane| states.map(|state| lane[state].as_u64().unwrap())).sum()
    }

    pub(crate) async fn stop(mut self) -> (Sandbox, TempDir) {
        self.set_down().await;
        (self.sandbox, self.data_dir)
    }

    /// Stops the service; sandbox and data folder stay.
    pub(crate) async fn set_down(&mut self) {
        self.stop.cancel();
        soon("the service to stop", self.running.join_next()).await.unwrap().unwrap().unwrap();
    }
}
