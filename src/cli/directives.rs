//! `soloist directives`, `mode`, `canary`, `override`, `exempt`, `pin`, `release`, `resume`: what holds from now on.
//!
//! Each change says who made it and why, holds without a restart, and reaches every worker.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand, ValueEnum};
use comfy_table::Table;
use http::Method;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use super::admin::{Access, AdminClient, Ask};
use super::output::{self, counted, list, number, text};
use super::{Source, Usage};
use crate::app;
use crate::config;

/// Who says so, and why. It is kept with the change.
#[derive(Args)]
struct Word {
    /// Why; it is shown wherever the change is
    #[arg(long)]
    reason: String,
    /// Who; without it the user of this shell
    #[arg(long)]
    owner: Option<String>,
    /// The tenant, where there are several
    #[arg(long)]
    tenant: Option<String>,
}

/// Until when a change holds
#[derive(Args)]
struct Expiry {
    /// How long it holds, such as 2h or 30d; without it until it is removed
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    for_: Option<Duration>,
}

/// Show what was decided at run time, or remove it
#[derive(Args)]
#[command(
    after_help = "Examples:\n  soloist directives ls\n  soloist directives rm mode/default --reason \"incident over\""
)]
pub(super) struct DirectivesArgs {
    #[command(subcommand)]
    command: DirectivesCommand,
}

#[derive(Subcommand)]
enum DirectivesCommand {
    /// List them
    #[command(after_help = "Example:\n  soloist directives ls --json")]
    Ls {
        /// One JSON object a directive
        #[arg(long)]
        json: bool,
    },
    /// Remove one; what the configuration says holds again
    #[command(after_help = "Example:\n  soloist directives rm mode/default --reason \"incident over\"")]
    Rm {
        /// Its key in the list
        key: String,
        #[command(flatten)]
        word: Word,
    },
}

/// Set a tenant's mode from now on
#[derive(Args)]
#[command(after_help = "Example:\n  soloist mode observe --reason \"complaints about logouts\" --for 2h")]
pub(super) struct ModeArgs {
    /// observe and off also hold for rules and overrides that say enforce
    mode: ModeName,
    #[command(flatten)]
    word: Word,
    #[command(flatten)]
    expiry: Expiry,
}

#[derive(Clone, Copy, ValueEnum)]
enum ModeName {
    Enforce,
    Observe,
    Off,
}

/// Set the share of users whose sessions are ended
#[derive(Args)]
#[command(after_help = "Example:\n  soloist canary 1 --reason \"first week\"")]
pub(super) struct CanaryArgs {
    /// Percent of the users, 0 to 100; two decimals at most
    percent: f64,
    #[command(flatten)]
    word: Word,
}

/// Give one user another policy
#[derive(Args)]
#[command(after_help = "Example:\n  soloist override ann limit=3 --reason \"family plan, ticket 4711\" --for 30d")]
pub(super) struct OverrideArgs {
    /// The user: the Uid at LoginRadius
    uid: String,
    /// What differs, as in [policy]: limit=3, mode=observe, count=device
    #[arg(required = true, value_name = "KEY=VALUE")]
    policy: Vec<String>,
    #[command(flatten)]
    word: Word,
    #[command(flatten)]
    expiry: Expiry,
}

/// Exempt users: their sessions are not ended
#[derive(Args)]
#[command(after_help = "Example:\n  soloist exempt uid=ann --reason \"load test\" --for 2h")]
pub(super) struct ExemptArgs {
    /// Who: uid=…, role=…, email_domain=…, or custom_field=… with equals=…
    #[arg(required = true, value_name = "KEY=VALUE")]
    who: Vec<String>,
    /// ignored: their sessions do not count; counted: they count, and are not ended
    #[arg(long, default_value = "ignored")]
    effect: String,
    #[command(flatten)]
    word: Word,
    /// How long, such as 2h or 30d
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    for_: Duration,
}

/// Pin a session, so that it is not ended
#[derive(Args)]
#[command(after_help = "Example:\n  soloist pin ann 67ac86848e3967ac86848e3967ac8684 --reason \"conference room\"")]
pub(super) struct PinArgs {
    /// The user: the Uid at LoginRadius
    uid: String,
    /// The session's whole id, as `soloist sessions --json` shows it
    #[arg(value_name = "SESSION-ID")]
    session: String,
    #[command(flatten)]
    word: Word,
    #[command(flatten)]
    expiry: Expiry,
}

/// Let the evictions of a contended user go on at once
#[derive(Args)]
#[command(after_help = "Example:\n  soloist release ann --reason \"talked to her\"")]
pub(super) struct ReleaseArgs {
    /// The user: the Uid at LoginRadius
    uid: String,
    #[command(flatten)]
    word: Word,
}

/// Let a tenant go on whose revocation budget was used up
#[derive(Args)]
#[command(after_help = "Example:\n  soloist resume --reason \"the busiest day of the year, as planned\"")]
pub(super) struct ResumeArgs {
    #[command(flatten)]
    word: Word,
}

impl Word {
    fn owner(&self) -> String {
        self.owner.clone().or_else(config::user_name).unwrap_or_else(|| "admin".to_owned())
    }

    fn json(&self) -> Value {
        json!({ "owner": self.owner(), "reason": self.reason })
    }

    /// The key of what is about this tenant.
    fn key(&self, kind: &str, rest: &str) -> String {
        let tenant = self.tenant.as_deref().unwrap_or(crate::model::TenantId::DEFAULT);
        if rest.is_empty() { format!("{kind}/{tenant}") } else { format!("{kind}/{tenant}/{rest}") }
    }

    /// A directive in its written form.
    fn directive(&self, kind: &str, for_: Option<Duration>, fields: &Value) -> anyhow::Result<Value> {
        let mut written = self.json();
        let Some(table) = written.as_object_mut() else { return Ok(written) };
        table.insert("kind".to_owned(), json!(kind));
        if let Some(tenant) = &self.tenant {
            table.insert("tenant".to_owned(), json!(tenant));
        }
        if let Some(for_) = for_ {
            let for_ = SignedDuration::try_from(for_).context("--for is too long")?;
            let expires: Timestamp = app::now().checked_add(for_).context("--for is too long")?;
            table.insert("expires".to_owned(), json!(expires.to_string()));
        }
        table.extend(fields.as_object().cloned().unwrap_or_default());
        Ok(written)
    }
}

async fn ask(source: &Source, access: Access, ask: Ask<'_>) -> anyhow::Result<Value> {
    let admin = AdminClient::open(&source.read()?, access).await?;
    let answer = admin.ask(ask).await;
    admin.close().await?;
    answer
}

async fn put(source: &Source, directive: Value) -> anyhow::Result<ExitCode> {
    let answer = ask(source, Access::Write, Ask::new(Method::PUT, ["directives"]).body(directive)).await?;
    let looked_at = number(&answer, "looked_at_again");
    output::line(format!("`{}` holds from now on", text(&answer, "key")))?;
    if looked_at > 0 {
        let users = counted(looked_at, "user");
        output::line(format!("{users} with surplus on record will be looked at again"))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn remove(source: &Source, key: &str, word: &Word) -> anyhow::Result<ExitCode> {
    let segments: Vec<&str> = std::iter::once("directives").chain(key.split('/')).collect();
    ask(source, Access::Write, Ask::at(Method::DELETE, segments).body(word.json())).await?;
    output::line(format!("`{key}` holds no longer"))?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn directives(args: DirectivesArgs, source: Source) -> anyhow::Result<ExitCode> {
    let json = match args.command {
        DirectivesCommand::Rm { key, word } => return remove(&source, &key, &word).await,
        DirectivesCommand::Ls { json } => json,
    };
    let answer = ask(&source, Access::Read, Ask::new(Method::GET, ["directives"])).await?;
    let directives = list(&answer, "directives");
    if json {
        for directive in directives {
            output::line(directive)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    if !directives.is_empty() {
        let mut table: Table = output::table(["key", "what", "owner", "reason", "expires (UTC)"]);
        for directive in directives {
            let [key, owner, reason] = ["key", "owner", "reason"].map(|key| output::harmless(text(directive, key)));
            let expires = output::time(text(directive, "expires"));
            table.add_row([key, output::harmless(&what(directive)), owner, reason, expires]);
        }
        output::show(&table)?;
    }
    output::line(counted(directives.len() as u64, "directive"))?;
    Ok(ExitCode::SUCCESS)
}

/// What a directive says, in a few words.
fn what(directive: &Value) -> String {
    let said = ["mode", "percent", "policy", "who", "session"].into_iter().find_map(|key| directive.get(key));
    match said {
        Some(Value::String(word)) => word.clone(),
        Some(Value::Number(percent)) => format!("{} %", percent.as_f64().unwrap_or_default()),
        Some(Value::Object(table)) => {
            let bare = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            table.iter().map(|(key, value)| format!("{key}={}", bare(value))).collect::<Vec<_>>().join(", ")
        }
        Some(other) => other.to_string(),
        None => text(directive, "kind").to_owned(),
    }
}

pub(super) async fn mode(args: ModeArgs, source: Source) -> anyhow::Result<ExitCode> {
    let mode = args.mode.to_possible_value().map(|name| name.get_name().to_owned());
    let directive = args.word.directive("mode", args.expiry.for_, &json!({ "mode": mode }))?;
    put(&source, directive).await
}

pub(super) async fn canary(args: CanaryArgs, source: Source) -> anyhow::Result<ExitCode> {
    put(&source, args.word.directive("canary", None, &json!({ "percent": args.percent }))?).await
}

pub(super) async fn override_(args: OverrideArgs, source: Source) -> anyhow::Result<ExitCode> {
    let fields = json!({ "uid": args.uid, "policy": pairs(&args.policy)? });
    put(&source, args.word.directive("override", args.expiry.for_, &fields)?).await
}

pub(super) async fn exempt(args: ExemptArgs, source: Source) -> anyhow::Result<ExitCode> {
    let mut who = pairs(&args.who)?;
    who.insert("effect".to_owned(), json!(args.effect));
    put(&source, args.word.directive("exemption", Some(args.for_), &json!({ "who": who }))?).await
}

pub(super) async fn pin(args: PinArgs, source: Source) -> anyhow::Result<ExitCode> {
    let fields = json!({ "uid": args.uid, "session": args.session });
    put(&source, args.word.directive("pin", args.expiry.for_, &fields)?).await
}

pub(super) async fn release(args: ReleaseArgs, source: Source) -> anyhow::Result<ExitCode> {
    remove(&source, &args.word.key("contended", &args.uid), &args.word).await
}

pub(super) async fn resume(args: ResumeArgs, source: Source) -> anyhow::Result<ExitCode> {
    let resume = Ask::new(Method::POST, ["resume"]).query("tenant", args.word.tenant.as_ref());
    let answer = ask(&source, Access::Write, resume.body(args.word.json())).await?;
    if answer.get("resumed").and_then(Value::as_bool) != Some(true) {
        bail!("the tenant was not stopped by its budget; `soloist directives ls` shows what holds");
    }
    let users = counted(number(&answer, "looked_at_again"), "user");
    output::line(format!(
        "resumed with a new hour's budget; {users} with surplus on record since {} will be looked at again",
        text(&answer, "stopped_at")
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// `limit=3` as a table; values are TOML where they are TOML, else texts.
fn pairs(written: &[String]) -> Result<Map<String, Value>, Usage> {
    let pair = |pair: &String| {
        let (key, value) = pair.split_once('=').ok_or_else(|| Usage(format!("`{pair}` must be KEY=VALUE")))?;
        let read = config::toml_value(value).unwrap_or_else(|| value.into());
        Ok((key.trim().to_owned(), read))
    };
    written.iter().map(pair).collect()
}

fn duration(raw: &str) -> Result<Duration, String> {
    let read = config::duration(raw).filter(|for_| !for_.is_zero());
    read.ok_or_else(|| "must be a duration such as 30m, 2h or 30d".to_owned())
}
