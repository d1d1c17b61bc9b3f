//! `soloist dead-letters`: the messages that were given up, to look at, put back or drop.

use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};

use super::admin::{Access, AdminClient, Ask, Signed};
use super::output::{self, Tone, counted, list, number, text};
use super::{Source, Usage};
use crate::config::Config;

/// Dead letters that one request to the admin API may name or list.
const BATCH_MAX: usize = 1_000;

/// A LoginRadius uid with the space around it.
const UID_WIDTH: u16 = 34;

const EXAMPLES: &str = "Examples:
  soloist dead-letters ls
  soloist dead-letters redrive --why attempts_exhausted
  soloist dead-letters drop 7 8 --yes";

/// Look at the messages that were given up, put them back, or drop them
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct DeadLettersArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Ls(LsArgs),
    Show(ShowArgs),
    Redrive(RedriveArgs),
    Drop(DropArgs),
}

/// List them, oldest first
#[derive(Args)]
#[command(after_help = "Example:\n  soloist dead-letters ls --why refused")]
struct LsArgs {
    /// Only those that were given up for this reason
    #[arg(long)]
    why: Option<String>,
    /// One JSON object a dead letter
    #[arg(long)]
    json: bool,
}

/// Show all that is known of one
#[derive(Args)]
#[command(after_help = "Example:\n  soloist dead-letters show 7")]
struct ShowArgs {
    /// Its number in the list
    id: u64,
    /// As one JSON object
    #[arg(long)]
    json: bool,
}

/// Put them back into their queue, with all attempts before them
#[derive(Args)]
#[command(after_help = "Example:\n  soloist dead-letters redrive --all")]
struct RedriveArgs {
    #[command(flatten)]
    choice: Choice,
    /// Only say how many it would be
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    signed: Signed,
}

/// Delete them for good
#[derive(Args)]
#[command(after_help = "Example:\n  soloist dead-letters drop --why unreadable")]
struct DropArgs {
    #[command(flatten)]
    choice: Choice,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    signed: Signed,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct Choice {
    /// Their numbers in the list
    #[arg(value_name = "ID")]
    ids: Vec<u64>,
    /// All that were given up for this reason
    #[arg(long)]
    why: Option<String>,
    /// All of them
    #[arg(long)]
    all: bool,
}

pub(super) async fn run(args: DeadLettersArgs, source: Source) -> anyhow::Result<ExitCode> {
    let access = match args.command {
        Command::Ls(_) | Command::Show(_) => Access::Read,
        Command::Redrive(_) | Command::Drop(_) => Access::Write,
    };
    let config = source.read()?;
    let admin = AdminClient::open(&config, access).await?;
    admin.note_if_nothing_is_stored();
    let result = match args.command {
        Command::Ls(args) => ls(&admin, args).await,
        Command::Show(args) => show(&admin, args).await,
        Command::Redrive(args) => redrive(&admin, &config, args).await,
        Command::Drop(args) => discard(&admin, args).await,
    };
    admin.close().await?;
    result
}

/// Gives one page after the other to `take`.
async fn pages(
    admin: &AdminClient,
    why: Option<&String>,
    mut take: impl FnMut(&[Value]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut after = 0;
    loop {
        let ask = Ask::new(Method::GET, ["dead-letters"]).query("why", why).query("limit", Some(BATCH_MAX));
        let answer = admin.ask(ask.query("after", Some(after))).await?;
        take(list(&answer, "dead_letters"))?;
        match answer.get("next_after").and_then(Value::as_u64) {
            Some(next) if next > after => after = next,
            _ => return Ok(()),
        }
    }
}

async fn ls(admin: &AdminClient, args: LsArgs) -> anyhow::Result<ExitCode> {
    let (mut count, mut has_problem): (u64, bool) = (0, false);
    let mut table = output::table(["id", "died (UTC)", "why", "attempt", "uid", "tenant"]);
    pages(admin, args.why.as_ref(), |page| {
        count += page.len() as u64;
        if args.json {
            return page.iter().try_for_each(output::line);
        }
        for dead in page {
            has_problem |= !text(dead, "problem").is_empty();
            table.add_row([
                output::cell(number(dead, "id").to_string(), Tone::Plain),
                output::cell(output::time(text(dead, "died_at")), Tone::Plain),
                output::cell(text(dead, "why"), Tone::Bad),
                output::cell(number(dead, "attempt").to_string(), Tone::Plain),
                output::cell(whose(dead), Tone::Plain),
                output::cell(text(dead, "tenant"), Tone::Plain),
            ]);
        }
        Ok(())
    })
    .await?;
    if !args.json {
        if count > 0 {
            output::keep_whole(&mut table, &[0, 1, 2, 3, 5]);
            // A problem is prose and may be broken; a uid above it still has room for its usual 32 characters.
            if has_problem {
                output::keep_at_least(&mut table, 4, UID_WIDTH);
            } else {
                output::keep_whole(&mut table, &[4]);
            }
            output::show(&table)?;
        }
        output::line(counted(count, "dead letter"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The uid, or in its place what is wrong with a message that names none.
fn whose(dead: &Value) -> String {
    match (text(dead, "uid"), text(dead, "problem")) {
        ("", "") => "(unreadable)".to_owned(),
        ("", problem) => format!("({problem})"),
        (uid, _) => uid.to_owned(),
    }
}

async fn show(admin: &AdminClient, args: ShowArgs) -> anyhow::Result<ExitCode> {
    let answer = admin.ask(Ask::new(Method::GET, ["dead-letters"]).query("id", Some(args.id))).await?;
    let Some(dead) = list(&answer, "dead_letters").first() else {
        bail!("there is no dead letter {}", args.id);
    };
    if args.json {
        output::line(dead)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = output::table(["field", "value"]);
    for (field, value) in dead.as_object().into_iter().flatten() {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        table.add_row([output::cell(field, Tone::Plain), output::cell(value, Tone::Plain)]);
    }
    output::show(&table)?;
    Ok(ExitCode::SUCCESS)
}

/// The chosen ones as they are now, so that one which dies again in the meantime is not taken twice.
async fn chosen(admin: &AdminClient, choice: &Choice) -> anyhow::Result<Vec<u64>> {
    Ok(match choice.ids.as_slice() {
        [] => looked_at(admin, choice, |_| true).await?,
        ids => ids.to_vec(),
    })
}

/// Those chosen by reason or all of them for which `holds`.
async fn looked_at(admin: &AdminClient, choice: &Choice, holds: impl Fn(&Value) -> bool) -> anyhow::Result<Vec<u64>> {
    let mut ids = Vec::new();
    pages(admin, choice.why.as_ref(), |page| {
        ids.extend(page.iter().filter(|dead| holds(dead)).map(|dead| number(dead, "id")));
        Ok(())
    })
    .await?;
    Ok(ids)
}

/// Sends the ids in portions; `done` names the number in each answer.
async fn in_batches(admin: &AdminClient, what: &str, done: &str, signed: &Signed, ids: &[u64]) -> anyhow::Result<u64> {
    let mut sum: u64 = 0;
    for batch in ids.chunks(BATCH_MAX) {
        let ask = Ask::new(Method::POST, ["dead-letters", what]).body(signed.sign(json!({ "ids": batch })));
        sum += number(&admin.ask(ask).await?, done);
    }
    Ok(sum)
}

/// Why some stay dead.
const STAY: &str = "cannot be read, are of a tenant that is not configured, or are gone";

async fn redrive(admin: &AdminClient, config: &Config, args: RedriveArgs) -> anyhow::Result<ExitCode> {
    let ids = chosen(admin, &args.choice).await?;
    if args.dry_run {
        let is_configured = |dead: &Value| config.tenants.keys().any(|tenant| tenant.as_str() == text(dead, "tenant"));
        let can_be = |dead: &Value| {
            (args.choice.ids.is_empty() || ids.contains(&number(dead, "id")))
                && !text(dead, "uid").is_empty()
                && is_configured(dead)
        };
        let count = looked_at(admin, &args.choice, can_be).await?.len() as u64;
        output::line(format_args!("would put back {}", counted(count, "dead letter")))?;
        return Ok(report_rest(&args.choice, (ids.len() as u64).saturating_sub(count), STAY));
    }
    let done = in_batches(admin, "redrive", "redriven", &args.signed, &ids).await?;
    output::line(format_args!("put back {}", counted(done, "dead letter")))?;
    Ok(report_rest(&args.choice, ids.len() as u64 - done.min(ids.len() as u64), STAY))
}

async fn discard(admin: &AdminClient, args: DropArgs) -> anyhow::Result<ExitCode> {
    let ids = chosen(admin, &args.choice).await?;
    if !args.yes && !ids.is_empty() {
        let question = format!("Delete {} for good?", counted(ids.len() as u64, "dead letter"));
        match output::confirmed(&question) {
            Some(true) => {}
            Some(false) => bail!("nothing was deleted"),
            None => return Err(Usage("there is nobody to ask: give --yes to delete for good".to_owned()).into()),
        }
    }
    let done = in_batches(admin, "drop", "dropped", &args.signed, &ids).await?;
    output::line(format_args!("deleted {}", counted(done, "dead letter")))?;
    Ok(report_rest(&args.choice, ids.len() as u64 - done.min(ids.len() as u64), "are gone"))
}

/// Those that were named one by one must all be done.
fn report_rest(choice: &Choice, rest: u64, why: &str) -> ExitCode {
    if rest == 0 {
        return ExitCode::SUCCESS;
    }
    output::note(format_args!("{rest} of them {why}"));
    if choice.ids.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
