//! `soloist demo`: sandbox and service in one process.

use std::process::ExitCode;

use clap::Args;

/// Watch racing logins come down to one session each, with nothing to set up.
#[derive(Args)]
#[command(after_help = "Example:\n  soloist demo")]
pub struct DemoArgs {}

#[expect(clippy::unused_async, reason = "the place of a command that will wait")]
pub async fn run(DemoArgs {}: DemoArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("this build has no demo")
}
