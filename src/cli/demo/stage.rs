//! What the demo plays on: the pretend LoginRadius and the whole real service, in this process, on one folder.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::FutureExt as _;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::app::{self, Inside};
use crate::config::{Config, ConfigSources};
use crate::sandbox::{Sandbox, SandboxConfig};

/// How long the service may take to stop once everything is settled.
const STOP_WAIT: Duration = Duration::from_secs(10);

/// Both of them, running.
pub(super) struct Stage {
    pub(super) sandbox: Sandbox,
    pub(super) inside: Inside,
    service: JoinSet<anyhow::Result<()>>,
    stop: CancellationToken,
}

impl Stage {
    /// Starts both. `logins_max`: how many logins will come at most.
    pub(super) async fn start(folder: &Path, logins_max: usize) -> anyhow::Result<Self> {
        let webhook_queue_max = logins_max.saturating_add(1);
        let sandbox = Sandbox::start(SandboxConfig { webhook_queue_max, ..SandboxConfig::default() }).await?;
        let app = app::build(&config(folder, &sandbox.url())?).await.context("the service does not start")?;
        let webhook = app.webhook_addr().context("the service takes no webhooks")?;
        sandbox.set_webhook_url(Some(&format!("http://{webhook}/webhooks/loginradius")))?;
        let inside = app.inside();
        let (mut service, stop) = (JoinSet::new(), CancellationToken::new());
        service.spawn(app.run(stop.clone()));
        Ok(Self { sandbox, inside, service, stop })
    }

    /// Fails if either has ended by itself.
    pub(super) fn check(&mut self) -> anyhow::Result<()> {
        if let Some(ended) = self.service.try_join_next() {
            ended?.context("the service has failed")?;
            anyhow::bail!("the service has ended by itself");
        }
        self.sandbox.failed().now_or_never().map_or(Ok(()), Err)
    }

    /// Whether every webhook is answered and every message settled.
    pub(super) async fn is_settled(&self) -> anyhow::Result<bool> {
        let webhooks_answered = self.sandbox.webhooks_settled().now_or_never().is_some();
        Ok(webhooks_answered && self.inside.waiting().await?.open() == 0)
    }

    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        self.stop.cancel();
        let ended = timeout(STOP_WAIT, self.service.join_next()).await;
        self.sandbox.stop().await;
        match ended.with_context(|| format!("the service did not stop within {} s", STOP_WAIT.as_secs()))? {
            Some(result) => result?.context("the service did not stop in order"),
            None => Ok(()),
        }
    }
}

/// As `soloist serve` would read it from the environment.
fn config(folder: &Path, api_url: &str) -> anyhow::Result<Config> {
    let folder = folder.to_str().context("the temporary folder's name is no UTF-8")?;
    let env: BTreeMap<String, String> = [
        ("SOLOIST_DATA_DIR", folder),
        ("SOLOIST_WEBHOOK__LISTEN", "127.0.0.1:0"),
        ("SOLOIST_ADMIN__LISTEN", "127.0.0.1:0"),
        ("SOLOIST_LOGINRADIUS__API_URL", api_url),
        ("SOLOIST_LOGINRADIUS__API_KEY", "sandbox-key"),
        ("SOLOIST_LOGINRADIUS__API_SECRET", "sandbox-secret"),
        ("SOLOIST_LOGINRADIUS__REQUESTS_PER_SECOND", "unlimited"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    Ok(Config::load(&ConfigSources { file: None, default_file: None, env })?)
}
