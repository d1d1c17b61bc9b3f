//! `soloist sandbox`: the LoginRadius emulator alone, and what can be asked of one that runs.

mod control;
mod flags;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use super::output;
use crate::config::{LogFormat, TelemetryConfig};
use crate::sandbox::{Sandbox, SandboxConfig};
use crate::telemetry;

const EXAMPLES: &str = "Examples:
  soloist sandbox --webhook http://127.0.0.1:8080/webhooks/loginradius
  soloist sandbox login ann --count 20
  soloist sandbox faults '{\"throttled_percent\": 20}'
  soloist sandbox report";

/// Run a LoginRadius emulator: users, sessions, webhooks, faults; nothing in it is real
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
pub(super) struct SandboxArgs {
    #[command(flatten)]
    flags: flags::SandboxFlags,
    #[command(subcommand)]
    command: Option<SandboxCommand>,
}

#[derive(Subcommand)]
enum SandboxCommand {
    Login(control::LoginArgs),
    Report(control::ReportArgs),
    Faults(control::FaultsArgs),
}

pub(super) async fn run(args: SandboxArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        None => serve(args.flags.config()).await,
        Some(SandboxCommand::Login(args)) => control::login(args).await,
        Some(SandboxCommand::Report(args)) => control::report(args).await,
        Some(SandboxCommand::Faults(args)) => control::faults(args).await,
    }
}

async fn serve(config: SandboxConfig) -> anyhow::Result<ExitCode> {
    telemetry::set_up_logs(&TelemetryConfig { log: "warn".to_owned(), log_format: LogFormat::Human })?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for signals")?;
    let (key, secret) = (config.api_key.clone(), config.api_secret.clone());
    let webhook = config.webhook.clone();
    let mut sandbox = Sandbox::start(config).await?;
    output::line(format_args!("sandbox: a LoginRadius emulator on {}", sandbox.url()))?;
    output::line(format_args!("  credentials   api_key {key}, api_secret {secret} (not real, like everything in it)"))?;
    let webhook = webhook.as_deref().unwrap_or("nowhere: give --webhook URL");
    output::line(format_args!("  login events  {webhook}"))?;
    output::line(format_args!("  log users in  soloist sandbox login ann --count 3 --url {}", sandbox.url()))?;
    tokio::select! {
        error = sandbox.failed() => return Err(error),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    sandbox.stop().await;
    Ok(ExitCode::SUCCESS)
}
