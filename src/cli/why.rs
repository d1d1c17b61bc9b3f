//! `soloist why`: in plain words, why sessions were ended, or were not.

use std::collections::HashSet;
use std::process::ExitCode;

use clap::Args;
use http::Method;
use serde_json::{Value, json};

use super::admin::{Access, AdminClient, Ask};
use super::ledger::{checked, with_ledger};
use super::output::{self, counted, harmless, list, text};
use super::users::{device, known, short};
use super::{Source, Usage};
use crate::model::{SessionId, UserId};

/// Newer logins that are named one by one; `--json` has all.
const WITNESSES_SHOWN: usize = 3;

/// Say in plain words why sessions were ended, or were not
#[derive(Args)]
#[command(after_help = "Examples:
  soloist why ann                                   all that is recorded of a user, newest first
  soloist why 67ac86848e39f3d1c0de67ac86848e39      one session, by its whole id")]
pub(super) struct WhyArgs {
    /// A user's Uid at LoginRadius, or a session's id
    #[arg(value_name = "UID|SESSION")]
    subject: String,
    /// The tenant, where there are several
    #[arg(long)]
    tenant: Option<String>,
    /// Decisions to look through
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    limit: u16,
    /// One JSON object a session
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: WhyArgs, source: Source) -> anyhow::Result<ExitCode> {
    checked(None, args.tenant.as_ref())?;
    let session = SessionId::parse(&args.subject).ok();
    if session.is_none() {
        UserId::parse(&args.subject).map_err(|error| Usage(error.to_string()))?;
    }
    let admin = AdminClient::open(&with_ledger(&source)?, Access::Read).await?;
    let asked = told(&admin, &args, session.is_some()).await;
    admin.close().await?;
    let told = asked?;
    if args.json {
        told.iter().try_for_each(|one| output::line(&one.json))?;
    } else if told.is_empty() {
        output::line(format_args!(
            "nothing is recorded that ended, or would have ended, a session of {}",
            args.subject
        ))?;
    } else {
        let news = without_repeats(&told);
        news.iter().flat_map(|one| &one.lines).try_for_each(|line| output::line(harmless(line)))?;
        let repeats = (told.len() - news.len()) as u64;
        if repeats > 0 {
            let times = counted(repeats, "earlier time");
            output::line(format_args!("left out: {times} that the same was found of one of these; --json has them"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Of what was found of a session again and again, such as that ending it is paused, the newest.
fn without_repeats(newest_first: &[Told]) -> Vec<&Told> {
    let mut told = HashSet::new();
    newest_first.iter().filter(|one| told.insert((text(&one.json, "session"), text(&one.json, "in_words")))).collect()
}

/// One session that a decision was against.
struct Told {
    json: Value,
    lines: Vec<String>,
}

async fn told(admin: &AdminClient, args: &WhyArgs, may_be_session: bool) -> anyhow::Result<Vec<Told>> {
    // A uid may look like a session id, too.
    if may_be_session {
        let ask = Ask::new(Method::GET, ["sessions", &args.subject, "decisions"]);
        let answer = admin.ask(ask.query("tenant", args.tenant.as_ref())).await?;
        let found = list(&answer, "decisions");
        if !found.is_empty() {
            let of_session = found.iter().flat_map(|decided| sessions(decided, text(decided, "uid")));
            return Ok(of_session.filter(|one| text(&one.json, "session") == args.subject).collect());
        }
    }
    let ask = Ask::new(Method::GET, ["users", &args.subject, "decisions"]).query("limit", Some(args.limit));
    let answer = admin.ask(ask.query("tenant", args.tenant.as_ref())).await?;
    Ok(list(&answer, "decisions").iter().flat_map(|decided| sessions(decided, &args.subject)).collect())
}

/// What a decision says of each session that it was against.
fn sessions(decided: &Value, uid: &str) -> Vec<Told> {
    let decision = decided.get("decision").unwrap_or(&Value::Null);
    let outcomes = list(decided, "outcomes");
    if decision.is_null() {
        // A worker elsewhere ended them, and its decision was lost on the way.
        return outcomes.iter().map(|outcome| one(decided, uid, outcome, Some(outcome))).collect();
    }
    let against = list(decision, "verdicts").iter().filter(|verdict| text(verdict, "action") == "revoke");
    against
        .map(|verdict| {
            let outcome = outcomes.iter().find(|outcome| text(outcome, "session") == text(verdict, "session"));
            one(decided, uid, verdict, outcome)
        })
        .collect()
}

fn one(decided: &Value, uid: &str, verdict: &Value, outcome: Option<&Value>) -> Told {
    let seen = |id: &str| list(decided, "sessions").iter().find(|seen| text(seen, "session") == id);
    let id = text(verdict, "session");
    let executed = decided.get("executed").and_then(Value::as_bool).unwrap_or(true);
    let ended = outcome.map(|outcome| text(outcome, "ended"));
    let held = text(decided, "held");
    let came = came_of_it(executed, ended, held);
    let reason = in_words(text(verdict, "reason"));
    let witnesses: Vec<&str> = list(verdict, "witnesses").iter().filter_map(Value::as_str).collect();

    let at = output::time(text(decided, "decided_at"));
    let mut lines = vec![format!("{at}  session {} of {uid}{} {came}", short(id), described(seen(id)))];
    lines.push(format!("  why: {reason}"));
    let newer = witnesses.iter().take(WITNESSES_SHOWN);
    lines.extend(newer.map(|witness| format!("  newer: session {}{}", short(witness), described(seen(witness)))));
    if witnesses.len() > WITNESSES_SHOWN {
        lines.push(format!("  and {} more that are newer", witnesses.len() - WITNESSES_SHOWN));
    }
    let policy = decided.pointer("/decision/policy").unwrap_or(&Value::Null);
    if !policy.is_null() {
        lines.push(format!(
            "  by: policy {} (from {}), version {}, looked at because of a {}",
            text(policy, "name"),
            text(policy, "source"),
            short(text(policy, "version")),
            text(decided, "looked").replace('_', " ")
        ));
    }
    let json = json!({
        "decided_at": text(decided, "decided_at"),
        "uid": uid,
        "session": id,
        "seen": seen(id),
        "executed": executed,
        "ended": ended,
        "held": (!held.is_empty()).then_some(held),
        "reason": verdict.get("reason"),
        "in_words": format!("{came}; {reason}"),
        "witnesses": witnesses.iter().map(|id| json!({ "session": id, "seen": seen(id) })).collect::<Vec<_>>(),
        "policy": policy,
        "looked": text(decided, "looked"),
    });
    Told { json, lines }
}

/// ` (Safari on iOS, iPhone; Berlin, Germany; login 2026-01-02 03:04:05)`, as far as it is known.
fn described(seen: Option<&Value>) -> String {
    let Some(seen) = seen else { return String::new() };
    let login = output::time(text(seen, "login_at"));
    let login = if login.is_empty() { "login time unknown".to_owned() } else { format!("login {login}") };
    let parts = [device(seen), known(seen, &["city", "country"]).join(", "), login];
    let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    format!(" ({})", parts.join("; "))
}

fn came_of_it(executed: bool, ended: Option<&str>, held: &str) -> String {
    if !executed {
        let why = match held {
            "observe" => "the policy only observes",
            "canary" => "the user is outside the share of users whom the policy is enforced for",
            "budget" => "the tenant's revocations of that hour were spent",
            "contended" => "clients of this user end each other again and again, so ending them is paused",
            "stale_directives" => "the worker had no current directives",
            "not_a_login" => "reject_newest ends nobody outside a login",
            _ => "it was only recorded",
        };
        return format!("would have been ended, but was not: {why}");
    }
    match ended {
        Some("revoked") => "was ended",
        Some("already_gone") => "was to be ended, and had gone already",
        Some("failed") => "could not be ended: LoginRadius did not do it",
        Some("gone_at_next_listing") => "was to be ended; what came of it was not noted, but it was gone afterwards",
        Some("still_listed") => "was to be ended; what came of it was not noted, and it was still there afterwards",
        _ => "was to be ended; what came of it is not recorded",
    }
    .to_owned()
}

fn in_words(reason: &str) -> String {
    match reason {
        "displaced_by_newer_login" => "as many newer logins as may stay are there",
        "bucket_limit" => "as many newer logins from this kind of device as may stay are there",
        "same_device_newer" => "the same device has logged in again",
        "rejected_over_limit" => {
            "as many older sessions as may stay were there already, and nobody is let in above that"
        }
        "chosen_by_user" => "the user chose to end it",
        "admin" => "an operator chose to end it",
        "" => "no reason is recorded",
        other => return other.replace('_', " "),
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_told_with_the_newer_logins_and_what_held_it() {
        let seen = |id: &str, os: &str| json!({ "session": id, "os": os, "browser": "Safari", "city": "Berlin", "login_at": "2026-01-02T03:04:05.678Z" });
        let verdict =
            json!({ "session": "old", "action": "revoke", "reason": "displaced_by_newer_login", "witnesses": ["new"] });
        let decided = json!({
            "decided_at": "2026-01-02T03:04:06Z",
            "looked": "login",
            "executed": false,
            "held": "budget",
            "decision": { "verdicts": [verdict], "policy": { "name": "default", "version": "0123456789abcdef", "source": "rule" } },
            "sessions": [seen("new", "iOS"), seen("old", "macOS")],
            "outcomes": null,
        });
        let told = sessions(&decided, "ann");
        assert_eq!(told.len(), 1);
        for expected in [
            "2026-01-02 03:04:06  session old of ann (Safari on macOS; Berlin; login 2026-01-02 03:04:05) would have been ended",
            "revocations of that hour were spent",
            "why: as many newer logins as may stay are there",
            "newer: session new (Safari on iOS; Berlin; login 2026-01-02 03:04:05)",
            "by: policy default (from rule), version 0123456789ab, looked at because of a login",
        ] {
            assert!(told[0].lines.iter().any(|line| line.contains(expected)), "{expected}: {:?}", told[0].lines);
        }
        assert_eq!(told[0].json["witnesses"][0]["seen"]["os"], json!("iOS"));
    }

    #[test]
    fn what_was_found_again_and_again_is_told_once() {
        let decided = |session: &str, held: Option<&str>| {
            json!({
                "executed": held.is_none(),
                "held": held,
                "decision": { "verdicts": [{ "session": session, "action": "revoke", "reason": "bucket_limit" }] },
                "outcomes": [{ "session": session, "ended": "revoked" }],
            })
        };
        let looks = [("a", None), ("a", Some("budget")), ("b", Some("budget")), ("a", Some("budget"))];
        let told: Vec<Told> = looks.iter().flat_map(|(id, held)| sessions(&decided(id, *held), "ann")).collect();
        let news = without_repeats(&told);
        assert_eq!(news.iter().map(|one| text(&one.json, "session")).collect::<Vec<_>>(), ["a", "a", "b"]);
    }
}
