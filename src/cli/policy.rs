//! `soloist policy diff`: what two policy files say differently, and whom that would touch.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Source;
use super::admin::{Access, AdminClient};
use super::ledger::with_ledger;
use super::output::{self, Tone, counted};
use super::simulate::{End, Simulation, each_view, table};
use crate::config::PolicyFile;
use crate::model::TenantId;
use crate::policy::written;

/// Sessions that a table names; `--json` has all.
const SHOWN: usize = 25;

const EXAMPLES: &str = "Examples:
  soloist policy diff soloist.toml new.toml               which keys differ
  soloist policy diff soloist.toml new.toml --recorded    and whom that would touch";

/// Compare policies
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct PolicyArgs {
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Subcommand)]
enum PolicyCommand {
    Diff(DiffArgs),
}

/// Show what two policy files say differently, and whom that would touch
#[derive(Args)]
#[command(after_help = EXAMPLES)]
struct DiffArgs {
    /// The file that holds now
    #[arg(value_name = "A")]
    before: PathBuf,
    /// The file that is to hold
    #[arg(value_name = "B")]
    after: PathBuf,
    /// Apply both to every user's newest recorded sessions
    #[arg(long)]
    recorded: bool,
    /// Of this tenant only
    #[arg(long)]
    tenant: Option<String>,
    /// As one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: PolicyArgs, source: Source) -> anyhow::Result<ExitCode> {
    let PolicyCommand::Diff(args) = args.command;
    super::ledger::checked(None, args.tenant.as_ref())?;
    let (before, after) = (PolicyFile::read(&args.before)?, PolicyFile::read(&args.after)?);
    let differences = differences(&before, &after, args.tenant.as_deref())?;
    let touched = if args.recorded { Some(touched(&args, source, before, after).await?) } else { None };
    if args.json {
        let keys: Vec<Value> = differences.iter().map(Difference::json).collect();
        output::line(json!({ "differences": keys, "recorded": touched.as_ref().map(Touched::json) }))?;
        return Ok(ExitCode::SUCCESS);
    }
    if differences.is_empty() {
        output::line("the policies are the same")?;
    } else {
        let mut shown = output::table(["tenant", "key", "A", "B"]);
        for one in &differences {
            let row = [one.tenant.as_str(), one.key.as_str(), one.before.as_str(), one.after.as_str()];
            shown.add_row(row.map(|text| output::cell(text, Tone::Plain)));
        }
        output::show(&shown)?;
    }
    touched.iter().try_for_each(Touched::print)?;
    Ok(ExitCode::SUCCESS)
}

/// One key that the files say differently for one tenant.
struct Difference {
    tenant: TenantId,
    key: String,
    before: String,
    after: String,
}

impl Difference {
    fn json(&self) -> Value {
        json!({ "tenant": self.tenant.as_str(), "key": self.key, "a": self.before, "b": self.after })
    }
}

fn differences(before: &PolicyFile, after: &PolicyFile, only: Option<&str>) -> anyhow::Result<Vec<Difference>> {
    let mut tenants = BTreeSet::from([TenantId::default_tenant()]);
    tenants.extend(before.tenants().into_iter().chain(after.tenants()));
    if let Some(only) = only {
        tenants = BTreeSet::from([TenantId::parse(only)?]);
    }
    let mut found = Vec::new();
    for tenant in tenants {
        let [of_before, of_after] = [before, after].map(|file| file.policies(&tenant));
        let (of_before, of_after) = (of_before?, of_after?);
        let (a, b) = (written::json(&of_before.base().policy), written::json(&of_after.base().policy));
        let mut pairs: Vec<(&str, String, String)> = Vec::new();
        for (key, _) in written::KEYS {
            let value = |policy: &Value| policy.get(key).map(ToString::to_string).unwrap_or_default();
            pairs.push((key, value(&a), value(&b)));
        }
        for list in written::LISTS {
            pairs.push((list, before.list(&tenant, list).to_string(), after.list(&tenant, list).to_string()));
        }
        pairs.push(("version", of_before.base().version.to_string(), of_after.base().version.to_string()));
        let differing = pairs.into_iter().filter(|(_, before, after)| before != after);
        found.extend(differing.map(|(key, before, after)| Difference {
            tenant: tenant.clone(),
            key: key.to_owned(),
            before,
            after,
        }));
    }
    Ok(found)
}

/// What the two policies would do differently.
struct Touched {
    users: u64,
    ends_before: u64,
    ends_after: u64,
    only_before: Ends,
    only_after: Ends,
}

#[derive(Default)]
struct Ends {
    count: u64,
    users: u64,
    shown: Vec<End>,
}

impl Ends {
    /// Those of the first list that are not in the second.
    fn add(&mut self, these: &[End], those: &[End], keep: usize) {
        let is_new = |end: &&End| those.iter().all(|other| other.session != end.session);
        let fresh: Vec<&End> = these.iter().filter(is_new).collect();
        self.count += fresh.len() as u64;
        self.users += u64::from(!fresh.is_empty());
        let room = keep.saturating_sub(self.shown.len());
        self.shown.extend(fresh.into_iter().take(room).cloned());
    }

    fn json(&self) -> Value {
        let sessions: Vec<Value> = self.shown.iter().map(End::json).collect();
        json!({ "users": self.users, "sessions": self.count, "named": sessions })
    }
}

impl Touched {
    fn json(&self) -> Value {
        json!({
            "users": self.users,
            "sessions_a": self.ends_before,
            "sessions_b": self.ends_after,
            "only_a": self.only_before.json(),
            "only_b": self.only_after.json(),
        })
    }

    fn print(&self) -> anyhow::Result<()> {
        output::line(format_args!(
            "of {} recorded: A would end {}, B {}",
            counted(self.users, "user"),
            counted(self.ends_before, "session"),
            counted(self.ends_after, "session")
        ))?;
        for (who, ends) in [("only A", &self.only_before), ("only B", &self.only_after)] {
            output::line(format_args!(
                "{who} would end {} of {}",
                counted(ends.count, "session"),
                counted(ends.users, "user")
            ))?;
            if !ends.shown.is_empty() {
                output::show(&table(&ends.shown))?;
            }
        }
        Ok(())
    }
}

async fn touched(args: &DiffArgs, source: Source, before: PolicyFile, after: PolicyFile) -> anyhow::Result<Touched> {
    let admin = AdminClient::open(&with_ledger(&source)?, Access::Read).await?;
    let (mut a, mut b) = (Simulation::new(before), Simulation::new(after));
    let (mut only_before, mut only_after) = (Ends::default(), Ends::default());
    let keep = if args.json { usize::MAX } else { SHOWN };
    let looked = each_view(&admin, args.tenant.as_ref(), |view| {
        let (of_a, of_b) = (a.look(view)?, b.look(view)?);
        only_before.add(&of_a, &of_b, keep);
        only_after.add(&of_b, &of_a, keep);
        Ok(())
    });
    let looked = looked.await;
    admin.close().await?;
    looked?;
    Ok(Touched { users: a.users, ends_before: a.sessions, ends_after: b.sessions, only_before, only_after })
}
