//! One installation on a broker: webhook, worker and control processes, each with a data folder of its own, and the
//! sandbox that they work against.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use soloist::sandbox::{Faults, Sandbox, SandboxConfig};
use tempfile::TempDir;

use crate::support::process::{Serving, command};
use crate::support::soon;

/// What a process says of each delivery, and of its troubles with the broker.
const LOG: &str = "info,soloist::worker=debug,soloist::queue=debug";
/// Users that a worker looks at side by side.
const STEPS_AT_ONCE: usize = 8;
/// Lines of each process that a failed test shows.
const LINES_SHOWN: usize = 12;

/// Where webhooks are taken now.
pub(super) type Doors = Arc<Mutex<BTreeMap<String, String>>>;

pub(super) struct Fleet {
    pub(super) sandbox: Arc<Sandbox>,
    pub(super) doors: Doors,
    variables: Vec<(String, String)>,
    folder: TempDir,
    running: BTreeMap<String, Serving>,
    /// What processes that have ended had logged.
    ended: Vec<String>,
    /// Processes that ever were, for the name of the next.
    started: usize,
    /// Events that workers which were killed may have settled, but had no time to log.
    pub(super) unsaid_max: usize,
}

impl Fleet {
    /// No process yet.
    pub(super) async fn empty(url: &str) -> Self {
        let sandbox = Sandbox::start(SandboxConfig::default()).await.unwrap();
        sandbox.set_faults(Faults { latency_ms: 2, jitter_ms: 5, ..Faults::default() });
        let variables = [
            ("SOLOIST_QUEUE__BACKEND", "rabbitmq"),
            ("SOLOIST_QUEUE__RABBITMQ__URL", url),
            ("SOLOIST_TELEMETRY__LOG", LOG),
            ("SOLOIST_WORKER__CONCURRENCY", &STEPS_AT_ONCE.to_string()),
            // So few users log in so often that they look like two who share an account.
            ("SOLOIST_GUARD__ACTION", "continue"),
        ];
        Self {
            sandbox: Arc::new(sandbox),
            doors: Doors::default(),
            variables: variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            folder: tempfile::tempdir().unwrap(),
            running: BTreeMap::new(),
            ended: Vec::new(),
            started: 0,
            unsaid_max: 0,
        }
    }

    /// A further option for all processes that start from now on.
    pub(super) fn set(&mut self, variable: &str, value: &str) {
        self.variables.push((variable.to_owned(), value.to_owned()));
    }

    /// Adds `webhook-1`… and `worker-1`… and `control-1`.
    pub(super) async fn staff(&mut self, webhooks: usize, workers: usize) {
        self.add("control-1").await;
        for (role, many) in [("worker", workers), ("webhook", webhooks)] {
            for number in 1..=many {
                self.add(&format!("{role}-{number}")).await;
            }
        }
    }

    /// Starts the process of this name, which begins with its role. Whoever had the name before leaves it his folder.
    pub(super) async fn add(&mut self, name: &str) {
        let folder = self.folder.path().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let variables: Vec<(&str, &str)> =
            self.variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let mut command = command(&folder, &self.sandbox.url(), &variables);
        let (role, _) = name.split_once('-').unwrap();
        command.args(["--role", role]);
        let serving = Serving::start(command, &folder).await;
        if role == "webhook" {
            self.doors.lock().unwrap().insert(name.to_owned(), serving.webhook_url.clone());
        }
        self.started += 1;
        assert!(self.running.insert(name.to_owned(), serving).is_none(), "{name} runs already");
    }

    /// Starts another process of this role, on a folder of its own.
    pub(super) async fn add_another(&mut self, role: &str) {
        self.add(&format!("{role}-{}", self.started + 1)).await;
    }

    /// `kill -9`.
    pub(super) async fn kill(&mut self, name: &str) {
        if name.starts_with("worker") {
            self.unsaid_max += STEPS_AT_ONCE;
        }
        let serving = self.take(name);
        self.ended.extend(serving.kill().await);
    }

    /// SIGTERM, after which it must end well.
    pub(super) async fn stop(&mut self, name: &str) {
        let (code, log) = self.take(name).stop().await;
        assert_eq!(code, 0, "{name} ended badly:\n{}", log[log.len().saturating_sub(LINES_SHOWN)..].join("\n"));
        self.ended.extend(log);
    }

    pub(super) async fn stop_all(&mut self) {
        for name in self.names("") {
            self.stop(&name).await;
        }
    }

    fn take(&mut self, name: &str) -> Serving {
        self.doors.lock().unwrap().remove(name);
        self.running.remove(name).unwrap_or_else(|| panic!("{name} does not run"))
    }

    /// Those of one role, or all.
    pub(super) fn names(&self, role: &str) -> Vec<String> {
        self.running.keys().filter(|name| name.starts_with(role)).cloned().collect()
    }

    pub(super) fn process(&self, name: &str) -> &Serving {
        &self.running[name]
    }

    /// Waits until every process is ready, the broker's side of it included.
    pub(super) async fn ready(&self) {
        for (name, serving) in &self.running {
            let ready = async {
                let mut pause = tokio::time::interval(Duration::from_millis(50));
                while serving.admin("/readyz").await["status"] != "ready" {
                    pause.tick().await;
                }
            };
            soon(&format!("{name} to be ready"), ready).await;
        }
    }

    /// Events in the journals of all processes, on their way to the broker.
    pub(super) async fn spooled(&self) -> u64 {
        let mut spooled = 0;
        for serving in self.running.values() {
            let status = serving.admin("/admin/v1/status").await;
            spooled += status["broker"]["spool_messages"].as_u64().unwrap();
        }
        spooled
    }

    /// Waits until events go to the journals.
    pub(super) async fn spools(&self, at_least: u64) {
        soon("events in the journals", async {
            let mut pause = tokio::time::interval(Duration::from_millis(50));
            while self.spooled().await < at_least {
                pause.tick().await;
            }
        })
        .await;
    }

    /// Waits until a worker has stopped to call a tenant's provider.
    pub(super) async fn pauses(&self, worker: &str, tenant: &str) {
        soon(&format!("{worker} to pause {tenant}"), async {
            let mut pause = tokio::time::interval(Duration::from_millis(50));
            loop {
                let status = self.process(worker).admin("/admin/v1/status").await;
                let tenants = status["tenants"].as_array().unwrap();
                if tenants.iter().any(|known| known["tenant"] == tenant && known["state"] != "running") {
                    return;
                }
                pause.tick().await;
            }
        })
        .await;
    }

    /// Messages that were given up, as `control` keeps them.
    pub(super) async fn dead_letters(&self) -> usize {
        let dead = self.process("control-1").admin("/admin/v1/dead-letters").await;
        dead["dead_letters"].as_array().unwrap().len()
    }

    /// How often each login event was settled, as the workers say.
    pub(super) fn settled(&self) -> BTreeMap<String, usize> {
        let mut settled = BTreeMap::new();
        let logs = self.running.values().map(Serving::log);
        for line in logs.flatten().chain(self.ended.iter().cloned()) {
            let said = line.split_once("settled event `").and_then(|(_, rest)| rest.split_once("` (login): "));
            if let Some((id, "ack" | "recheck")) = said.map(|(id, how)| (id, how.split(' ').next().unwrap_or(how))) {
                *settled.entry(id.to_owned()).or_default() += 1;
            }
        }
        settled
    }
}

impl Drop for Fleet {
    /// Shows the end of every log when the test fails.
    fn drop(&mut self) {
        if std::thread::panicking() {
            for (name, serving) in &self.running {
                let mut log = serving.log();
                log.retain(|line| !line.contains("ended session") && !line.contains("settled event"));
                eprintln!("--- {name}\n{}", log[log.len().saturating_sub(LINES_SHOWN)..].join("\n"));
            }
        }
    }
}
