//! `soloist spool`: the journal in front of the broker, where its process will not come back.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};

use super::Source;
use super::output::{self, counted};
use crate::app;
use crate::config::TelemetryConfig;
use crate::telemetry;

/// Forward what a process that is gone has accepted
#[derive(Args)]
#[command(after_help = "Example:\n  soloist spool drain /var/lib/soloist-old --config soloist.toml")]
pub(super) struct SpoolArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Drain(DrainArgs),
}

/// Publish every event in the folder to the configured broker
#[derive(Args)]
#[command(after_help = "Example:\n  soloist spool drain /var/lib/soloist-old")]
struct DrainArgs {
    /// The data folder of the process that is gone
    folder: PathBuf,
}

pub(super) async fn run(args: SpoolArgs, source: Source) -> anyhow::Result<ExitCode> {
    let Command::Drain(DrainArgs { folder }) = args.command;
    let config = source.read()?;
    let logs = TelemetryConfig { log: "warn".to_owned(), ..config.telemetry.clone() };
    telemetry::set_up_logs(&logs).context("cannot set up logs")?;
    let drained = app::drain_spool(&config, &folder).await?;
    output::line(format_args!("forwarded {}", counted(drained.forwarded, "event")))?;
    if drained.dead > 0 {
        let dead = counted(drained.dead, "dead letter");
        output::note(format_args!("{dead} stay; see them with data_dir = \"{}\"", folder.display()));
    }
    if drained.left == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    output::note(format_args!(
        "{} are left: they are not due yet, or of a tenant that is not configured",
        drained.left
    ));
    Ok(ExitCode::FAILURE)
}
