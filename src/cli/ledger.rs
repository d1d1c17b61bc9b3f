//! `soloist ledger`: check the evidence, take it along, forget a user.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::{Args, Subcommand};
use http::Method;

use super::admin::{Access, AdminClient, Ask, Signed};
use super::output::{self, counted, list, number, text};
use super::{Source, Usage};
use crate::config::Config;
use crate::model::{TenantId, UserId};

/// How long a check, or the erasure of a user, may take: both go through the whole file.
const WHOLE_FILE_TIMEOUT: Duration = Duration::from_hours(2);

const EXAMPLES: &str = "Examples:
  soloist ledger verify                                  is every record as it was written?
  soloist ledger verify --head 1042:5f2a…                and is none cut off behind a head from the log?
  soloist ledger export --since 2026-01-01T00:00:00Z > decisions.jsonl
  soloist ledger forget ann                              delete all records of a user";

/// The record of what was decided and why: check it, export it, forget a user
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct LedgerArgs {
    #[command(subcommand)]
    command: LedgerCommand,
}

#[derive(Subcommand)]
enum LedgerCommand {
    Verify(VerifyArgs),
    Export(ExportArgs),
    Forget(ForgetArgs),
}

/// Check that no record was changed, removed, added or moved
#[derive(Args)]
#[command(after_help = "Example:\n  soloist ledger verify --json

Exit code 1 where something does not fit. The log tells the head of the chain at every start and once a day; with one of
them the check also finds out whether the newest records were cut off.")]
struct VerifyArgs {
    /// A head that was noted down earlier: SEQ:MAC
    #[arg(long, value_name = "SEQ:MAC")]
    head: Option<String>,
    /// As one JSON object
    #[arg(long)]
    json: bool,
}

/// Print the recorded decisions, one JSON object a line, oldest first
#[derive(Args)]
#[command(after_help = "Example:\n  soloist ledger export --user ann > ann.jsonl")]
struct ExportArgs {
    /// Decided at this time or later, such as 2026-01-31T00:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<jiff::Timestamp>,
    /// Of this user
    #[arg(long, value_name = "UID")]
    user: Option<String>,
    /// Of this tenant; without it and without --user, of all
    #[arg(long)]
    tenant: Option<String>,
}

/// Delete all records of a user, for a request to be forgotten
#[derive(Args)]
#[command(after_help = "Example:\n  soloist ledger forget ann --yes

The chain of the other records stays whole. Meanwhile the file is written anew, and nobody is signed out.")]
struct ForgetArgs {
    /// The user: the Uid at LoginRadius
    uid: String,
    /// The tenant, where there are several
    #[arg(long)]
    tenant: Option<String>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    signed: Signed,
    /// As one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: LedgerArgs, source: Source) -> anyhow::Result<ExitCode> {
    match args.command {
        LedgerCommand::Verify(args) => verify(args, source).await,
        LedgerCommand::Export(args) => export(args, source).await,
        LedgerCommand::Forget(args) => forget(args, source).await,
    }
}

/// So that a typing error is not sent anywhere.
pub(super) fn checked(uid: Option<&String>, tenant: Option<&String>) -> Result<(), Usage> {
    uid.map(|uid| UserId::parse(uid)).transpose().map_err(|error| Usage(error.to_string()))?;
    tenant.map(|tenant| TenantId::parse(tenant)).transpose().map_err(|error| Usage(error.to_string()))?;
    Ok(())
}

/// The configuration, where its data folder has a ledger: nothing found would be taken for nothing there.
pub(super) fn with_ledger(source: &Source) -> anyhow::Result<Config> {
    let config = source.read()?;
    if !config.data_dir.join("ledger.db").exists() {
        let folder = config.data_dir.display();
        bail!("no ledger is in {folder}: no service has run there yet, or data_dir is another folder");
    }
    Ok(config)
}

async fn verify(args: VerifyArgs, source: Source) -> anyhow::Result<ExitCode> {
    let admin = AdminClient::open(&with_ledger(&source)?, Access::Read).await?;
    let ask = Ask::new(Method::GET, ["ledger", "verify"]).query("head", args.head).patient(WHOLE_FILE_TIMEOUT);
    let answer = admin.ask(ask).await;
    admin.close().await?;
    let answer = answer?;
    let problems = number(&answer, "problem_count");
    let code = if problems == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    if args.json {
        output::line(&answer)?;
        return Ok(code);
    }
    let told = list(&answer, "problems");
    for problem in told.iter().filter_map(serde_json::Value::as_str) {
        output::line(output::harmless(problem))?;
    }
    if problems > told.len() as u64 {
        output::line(format_args!("and {} more", problems - told.len() as u64))?;
    }
    let entries = number(&answer, "entries");
    output::line(format_args!(
        "{}, {entries} entries in the chain: {}",
        counted(number(&answer, "decisions"), "decision"),
        if problems == 0 { "all as they were written".to_owned() } else { counted(problems, "problem") }
    ))?;
    for (count, what) in [
        (number(&answer, "before_chain"), "are from before there was a chain: nothing can be said of them"),
        (number(&answer, "forgotten"), "were deleted because their user was to be forgotten"),
    ] {
        if count > 0 {
            output::line(format_args!("{count} {what}"))?;
        }
    }
    output::line(format_args!("the chain ends at {}", text(&answer, "head")))?;
    Ok(code)
}

async fn export(args: ExportArgs, source: Source) -> anyhow::Result<ExitCode> {
    checked(args.user.as_ref(), args.tenant.as_ref())?;
    let admin = AdminClient::open(&with_ledger(&source)?, Access::Read).await?;
    let ask = Ask::new(Method::GET, ["ledger", "export"])
        .query("since", args.since)
        .query("uid", args.user)
        .query("tenant", args.tenant);
    let mut lines = Vec::new();
    let exported = admin.lines(ask, |line| output::gathered(&mut lines, line)).await;
    let written = output::flush(&mut lines);
    admin.close().await?;
    exported.and(written)?;
    Ok(ExitCode::SUCCESS)
}

async fn forget(args: ForgetArgs, source: Source) -> anyhow::Result<ExitCode> {
    checked(Some(&args.uid), args.tenant.as_ref())?;
    let config = with_ledger(&source)?;
    if !args.yes {
        let question = format!("Delete all records of {}? They cannot be brought back.", args.uid);
        match output::confirmed(&question) {
            Some(true) => {}
            Some(false) => bail!("nothing was deleted"),
            None => return Err(Usage("nobody can be asked here: give --yes".to_owned()).into()),
        }
    }
    let admin = AdminClient::open(&config, Access::Write).await?;
    let ask = Ask::new(Method::POST, ["users", &args.uid, "forget"]).query("tenant", args.tenant.as_ref());
    let ask = ask.body(args.signed.sign(serde_json::json!({})));
    let answer = admin.ask(ask.patient(WHOLE_FILE_TIMEOUT)).await;
    admin.close().await?;
    let answer = answer?;
    let wiped = answer.get("wiped") == Some(&serde_json::Value::Bool(true));
    let code = if wiped { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    if args.json {
        output::line(&answer)?;
        return Ok(code);
    }
    output::line(format_args!("deleted {} of {}", counted(number(&answer, "decisions"), "decision"), args.uid))?;
    if !wiped {
        output::line(
            "somebody reads the ledger just now, so bytes of it may be left in ledger.db-wal: run this again",
        )?;
    }
    output::line(
        "not reached: messages and dead letters that are about the user, what is written for them (overrides, pins, \
         exemptions), the record of who changed what, logs, exports, backups, damaged files that were set aside, LoginRadius itself",
    )?;
    Ok(code)
}
