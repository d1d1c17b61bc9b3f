//! The real binary as a process of its own, to be killed, limited and listened to.

use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::Value;
use sha2::Sha256;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

use super::soon;

/// A running `soloist serve`.
pub(crate) struct Serving {
    child: Child,
    /// Empty where it takes no webhooks.
    pub(crate) webhook_url: String,
    pub(crate) admin_url: String,
    admin_key: String,
    pub(crate) client: reqwest::Client,
    log: Arc<Mutex<Vec<String>>>,
    reader: JoinSet<()>,
}

/// `soloist serve` on a data folder against a LoginRadius at `api_url`, with further variables.
pub(crate) fn command(data_dir: &Path, api_url: &str, variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_soloist"));
    command.arg("serve");
    with_environment(&mut command, data_dir, api_url, variables);
    command
}

/// Nothing of the environment but what the test gives.
pub(crate) fn with_environment(command: &mut Command, data_dir: &Path, api_url: &str, variables: &[(&str, &str)]) {
    command.env_clear().current_dir(data_dir).env("PATH", std::env::var_os("PATH").unwrap());
    command.env("SOLOIST_DATA_DIR", data_dir).env("SOLOIST_LOGINRADIUS__API_URL", api_url);
    command.env("SOLOIST_LOGINRADIUS__API_KEY", "sandbox-key").env("SOLOIST_LOGINRADIUS__API_SECRET", "sandbox-secret");
    command.env("SOLOIST_LOGINRADIUS__REQUESTS_PER_SECOND", "unlimited");
    command.env("SOLOIST_WEBHOOK__LISTEN", "127.0.0.1:0").env("SOLOIST_ADMIN__LISTEN", "127.0.0.1:0");
    command.envs(variables.iter().copied());
}

impl Serving {
    pub(crate) async fn start(mut command: Command, data_dir: &Path) -> Self {
        let mut child = command.stderr(Stdio::piped()).stdin(Stdio::null()).kill_on_drop(true).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (mut webhook, mut admin) = (None, None);
        // A process that takes webhooks says so before.
        while admin.is_none() {
            let line = soon("the service to listen", lines.next_line()).await.unwrap();
            let line = line.unwrap_or_else(|| panic!("serve ended: {:?}", log.lock().unwrap()));
            webhook = webhook.or_else(|| after(&line, "listening for webhooks on "));
            admin = after(&line, "admin API on ");
            log.lock().unwrap().push(line);
        }
        let mut reader = JoinSet::new();
        let kept = Arc::clone(&log);
        reader.spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                kept.lock().unwrap().push(line);
            }
        });
        let admin_key = std::fs::read_to_string(data_dir.join("admin.key")).unwrap().trim().to_owned();
        Self {
            child,
            webhook_url: webhook.map(|addr| format!("http://{addr}/webhooks/loginradius")).unwrap_or_default(),
            admin_url: format!("http://{}", admin.unwrap()),
            admin_key,
            client: reqwest::Client::builder().no_proxy().build().unwrap(),
            log,
            reader,
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Sends SIGKILL and waits for nothing.
    pub(crate) fn strike(&mut self) {
        self.child.start_kill().unwrap();
    }

    /// No signal that it could handle: it is gone in the middle of whatever it does. Everything that was logged.
    pub(crate) async fn kill(mut self) -> Vec<String> {
        soon("the kill", self.child.kill()).await.unwrap();
        self.reader.join_all().await;
        std::mem::take(&mut *self.log.lock().unwrap())
    }

    /// SIGTERM, and the exit code with everything that was logged.
    pub(crate) async fn stop(mut self) -> (i32, Vec<String>) {
        signal(self.id(), "TERM").await;
        let status = soon("the service to stop", self.child.wait()).await.unwrap();
        self.reader.join_all().await;
        let log = std::mem::take(&mut *self.log.lock().unwrap());
        (status.code().unwrap_or(-1), log)
    }

    pub(crate) async fn admin(&self, path: &str) -> Value {
        self.admin_by("GET", path).await
    }

    pub(crate) async fn admin_by(&self, method: &str, path: &str) -> Value {
        self.try_admin(method, path).await.unwrap()
    }

    async fn try_admin(&self, method: &str, path: &str) -> reqwest::Result<Value> {
        let url = format!("{}{path}", self.admin_url);
        let request = self.client.request(method.parse().unwrap(), url).bearer_auth(&self.admin_key);
        soon("the admin API", request.send()).await?.json().await
    }

    /// The same with a body.
    pub(crate) async fn tell(&self, method: &str, path: &str, body: &Value) -> Value {
        let request = self.client.request(method.parse().unwrap(), format!("{}{path}", self.admin_url));
        let request = request.bearer_auth(&self.admin_key).json(body);
        soon("the admin API", request.send()).await.unwrap().json().await.unwrap()
    }

    /// A metric's value, 0 if it is not there; `series` is name and labels as rendered.
    pub(crate) async fn metric(&self, series: &str) -> u64 {
        let answer = soon("the metrics", self.client.get(format!("{}/metrics", self.admin_url)).send()).await.unwrap();
        let text = answer.text().await.unwrap();
        let line = text.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')));
        line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
    }

    /// Messages that are not settled: waiting, handed out and delayed; and dead ones.
    pub(crate) async fn queued(&self) -> (u64, u64) {
        self.queued_if_alive().await.unwrap()
    }

    /// The same of a process that may be about to end by itself.
    pub(crate) async fn queued_if_alive(&self) -> Option<(u64, u64)> {
        let status = self.try_admin("GET", "/admin/v1/status").await.ok()?;
        let lanes = status["queue"].as_array()?;
        let sum = |state: &str| -> u64 { lanes.iter().map(|lane| lane[state].as_u64().unwrap()).sum() };
        Some((sum("ready") + sum("unsettled") + sum("delayed"), sum("dead")))
    }

    /// Waits until nothing waits any more.
    pub(crate) async fn drained(&self) {
        soon("the queue to drain", async {
            let mut pause = tokio::time::interval(std::time::Duration::from_millis(20));
            while self.queued().await.0 > 0 {
                pause.tick().await;
            }
        })
        .await;
    }

    /// Posts a signed webhook request; the status, or `None` when the service is gone.
    pub(crate) async fn post(&self, body: String) -> Option<u16> {
        post(&self.client, &self.webhook_url, body).await
    }
}

pub(crate) async fn post(client: &reqwest::Client, url: &str, body: String) -> Option<u16> {
    let request = client.post(url).header("content-type", "application/json").header("signature", signature(&body));
    soon("an answer", request.body(body).send()).await.ok().map(|response| response.status().as_u16())
}

/// What the header `signature` has for this body.
pub(crate) fn signature(body: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(b"sandbox-secret").unwrap();
    mac.update(body.as_bytes());
    hex::encode_upper(mac.finalize().into_bytes())
}

/// Sends a signal to a process that this test started.
pub(crate) async fn signal(id: u32, name: &str) {
    let sent = Command::new("sh").args(["-c", &format!("kill -{name} {id}")]).status().await.unwrap();
    assert!(sent.success());
}

/// The address behind `words`, whatever the log's format puts around it.
fn after(line: &str, words: &str) -> Option<String> {
    let (_, rest) = line.split_once(words)?;
    rest.split(|c: char| !(c.is_ascii_digit() || c == '.' || c == ':')).next().map(str::to_owned)
}
