//! `soloist sessions`, `enforce`, `revoke`, `decisions`: one user, asked of the admin API.

use std::process::ExitCode;

use anyhow::{anyhow, bail};
use clap::Args;
use comfy_table::Table;
use http::Method;
use serde_json::{Value, json};

use super::admin::{Access, AdminClient, Ask, Signed};
use super::output::{self, Tone, counted, list, number, text};
use super::{Source, Usage};
use crate::model::{TenantId, UserId};

/// Digits of a session id that tables show; enough to name one session of a user.
const ID_SHOWN: usize = 12;
/// Sessions that a table names as the reason of one's end; `--json` has all.
const WITNESSES_SHOWN: usize = 3;
/// Digits that a session must at least be named by.
const ID_DIGITS_MIN: usize = 6;

#[derive(Args)]
struct Subject {
    /// The user: the Uid at LoginRadius
    uid: String,
    /// The tenant, where there are several
    #[arg(long)]
    tenant: Option<String>,
}

/// Show a user's sessions and devices, and what the rule says of each
#[derive(Args)]
#[command(after_help = "Example:\n  soloist sessions ann")]
pub(super) struct SessionsArgs {
    #[command(flatten)]
    subject: Subject,
    /// As one JSON object
    #[arg(long)]
    json: bool,
}

/// Look at a user now and end the surplus sessions
#[derive(Args)]
#[command(after_help = "Example:\n  soloist enforce ann --dry-run")]
pub(super) struct EnforceArgs {
    #[command(flatten)]
    subject: Subject,
    /// End nothing, show what would be ended
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    signed: Signed,
    /// As one JSON object
    #[arg(long)]
    json: bool,
}

/// End one session of a user
#[derive(Args)]
#[command(after_help = "Example:\n  soloist revoke ann 67ac86848e39")]
pub(super) struct RevokeArgs {
    #[command(flatten)]
    subject: Subject,
    /// The session as `soloist sessions` shows it: its id, or the first digits of it
    #[arg(value_name = "SESSION-ID")]
    session: String,
    #[command(flatten)]
    signed: Signed,
    /// As one JSON object
    #[arg(long)]
    json: bool,
}

/// Show what was decided about a user, newest first
#[derive(Args)]
#[command(after_help = "Example:\n  soloist decisions ann --limit 5")]
pub(super) struct DecisionsArgs {
    #[command(flatten)]
    subject: Subject,
    /// Decisions to show
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    limit: u16,
    /// One JSON object a decision
    #[arg(long)]
    json: bool,
}

impl Subject {
    /// So that a typing error is not sent anywhere.
    fn check(&self) -> Result<(), Usage> {
        UserId::parse(&self.uid).map_err(|error| Usage(error.to_string()))?;
        if let Some(tenant) = &self.tenant {
            TenantId::parse(tenant).map_err(|error| Usage(error.to_string()))?;
        }
        Ok(())
    }

    fn ask(&self, method: Method, what: &'static str) -> Ask<'_> {
        Ask::new(method, ["users", &self.uid, what]).query("tenant", self.tenant.as_ref())
    }
}

/// Asks one thing about a user.
async fn asked(source: &Source, access: Access, subject: &Subject, ask: Ask<'_>) -> anyhow::Result<Value> {
    subject.check()?;
    let admin = AdminClient::open(&source.read()?, access).await?;
    let answer = admin.ask(ask).await;
    admin.close().await?;
    answer
}

pub(super) async fn sessions(args: SessionsArgs, source: Source) -> anyhow::Result<ExitCode> {
    let subject = &args.subject;
    let answer = asked(&source, Access::Read, subject, subject.ask(Method::GET, "sessions")).await?;
    if args.json {
        output::line(&answer)?;
        return Ok(ExitCode::SUCCESS);
    }
    if !list(&answer, "sessions").is_empty() {
        output::show(&session_table(&answer, |session| match text(session, "action") {
            "" => ("-".to_owned(), Tone::Plain),
            action @ "revoke" => (action.to_owned(), Tone::Bad),
            action @ "keep" => (action.to_owned(), Tone::Good),
            action => (action.to_owned(), Tone::Warning),
        }))?;
    }
    output::line(counts(&answer))?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn enforce(args: EnforceArgs, source: Source) -> anyhow::Result<ExitCode> {
    let subject = &args.subject;
    let ask =
        subject.ask(Method::POST, "enforce").query("dry_run", Some(args.dry_run)).body(args.signed.sign(json!({})));
    let access = if args.dry_run { Access::Read } else { Access::Write };
    let answer = asked(&source, access, subject, ask).await?;
    let failed = list(&answer, "outcomes").iter().filter(|outcome| text(outcome, "ended") == "failed").count();
    let code = if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    if args.json {
        output::line(&answer)?;
        return Ok(code);
    }
    let outcome_of = |session: &Value| {
        let of_this = |outcome: &&Value| text(outcome, "session") == text(session, "session");
        list(&answer, "outcomes").iter().find(of_this).map(|outcome| text(outcome, "ended"))
    };
    if !list(&answer, "sessions").is_empty() {
        output::show(&session_table(&answer, |session| match (outcome_of(session), text(session, "action")) {
            (Some("failed"), _) => ("failed".to_owned(), Tone::Bad),
            (Some(ended), _) => (ended.replace('_', " "), Tone::Warning),
            (None, "revoke") => ("surplus".to_owned(), Tone::Bad),
            (None, "keep") => ("keep".to_owned(), Tone::Good),
            (None, "") => ("-".to_owned(), Tone::Plain),
            (None, action) => (action.to_owned(), Tone::Warning),
        }))?;
    }
    output::line(counts(&answer))?;
    output::line(enforced(&answer, args.dry_run))?;
    Ok(code)
}

/// What came of it, in one line.
fn enforced(answer: &Value, dry_run: bool) -> String {
    let decision = answer.get("decision").filter(|decision| !decision.is_null());
    let Some(decision) = decision else {
        return "nothing was done: the policy's mode is off".to_owned();
    };
    let refused = text(decision, "refused");
    if !refused.is_empty() {
        return format!("nothing was decided: {refused}");
    }
    let is_surplus = |session: &&Value| text(session, "action") == "revoke";
    let surplus = list(answer, "sessions").iter().filter(is_surplus).count() as u64;
    let ended = list(answer, "outcomes").iter().filter(|outcome| text(outcome, "ended") != "failed").count() as u64;
    match (dry_run, surplus, list(answer, "outcomes").is_empty()) {
        (_, 0, true) => "nothing to end".to_owned(),
        (true, ..) => format!("would end {}", counted(surplus, "session")),
        (false, _, true) => format!(
            "ended nothing of {} surplus: the mode is {}, or the user is outside the canary",
            counted(surplus, "session"),
            text(decision, "mode")
        ),
        (false, _, false) => format!("ended {}", counted(ended, "session")),
    }
}

pub(super) async fn revoke(args: RevokeArgs, source: Source) -> anyhow::Result<ExitCode> {
    let prefix = args.session.to_lowercase();
    if !(ID_DIGITS_MIN..=32).contains(&prefix.len()) || !prefix.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        let why = format!("a session is named by {ID_DIGITS_MIN} to 32 hex digits, as `soloist sessions` shows them");
        return Err(Usage(why).into());
    }
    args.subject.check()?;
    let admin = AdminClient::open(&source.read()?, Access::Write).await?;
    let answer = end_session(&admin, &args, &prefix).await;
    admin.close().await?;
    let answer = answer?;
    let ended = text(&answer, "ended");
    if args.json {
        output::line(&answer)?;
    } else {
        let what = match ended {
            "revoked" => "ended",
            "already_gone" => "was gone already:",
            _ => "could not end",
        };
        output::line(format_args!("{what} session {} of {}", text(&answer, "session"), text(&answer, "uid")))?;
    }
    Ok(if ended == "failed" { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn end_session(admin: &AdminClient, args: &RevokeArgs, prefix: &str) -> anyhow::Result<Value> {
    let subject = &args.subject;
    let answer = admin.ask(subject.ask(Method::GET, "sessions")).await?;
    let ids = list(&answer, "sessions").iter().map(|session| text(session, "session"));
    let mut meant = ids.filter(|id| id.starts_with(prefix));
    let id = meant.next().ok_or_else(|| anyhow!("{} has no session {prefix}", subject.uid))?;
    if meant.next().is_some() {
        bail!("several sessions of {} begin with {prefix}: give more digits", subject.uid);
    }
    let ask = Ask::new(Method::DELETE, ["users", &subject.uid, "sessions", id]);
    admin.ask(ask.query("tenant", subject.tenant.as_ref()).body(args.signed.sign(json!({})))).await
}

pub(super) async fn decisions(args: DecisionsArgs, source: Source) -> anyhow::Result<ExitCode> {
    let subject = &args.subject;
    subject.check()?;
    super::ledger::with_ledger(&source)?;
    let ask = subject.ask(Method::GET, "decisions").query("limit", Some(args.limit));
    let answer = asked(&source, Access::Read, subject, ask).await?;
    let decisions = list(&answer, "decisions");
    if args.json {
        return decisions.iter().try_for_each(output::line).map(|()| ExitCode::SUCCESS);
    }
    if decisions.is_empty() {
        output::line("no decision is recorded: no login of this user was looked at")?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = output::table(["decided (UTC)", "because of", "session", "came of it", "why"]);
    for decided in decisions {
        let mut decision = [output::time(text(decided, "decided_at")), text(decided, "looked").to_owned()];
        for [session, came_of_it, why] in surplus(decided) {
            // Said once, in the first row of a decision.
            let [at, looked] = std::mem::take(&mut decision);
            table.add_row([at, looked, session, came_of_it, why]);
        }
    }
    output::keep_whole(&mut table, &[0, 1, 2, 3]);
    output::show(&table)?;
    Ok(ExitCode::SUCCESS)
}

/// Each session that a decision is against: its id, what came of it, and why.
fn surplus(decided: &Value) -> Vec<[String; 3]> {
    let decision = decided.get("decision").unwrap_or(&Value::Null);
    let outcomes = list(decided, "outcomes");
    // A worker elsewhere ended them, and its decision was lost on the way.
    if decision.is_null() && !outcomes.is_empty() {
        let row = |end: &Value| {
            [
                short(text(end, "session")).to_owned(),
                text(end, "ended").replace('_', " "),
                text(end, "reason").replace('_', " "),
            ]
        };
        return outcomes.iter().map(row).collect();
    }
    let row = |verdict: &Value| {
        let outcome = outcomes.iter().find(|outcome| text(outcome, "session") == text(verdict, "session"));
        let came_of_it = match (decided.get("executed").and_then(Value::as_bool), outcome) {
            (Some(false), _) => "only recorded".to_owned(),
            (_, Some(outcome)) => text(outcome, "ended").replace('_', " "),
            (_, None) => "-".to_owned(),
        };
        [short(text(verdict, "session")).to_owned(), came_of_it, why(verdict)]
    };
    let verdicts = list(decision, "verdicts").iter().filter(|verdict| text(verdict, "action") == "revoke");
    let rows: Vec<[String; 3]> = verdicts.map(row).collect();
    if rows.is_empty() {
        let refused = text(decision, "refused");
        let why = if refused.is_empty() { "nothing to end" } else { refused };
        return vec![["-".to_owned(), "-".to_owned(), why.to_owned()]];
    }
    rows
}

/// `newer login 67ac86848e39`: the rule's reason, and the sessions that stand against this one.
fn why(verdict: &Value) -> String {
    let reason = match text(verdict, "reason") {
        "displaced_by_newer_login" => "newer login".to_owned(),
        "same_device_newer" => "same device, newer".to_owned(),
        reason => reason.replace('_', " "),
    };
    let witnesses = list(verdict, "witnesses");
    let shown = witnesses.iter().filter_map(Value::as_str).take(WITNESSES_SHOWN).map(short);
    let mut words: Vec<String> = std::iter::once(reason).chain(shown.map(str::to_owned)).collect();
    if witnesses.len() > WITNESSES_SHOWN {
        words.push(format!("and {} more", witnesses.len() - WITNESSES_SHOWN));
    }
    words.join(" ")
}

/// A session id as tables show it.
pub(super) fn short(id: &str) -> &str {
    id.get(..ID_SHOWN).unwrap_or(id)
}

/// A user's sessions, newest first; `state` says what the last column shows.
fn session_table(answer: &Value, state: impl Fn(&Value) -> (String, Tone)) -> Table {
    let mut table = output::table(["session", "login (UTC)", "device", "place", ""]);
    for session in list(answer, "sessions") {
        let id = text(session, "session");
        let (state, tone) = state(session);
        let login_at = output::time(text(session, "login_at"));
        table.add_row([
            output::cell(short(id), Tone::Plain),
            if session.get("from_the_future") == Some(&Value::Bool(true)) {
                output::cell(format!("{login_at} (still to come)"), Tone::Bad)
            } else {
                output::cell(if login_at.is_empty() { "unknown".to_owned() } else { login_at }, Tone::Plain)
            },
            output::cell(device(session), Tone::Plain),
            output::cell(known(session, &["city", "country"]).join(", "), Tone::Plain),
            output::cell(state, tone),
        ]);
    }
    output::keep_whole(&mut table, &[0, 1, 4]);
    table
}

/// `Safari on iOS, iPhone`, as far as it is known.
pub(super) fn device(session: &Value) -> String {
    let software = known(session, &["browser", "os"]).join(" on ");
    let hardware = known(session, &["device"]).first().copied().or(known(session, &["device_type"]).first().copied());
    let parts: Vec<&str> =
        [Some(software.as_str()), hardware].into_iter().flatten().filter(|p| !p.is_empty()).collect();
    if parts.is_empty() { "unknown".to_owned() } else { parts.join(", ") }
}

/// The fields that say something: LoginRadius writes `unknown` where it knows nothing.
pub(super) fn known<'a>(session: &'a Value, fields: &[&str]) -> Vec<&'a str> {
    let texts = fields.iter().map(|field| text(session, field).trim());
    texts.filter(|text| !text.is_empty() && !text.eq_ignore_ascii_case("unknown")).collect()
}

/// `1 session on 1 device`
fn counts(answer: &Value) -> String {
    let (sessions, devices) = (number(answer, "session_count"), number(answer, "device_count"));
    let incomplete = answer.get("complete") == Some(&Value::Bool(false));
    let note = if incomplete { " (LoginRadius listed them incompletely)" } else { "" };
    format!("{} on {}{note}", counted(sessions, "session"), counted(devices, "device"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_says_of_each_session_what_became_of_it_and_why() {
        let verdict = |session: &str, action: &str, witnesses: &[&str]| {
            let reason = (action == "revoke").then_some("displaced_by_newer_login");
            json!({ "session": session, "action": action, "reason": reason, "witnesses": witnesses })
        };
        let verdicts = [
            verdict("new", "keep", &[]),
            verdict("old", "revoke", &["new"]),
            verdict("odd", "revoke", &["1", "2", "3", "4", "5"]),
        ];
        let decided = |executed: bool| {
            let outcomes = json!([{ "session": "old", "ended": "already_gone" }]);
            json!({ "executed": executed, "decision": { "verdicts": verdicts }, "outcomes": outcomes })
        };
        assert_eq!(
            surplus(&decided(true)),
            [["old", "already gone", "newer login new"], ["odd", "-", "newer login 1 2 3 and 2 more"]]
        );
        assert!(surplus(&decided(false)).iter().all(|[_, came_of_it, _]| came_of_it == "only recorded"));
        let refused = json!({ "decision": { "verdicts": [], "refused": "incomplete" } });
        assert_eq!(surplus(&refused), [["-", "-", "incomplete"]]);
        let lost =
            json!({ "decision": null, "outcomes": [{ "session": "old", "ended": "revoked", "reason": "admin" }] });
        assert_eq!(surplus(&lost), [["old", "revoked", "admin"]]);
    }
}
