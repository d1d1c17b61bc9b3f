//! `soloist users`: whom the sweep knows, and taking in those who were there before us.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal as _, Read as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use http::Method;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::admin::{Access, AdminClient, Ask, Signed};
use super::output::{self, Tone, counted, list, number, text};
use super::{Source, Usage};
use crate::model::{TenantId, UserId};

/// Users that one request to the admin API names or lists.
const BATCH_MAX: usize = 1_000;
/// Users that a table shows unless told otherwise.
const TABLE_MAX: u64 = 1_000;
/// The longest line of an import; a profile exported as JSON has some KiB.
const LINE_BYTES_MAX: u64 = 1 << 20;
/// Bad lines that are shown one by one; all are counted.
const BAD_SHOWN: u64 = 20;

const EXAMPLES: &str = "Examples:
  soloist users import users.csv
  soloist users count
  soloist users ls --json";

/// Show whom the sweep looks at, and import those who were there before
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct UsersArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Import(ImportArgs),
    Ls(LsArgs),
    Count(CountArgs),
}

const IMPORT_HELP: &str = r#"Examples:
  soloist users import users.csv
  zcat export.jsonl.gz | soloist users import --tenant acme

A line is a uid, or begins with one and a comma, semicolon or tab (CSV), or is a JSON object with the field "uid" or
"Uid". A first line that says "uid" is a header. A bad line is reported and left out; the exit code is 1 then."#;

/// Import users, so that the sweep looks at those whose logins nobody told us of
#[derive(Args)]
#[command(after_help = IMPORT_HELP)]
struct ImportArgs {
    /// The file; `-` or nothing for standard input
    file: Option<PathBuf>,
    /// The tenant, where there are several
    #[arg(long)]
    tenant: Option<String>,
    #[command(flatten)]
    signed: Signed,
    /// The result as one JSON object
    #[arg(long)]
    json: bool,
}

/// List them in the order of their ids
#[derive(Args)]
#[command(after_help = "Example:\n  soloist users ls --limit 10")]
struct LsArgs {
    /// The tenant, where there are several
    #[arg(long)]
    tenant: Option<String>,
    /// Begin behind this uid
    #[arg(long, value_name = "UID")]
    after: Option<String>,
    /// Users to show; without it 1,000 in a table, and all as JSON
    #[arg(long)]
    limit: Option<u64>,
    /// One JSON object a user
    #[arg(long)]
    json: bool,
}

/// Count them, and tell how long one waits for a look
#[derive(Args)]
#[command(after_help = "Example:\n  soloist users count --json")]
struct CountArgs {
    /// The tenant, where there are several
    #[arg(long)]
    tenant: Option<String>,
    /// As one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: UsersArgs, source: Source) -> anyhow::Result<ExitCode> {
    let (access, tenant) = match &args.command {
        Command::Import(args) => (Access::Write, &args.tenant),
        Command::Ls(args) => (Access::Read, &args.tenant),
        Command::Count(args) => (Access::Read, &args.tenant),
    };
    if let Some(tenant) = tenant {
        TenantId::parse(tenant).map_err(|error| Usage(error.to_string()))?;
    }
    let admin = AdminClient::open(&source.read()?, access).await?;
    admin.note_if_nothing_is_stored();
    let result = match args.command {
        Command::Import(args) => import(&admin, args).await,
        Command::Ls(args) => ls(&admin, args).await,
        Command::Count(args) => count(&admin, args).await,
    };
    admin.close().await?;
    result
}

/// What came of the lines so far.
#[derive(Default)]
struct Tally {
    imported: u64,
    known: u64,
    bad: u64,
}

async fn import(admin: &AdminClient, args: ImportArgs) -> anyhow::Result<ExitCode> {
    let (input, progress) = open(args.file.as_ref())?;
    let mut input = progress.wrap_read(input);
    let mut lines = Lines { input: BufReader::new(&mut input), number: 0 };
    let (mut tally, mut batch) = (Tally::default(), Vec::with_capacity(BATCH_MAX));
    while let Some(line) = lines.next()? {
        match line {
            Ok(uid) => batch.push(uid),
            Err(problem) => {
                tally.bad += 1;
                if tally.bad <= BAD_SHOWN {
                    progress.suspend(|| output::note(format_args!("line {}: {problem}", lines.number)));
                }
            }
        }
        if batch.len() == BATCH_MAX {
            send(admin, (args.tenant.as_ref(), &args.signed), &mut batch, &mut tally).await?;
        }
    }
    if !batch.is_empty() {
        send(admin, (args.tenant.as_ref(), &args.signed), &mut batch, &mut tally).await?;
    }
    progress.finish_and_clear();
    if tally.bad > BAD_SHOWN {
        output::note(format_args!("and {} more bad lines", tally.bad - BAD_SHOWN));
    }
    let Tally { imported, known, bad } = tally;
    if args.json {
        output::line(json!({ "imported": imported, "already_known": known, "bad": bad }))?;
    } else {
        let bad = if bad == 0 { String::new() } else { format!(", {} left out", counted(bad, "bad line")) };
        output::line(format_args!("imported {}, {known} already known{bad}", counted(imported, "user")))?;
    }
    Ok(if bad == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The input, and a bar over its bytes where a person watches and its length is known.
fn open(file: Option<&PathBuf>) -> anyhow::Result<(Box<dyn io::Read>, ProgressBar)> {
    let Some(path) = file.filter(|path| path.as_os_str() != "-") else {
        return Ok((Box::new(io::stdin()), ProgressBar::hidden()));
    };
    let opened = File::open(path).and_then(|file| Ok((file.metadata()?.len(), file)));
    let (bytes, file) = opened.with_context(|| format!("cannot read {}", path.display()))?;
    let progress = if io::stderr().is_terminal() { ProgressBar::new(bytes) } else { ProgressBar::hidden() };
    let style = ProgressStyle::with_template("{bar:40} {bytes} of {total_bytes}, {eta} left");
    Ok((Box::new(file), progress.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))))
}

async fn send(
    admin: &AdminClient,
    (tenant, signed): (Option<&String>, &Signed),
    batch: &mut Vec<UserId>,
    tally: &mut Tally,
) -> anyhow::Result<()> {
    let uids: Vec<&str> = batch.iter().map(UserId::as_str).collect();
    let body = signed.sign(json!({ "tenant": tenant, "uids": uids }));
    let answer = admin.ask(Ask::new(Method::POST, ["users", "import"]).body(body)).await;
    let done = tally.imported + tally.known;
    let answer = answer.with_context(|| format!("stopped after {}; import again to go on", counted(done, "user")))?;
    tally.imported += number(&answer, "imported");
    tally.known += number(&answer, "already_known");
    batch.clear();
    Ok(())
}

/// The lines of an import and the number of the last one.
struct Lines<R> {
    input: R,
    number: u64,
}

impl<R: BufRead> Lines<R> {
    /// The next line that is not empty and no header: its uid, or what is wrong with it.
    fn next(&mut self) -> anyhow::Result<Option<Result<UserId, String>>> {
        loop {
            let mut line = Vec::new();
            let read = self.input.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
            if read.context("cannot read the input")? == 0 {
                return Ok(None);
            }
            self.number += 1;
            if line.last() != Some(&b'\n') && line.len() as u64 == LINE_BYTES_MAX {
                self.input.skip_until(b'\n').context("cannot read the input")?;
                return Ok(Some(Err(format!("longer than {LINE_BYTES_MAX} bytes"))));
            }
            let uid = uid_of(&line);
            let is_header = self.number == 1 && matches!(&uid, Ok(uid) if uid.eq_ignore_ascii_case("uid"));
            match uid {
                Ok(uid) if uid.is_empty() || is_header => {}
                Ok(uid) => return Ok(Some(UserId::parse(&uid).map_err(|error| error.to_string()))),
                Err(problem) => return Ok(Some(Err(problem))),
            }
        }
    }
}

/// The first column, or the field of a JSON object; empty where the line is.
fn uid_of(line: &[u8]) -> Result<String, String> {
    let line = std::str::from_utf8(line).map_err(|_bad| "not UTF-8".to_owned())?;
    let line = line.trim_start_matches('\u{feff}').trim();
    if line.starts_with('{') {
        let object: Value = serde_json::from_str(line).map_err(|_bad| "not a JSON object".to_owned())?;
        let uid = ["uid", "Uid", "UID"].into_iter().find_map(|key| object.get(key)?.as_str());
        return uid.map(str::to_owned).ok_or_else(|| "has no field \"uid\"".to_owned());
    }
    let column = line.split([',', ';', '\t']).next().unwrap_or_default().trim();
    let unquoted = column.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(column);
    if unquoted.is_empty() && !line.is_empty() {
        return Err("begins with no uid".to_owned());
    }
    Ok(unquoted.to_owned())
}

async fn ls(admin: &AdminClient, args: LsArgs) -> anyhow::Result<ExitCode> {
    let mut left = args.limit.unwrap_or(if args.json { u64::MAX } else { TABLE_MAX });
    let mut after = args.after.unwrap_or_default();
    let (mut count, mut lines) = (0, output::Lines::new());
    let mut table = output::table(["uid", "seen (UTC)", "looked at (UTC)", "from"]);
    while left > 0 {
        let limit = left.min(BATCH_MAX as u64);
        let ask = Ask::new(Method::GET, ["users"]).query("tenant", args.tenant.as_ref()).query("limit", Some(limit));
        let answer = admin.ask(ask.query("after", Some(&after))).await?;
        for user in list(&answer, "users") {
            count += 1;
            if args.json {
                lines.line(user)?;
                continue;
            }
            let looked_at = text(user, "looked_at");
            table.add_row([
                output::cell(text(user, "uid"), Tone::Plain),
                output::cell(output::time(text(user, "seen_at")), Tone::Plain),
                output::cell(
                    if looked_at.is_empty() { "never".to_owned() } else { output::time(looked_at) },
                    Tone::Plain,
                ),
                output::cell(text(user, "source"), Tone::Plain),
            ]);
        }
        left = left.saturating_sub(list(&answer, "users").len() as u64);
        match answer.get("next_after").and_then(Value::as_str) {
            Some(next) if next > after.as_str() => next.clone_into(&mut after),
            Some(_) => bail!("the admin API lists users out of order"),
            None => break,
        }
    }
    lines.flush()?;
    drop(lines);
    if !args.json {
        if count > 0 {
            output::keep_whole(&mut table, &[0, 1, 2, 3]);
            output::show(&table)?;
        }
        output::line(counted(count, "user"))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn count(admin: &AdminClient, args: CountArgs) -> anyhow::Result<ExitCode> {
    let ask = Ask::new(Method::GET, ["users", "count"]).query("tenant", args.tenant.as_ref());
    let answer = admin.ask(ask).await?;
    if args.json {
        output::line(&answer)?;
        return Ok(ExitCode::SUCCESS);
    }
    output::line(counted(number(&answer, "users"), "user"))?;
    let since = text(&answer, "waiting_since");
    if !since.is_empty() {
        output::line(format_args!("the one who waits for a look longest does so since {}", output::time(since)))?;
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_may_be_a_uid_a_row_or_an_object_and_a_bad_one_keeps_its_number() {
        let input = "\u{feff}Uid;Name\nann\r\n\n \"bob\" , \"Bob, B.\"\n{\"Uid\":\"cleo\",\"x\":1}\na b\n{\"id\":1}\n,x\ndora\t7";
        let mut lines = Lines { input: input.as_bytes(), number: 0 };
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        while let Some(line) = lines.next().unwrap() {
            match line {
                Ok(uid) => good.push(uid.to_string()),
                Err(_) => bad.push(lines.number),
            }
        }
        assert_eq!(good, ["ann", "bob", "cleo", "dora"]);
        assert_eq!(bad, [6, 7, 8]);
    }
}
