//! `soloist serve`: the whole service in one process, until a signal stops it.

use std::collections::BTreeSet;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{Source, Usage};
use crate::app::{self, Roles, RunningPolicies};
use crate::config::Backend;
use crate::telemetry;

const EXAMPLES: &str = "Examples:
  soloist serve --config soloist.toml
  soloist serve --role worker --config soloist.toml      one of many, with RabbitMQ
  SOLOIST_LOGINRADIUS__API_KEY=… SOLOIST_LOGINRADIUS__API_SECRET=… soloist serve

SIGTERM and SIGINT finish what has begun; a second one quits at once.
SIGHUP reads the configuration again and takes over its policies.";

/// Run the service: webhook, workers, admin API
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ServeArgs {
    /// What this process does; with the embedded queue all three, with RabbitMQ any of them
    #[arg(long, value_delimiter = ',', value_name = "ROLES", default_value = "webhook,worker,control")]
    role: Vec<Role>,
}

/// What a process does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(super) enum Role {
    Webhook,
    Worker,
    Control,
}

pub(super) async fn run(args: ServeArgs, source: Source) -> anyhow::Result<ExitCode> {
    let roles: BTreeSet<Role> = args.role.into_iter().collect();
    let has = |role| roles.contains(&role);
    let roles = Roles { webhook: has(Role::Webhook), worker: has(Role::Worker), control: has(Role::Control) };
    let config = source.read()?;
    if roles != Roles::ALL && config.queue.backend == Backend::Embedded {
        let why = "the embedded queue belongs to one process, so webhook, worker and control must run in it together: \
                   leave --role out, or set queue.backend = \"rabbitmq\"";
        return Err(Usage(why.to_owned()).into());
    }
    let source = source.again(&config);
    telemetry::set_up_logs(&config.telemetry).context("cannot set up logs")?;
    let mut signals = Signals::listen()?;
    let app = app::build_as(&config, roles).await?;
    if let Some(addr) = app.webhook_addr() {
        tracing::info!("listening for webhooks on {addr}");
    }
    tracing::info!("admin API on {}", app.admin_addr());
    let policies = app.policies(config);
    let stop = CancellationToken::new();
    let running = app.run(stop.clone());
    tokio::pin!(running);
    loop {
        tokio::select! {
            result = &mut running => {
                result?;
                tracing::info!("stopped");
                return Ok(ExitCode::SUCCESS);
            }
            told = signals.next() => match told {
                Told::Reload => reload(&policies, &source),
                Told::Stop if stop.is_cancelled() => {
                    bail!("a second signal came before everything had stopped; what was accepted is kept");
                }
                Told::Stop => {
                    tracing::info!("stopping: what has begun is finished first, a second signal quits at once");
                    stop.cancel();
                }
            },
        }
    }
}

/// Takes over the policies of the configuration as it is now, or keeps the old ones and says why.
fn reload(policies: &RunningPolicies, source: &Source) {
    match source.read().map_err(anyhow::Error::from).and_then(|config| policies.replace(&config)) {
        Err(error) => tracing::error!("the policies stay as they are: {error:#}"),
        Ok(waiting) => {
            tracing::info!("the policies were read again and hold from now on");
            if !waiting.is_empty() {
                let waiting = waiting.into_iter().collect::<Vec<_>>().join(", ");
                tracing::warn!("these options were changed too, and need a restart: {waiting}");
            }
        }
    }
}

/// What a signal asks for.
enum Told {
    Stop,
    Reload,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    reload: Signal,
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            reload: listen(SignalKind::hangup())?,
        })
    }

    /// Cancel-safe.
    async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.terminate.recv() => Told::Stop,
            _ = self.interrupt.recv() => Told::Stop,
            _ = self.reload.recv() => Told::Reload,
        }
    }
}
