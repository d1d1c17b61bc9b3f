//! `soloist simulate`: whom a policy would have logged out, in numbers and names. It ends nobody.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{ArgGroup, Args};
use http::Method;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::Source;
use super::admin::{Access, AdminClient, Ask};
use super::ledger::{checked, with_ledger};
use super::output::{self, Tone, counted, list, text};
use super::users::{device, short};
use crate::app;
use crate::config::PolicyFile;
use crate::model::{AccessToken, Session, SessionDevice, SessionId, TenantId, TokenDigest, UserId, View};
use crate::policy::{
    Count, Decision, DeviceField, Marks, Mode, Policy, ReasonCode, Strategy, Subject, TenantPolicies, decide,
};

/// Sessions that the table names; `--json` has all.
const SHOWN: usize = 50;

/// Show whom a policy would log out, without ending anybody
#[derive(Args)]
#[command(
    group = ArgGroup::new("whom").required(true).args(["uid", "recorded"]),
    after_help = "Examples:
  soloist simulate --policy new.toml --recorded        every user, as last recorded
  soloist simulate --policy new.toml --uid ann         one user, as LoginRadius lists them now

The file has a [policy] table as soloist.toml has, with rules, overrides and exemptions where wanted. Recorded are looks
at logins in the modes enforce and observe. Users of whom a rule or an exemption needs roles, domains or custom fields
are only counted: the ledger does not keep those. Sessions that were pinned stay pinned; other things that were decided
at run time (modes, overrides, exemptions) are left aside, as the file takes their place."
)]
pub(super) struct SimulateArgs {
    /// The file with the policy
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    /// One user, looked at now
    #[arg(long, value_name = "UID")]
    uid: Option<String>,
    /// Every user's newest recorded sessions
    #[arg(long)]
    recorded: bool,
    /// The tenant; with --recorded all of them where none is named
    #[arg(long)]
    tenant: Option<String>,
    /// One JSON object a session, and a last one with the numbers
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: SimulateArgs, source: Source) -> anyhow::Result<ExitCode> {
    checked(args.uid.as_ref(), args.tenant.as_ref())?;
    let mut simulation = Simulation::new(PolicyFile::read(&args.policy)?);
    let mut report = Report::new(args.json);
    let config = if args.recorded { with_ledger(&source)? } else { source.read()? };
    let admin = AdminClient::open(&config, Access::Read).await?;
    let looked = match &args.uid {
        Some(uid) => {
            let ask = Ask::new(Method::GET, ["users", uid, "sessions"]).query("tenant", args.tenant.as_ref());
            match admin.ask(ask).await {
                Ok(view) => simulation.look(&view).and_then(|ends| report.ends(&ends)),
                Err(error) => Err(error),
            }
        }
        None => each_view(&admin, args.tenant.as_ref(), |view| report.ends(&simulation.look(view)?)).await,
    };
    admin.close().await?;
    looked?;
    report.finish(&simulation)?;
    Ok(ExitCode::SUCCESS)
}

/// Hands out each user's newest recorded view.
pub(super) async fn each_view(
    admin: &AdminClient,
    tenant: Option<&String>,
    mut take: impl FnMut(&Value) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let ask = Ask::new(Method::GET, ["ledger", "views"]).query("tenant", tenant);
    let line = |line: &str| take(&serde_json::from_str(line).context("a recorded view cannot be read")?);
    admin.lines(ask, line).await
}

/// A session that would end.
#[derive(Clone, Debug)]
pub(super) struct End {
    pub(super) tenant: String,
    pub(super) uid: String,
    pub(super) session: String,
    pub(super) device: String,
    pub(super) login_at: Option<Timestamp>,
    pub(super) reason: &'static str,
}

impl End {
    pub(super) fn json(&self) -> Value {
        json!({
            "tenant": self.tenant,
            "uid": self.uid,
            "session": self.session,
            "device": self.device,
            "login_at": self.login_at.map(|at| at.to_string()),
            "reason": self.reason,
        })
    }
}

/// A policy file applied to users, and what that came to.
pub(super) struct Simulation {
    file: PolicyFile,
    policies: BTreeMap<TenantId, TenantPolicies>,
    now: Timestamp,
    pub(super) users: u64,
    pub(super) affected: u64,
    pub(super) sessions: u64,
    needs_traits: u64,
    outside_canary: u64,
    incomplete: u64,
    only_observed: bool,
    rejects_newest: bool,
    oldest: Option<Timestamp>,
    newest: Option<Timestamp>,
}

impl Simulation {
    pub(super) fn new(file: PolicyFile) -> Self {
        Self {
            file,
            policies: BTreeMap::new(),
            now: app::now(),
            users: 0,
            affected: 0,
            sessions: 0,
            needs_traits: 0,
            outside_canary: 0,
            incomplete: 0,
            only_observed: false,
            rejects_newest: false,
            oldest: None,
            newest: None,
        }
    }

    /// What would end of the sessions of one user, as the admin API shows them.
    pub(super) fn look(&mut self, shown: &Value) -> anyhow::Result<Vec<End>> {
        let tenant = TenantId::parse(text(shown, "tenant")).context("a view is of no tenant")?;
        let user = UserId::parse(text(shown, "uid")).context("a view is of no user")?;
        self.users += 1;
        let decided_at = text(shown, "decided_at").parse::<Timestamp>().ok();
        self.oldest = self.oldest.into_iter().chain(decided_at).min();
        self.newest = self.newest.into_iter().chain(decided_at).max();
        if !self.policies.contains_key(&tenant) {
            self.policies.insert(tenant.clone(), self.file.policies(&tenant)?);
        }
        let Some(policies) = self.policies.get(&tenant) else { return Ok(Vec::new()) };
        let Ok(resolution) = policies.resolve(&user, None, self.now) else {
            self.needs_traits += 1;
            return Ok(Vec::new());
        };
        let policy = &resolution.policy.policy;
        let (view, mut marks) = read_view(shown);
        if uses_ip(policy) && view.sessions.iter().any(|session| session.device.ip.is_none()) {
            bail!(
                "this policy tells devices by \"ip\", and the ledger holds no IP addresses unless ledger.keep_ip = true \
                 when the sessions were seen: simulate another policy, or switch that on and wait for logins"
            );
        }
        if let Some(exemption) = &resolution.exemption {
            marks.exempt_all(&view, exemption.effect);
        }
        self.incomplete += u64::from(!view.complete);
        let decision = decide(&view, &resolution.policy, &marks, Subject { tenant: Some(&tenant), user: Some(&user) });
        if policy.mode != Mode::Off && !policy.in_canary(&tenant, &user) {
            self.outside_canary += 1;
            return Ok(Vec::new());
        }
        self.only_observed |= policy.mode != Mode::Enforce;
        self.rejects_newest |= policy.strategy == Strategy::RejectNewest;
        let ends = ends(&tenant, &user, &decision, shown);
        self.affected += u64::from(!ends.is_empty());
        self.sessions += ends.len() as u64;
        Ok(ends)
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "users": self.users,
            "affected": self.affected,
            "sessions": self.sessions,
            "needs_traits": self.needs_traits,
            "outside_canary": self.outside_canary,
            "incomplete": self.incomplete,
            "recorded_from": self.oldest.map(|at| at.to_string()),
            "recorded_to": self.newest.map(|at| at.to_string()),
        })
    }

    /// What the numbers leave open.
    fn notes(&self) -> Vec<String> {
        let of = |count: u64, what: &str| (count > 0).then(|| format!("{} {what}", counted(count, "user")));
        let range = self.oldest.zip(self.newest);
        let range = range.map(|(from, to)| {
            let shown = |at: Timestamp| output::time(&at.to_string());
            format!("recorded from {} to {} (UTC)", shown(from), shown(to))
        });
        [
            range,
            of(self.needs_traits, "left out: a rule or an exemption needs roles, domains or custom fields"),
            of(self.outside_canary, "outside of canary_percent"),
            of(self.incomplete, "listed incompletely: with all rows more may end"),
            self.only_observed.then(|| "the policy's mode is not enforce: it would end nobody until it is".to_owned()),
            self.rejects_newest.then(|| {
                "reject_newest ends a session only at its own login: which of these had ended then is not certain"
                    .to_owned()
            }),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

fn uses_ip(policy: &Policy) -> bool {
    let by_bucket = policy.buckets.as_ref().is_some_and(|buckets| buckets.by == DeviceField::Ip);
    by_bucket || (policy.count == Count::Device && policy.device_fields.contains(&DeviceField::Ip))
}

fn ends(tenant: &TenantId, user: &UserId, decision: &Decision, shown: &Value) -> Vec<End> {
    let revocations = decision.revocations().map(|verdict| {
        let session = verdict.digest.session_id().to_string();
        let seen = list(shown, "sessions").iter().find(|seen| text(seen, "session") == session);
        End {
            tenant: tenant.as_str().to_owned(),
            uid: user.as_str().to_owned(),
            device: seen.map_or_else(|| "unknown".to_owned(), device),
            login_at: verdict.login_at,
            reason: verdict.reason.map_or("none", ReasonCode::as_str),
            session,
        }
    });
    revocations.collect()
}

/// The sessions as the rule reads them.
///
/// Equal login times go by the token's digest, of which the id is the first half: enough for their order, unless two
/// tokens of one user share 128 bits.
fn read_view(shown: &Value) -> (View, Marks) {
    let mut sessions = Vec::new();
    let mut pinned = Vec::new();
    for seen in list(shown, "sessions") {
        let Ok(id) = SessionId::parse(text(seen, "session")) else { continue };
        let mut digest = [0; 32];
        digest.iter_mut().zip(id.0).for_each(|(to, from)| *to = from);
        let word = |key: &str| seen.get(key).and_then(Value::as_str).map(str::to_owned);
        let device = SessionDevice {
            browser: word("browser"),
            os: word("os"),
            device: word("device"),
            device_type: word("device_type"),
            city: word("city"),
            country: word("country"),
            ip: word("ip"),
        };
        let is_pinned = text(seen, "action") == "pinned"
            || list(shown, "pinned").iter().any(|pinned| pinned.as_str() == Some(text(seen, "session")));
        pinned.extend(is_pinned.then_some(id));
        let login_at = text(seen, "login_at").parse().ok();
        sessions.push(Session { token: AccessToken::new(""), digest: TokenDigest(digest), login_at, device });
    }
    // All of them: that was an exemption of then, which the file replaces, and no choice of single sessions.
    if pinned.len() == sessions.len() {
        pinned.clear();
    }
    let complete = shown.get("complete").and_then(Value::as_bool).unwrap_or(false);
    (View { sessions, complete }, Marks { pinned: pinned.into_iter().collect(), ..Marks::default() })
}

/// What is printed.
struct Report {
    json: bool,
    lines: Vec<u8>,
    shown: Vec<End>,
}

impl Report {
    fn new(json: bool) -> Self {
        Self { json, lines: Vec::new(), shown: Vec::new() }
    }

    fn ends(&mut self, ends: &[End]) -> anyhow::Result<()> {
        if self.json {
            return ends.iter().try_for_each(|end| output::gathered(&mut self.lines, &end.json().to_string()));
        }
        let room = SHOWN.saturating_sub(self.shown.len());
        self.shown.extend(ends.iter().take(room).cloned());
        Ok(())
    }

    fn finish(mut self, simulation: &Simulation) -> anyhow::Result<()> {
        if self.json {
            output::gathered(&mut self.lines, &simulation.json().to_string())?;
            return output::flush(&mut self.lines);
        }
        if !self.shown.is_empty() {
            output::show(&table(&self.shown))?;
        }
        let more = simulation.sessions.saturating_sub(self.shown.len() as u64);
        if more > 0 {
            output::line(format_args!("and {}; --json has all", counted(more, "more session")))?;
        }
        output::line(format_args!(
            "{} of {} would lose {}",
            simulation.affected,
            counted(simulation.users, "user"),
            counted(simulation.sessions, "session")
        ))?;
        simulation.notes().iter().try_for_each(output::line)
    }
}

/// Sessions that would end, one a row.
pub(super) fn table(ends: &[End]) -> comfy_table::Table {
    let mut table = output::table(["user", "session", "login (UTC)", "device", "why"]);
    for end in ends {
        let login_at = end.login_at.map_or_else(|| "unknown".to_owned(), |at| output::time(&at.to_string()));
        table.add_row([
            output::cell(&end.uid, Tone::Plain),
            output::cell(short(&end.session), Tone::Plain),
            output::cell(login_at, Tone::Plain),
            output::cell(&end.device, Tone::Plain),
            output::cell(end.reason.replace('_', " "), Tone::Plain),
        ]);
    }
    output::keep_whole(&mut table, &[1, 2]);
    table
}
