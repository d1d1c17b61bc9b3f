//! `soloist changes`: who changed what at run time, and why.

use std::process::ExitCode;

use clap::Args;
use http::Method;

use super::Source;
use super::admin::{Access, AdminClient, Ask};
use super::output::{self, list, text};

/// Show who changed what at run time, and why, newest first
#[derive(Args)]
#[command(after_help = "Example:\n  soloist changes --limit 5")]
pub(super) struct ChangesArgs {
    /// Changes to show
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    limit: u16,
    /// Only those before this number
    #[arg(long, value_name = "NUMBER")]
    before: Option<i64>,
    /// One JSON object a change
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: ChangesArgs, source: Source) -> anyhow::Result<ExitCode> {
    let admin = AdminClient::open(&source.read()?, Access::Read).await?;
    let answer = admin
        .ask(Ask::new(Method::GET, ["changes"]).query("limit", Some(args.limit)).query("before", args.before))
        .await;
    admin.close().await?;
    let answer = answer?;
    let changes = list(&answer, "changes");
    if args.json {
        changes.iter().try_for_each(output::line)?;
        return Ok(ExitCode::SUCCESS);
    }
    if changes.is_empty() {
        output::line("nothing was changed at run time yet")?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = output::table(["number", "at (UTC)", "what", "of", "owner", "reason"]);
    for change in changes {
        let [act, key, owner, reason] =
            ["act", "key", "owner", "reason"].map(|field| output::harmless(text(change, field)));
        let number = output::number(change, "seq").to_string();
        table.add_row([number, output::time(text(change, "at")), act, key, owner, reason]);
    }
    output::keep_whole(&mut table, &[0, 1, 2]);
    output::show(&table)?;
    Ok(ExitCode::SUCCESS)
}
