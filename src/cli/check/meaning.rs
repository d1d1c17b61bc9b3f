//! What a probe measured: in words, and as findings about the policies that are to work with it.

use super::Finding;
use super::queue::LIMITERS;
use crate::policy::{Count, Limit, Mode, Policy, device_count};
use crate::probe::{LOOK_EVERY, LoginSeen, Measured, RefreshSeen, RefreshedRow, RefreshedTime};

/// The last re-check comes so long after a login, in milliseconds; then the sweep is what finds it.
const LADDER_MS: u64 = 156_000;
/// Codes that say that a session is gone; each ends the matter.
const GONE: [u32; 4] = [905, 906, 2024, 1055];

/// Each thing that was measured and what was seen, for a table.
pub(super) fn words(measured: &Measured) -> Vec<[String; 2]> {
    let mut words = Vec::new();
    let mut say = |what: &str, found: String| words.push([what.to_owned(), found]);
    say("sessions listed before", measured.sessions_before.to_string());
    if let Some(dead) = measured.dead_listed {
        say("of these expired or ended", dead.to_string());
    }
    say("SessionsLimit of the user", measured.sessions_limit.map_or("none".to_owned(), |limit| limit.to_string()));
    if let Some(login) = &measured.login {
        say("a login is listed", login.listed_after_ms.map_or("(the profile told no time)".to_owned(), within));
        say("its row's LoginDate", login_date(login));
    }
    if let Some(refresh) = &measured.refresh {
        say("a refresh", refreshed(refresh));
        say("and the row's time", refreshed_time(refresh).to_owned());
    }
    if let Some(end) = &measured.end {
        say("ending a session", end.first.to_string());
        say(
            "and its row",
            end.unlisted_after_ms.map_or("stays listed".to_owned(), |ms| format!("goes {}", within(ms))),
        );
        say("ending it twice", end.second.to_string());
        let comes_back = end.comes_back.map(|comes_back| if comes_back { "works: it is back" } else { "is refused" });
        say("refreshing it then", comes_back.unwrap_or("not measured").to_owned());
    }
    words
}

/// Two looks are never closer together than [`LOOK_EVERY`], so a number below it would say too much.
fn within(ms: u64) -> String {
    format!("within {} ms", u128::from(ms) + LOOK_EVERY.as_millis())
}

fn login_date(login: &LoginSeen) -> String {
    match (login.login_date, login.behind_event_ms()) {
        (None, _) => "cannot be read".to_owned(),
        (Some(_), Some(0)) => "equals LastLoginDate".to_owned(),
        (Some(_), Some(ms)) if ms > 0 => format!("is {ms} ms earlier than LastLoginDate"),
        (Some(_), Some(ms)) => format!("is {} ms later than LastLoginDate", -ms),
        (Some(at), None) => at.to_string(),
    }
}

fn refreshed(refresh: &RefreshSeen) -> String {
    let row = match refresh.row {
        RefreshedRow::Replaced => "replaces the row",
        RefreshedRow::Duplicated => "duplicates the row: old and new token are both listed",
        RefreshedRow::SameToken => "keeps the token and its row",
        RefreshedRow::Unlisted => "gives a token that is not listed",
        RefreshedRow::Refused => "is refused",
    };
    refresh.refused.as_ref().map_or_else(|| row.to_owned(), |said| format!("{row}: {said}"))
}

fn refreshed_time(refresh: &RefreshSeen) -> &'static str {
    match refresh.time {
        Some(RefreshedTime::Kept) => "keeps that of the login",
        Some(RefreshedTime::Restamped) => "becomes that of the refresh",
        Some(RefreshedTime::Other) => "is neither that of the login nor a later one",
        None => "not measured",
    }
}

/// What it means for these policies, which are all that a user of the tenant can have.
pub(super) fn findings(measured: &Measured, policies: &[&Policy]) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(measured.sessions_limit.map(limiter));
    findings.extend(measured.dead_listed.filter(|dead| *dead > 0).map(|dead| dead_listed(dead, policies)));
    findings.extend(measured.login.as_ref().map(login));
    findings.extend(measured.refresh.as_ref().map(|refresh| refresh_means(refresh, policies)));
    findings.extend(measured.end.as_ref().map(|end| match end {
        end if end.comes_back == Some(true) => Finding::problem(
            "probe: ending",
            "an ended session came back by a refresh, although preventRefresh was sent",
            "ask LoginRadius support why; until then revoke refresh tokens, too, or stay in mode = \"observe\"",
        ),
        end if end.unlisted_after_ms.is_none() => Finding::warning(
            "probe: ending",
            "an ended session stays listed, so it counts and is ended again at each look",
            "ask LoginRadius support; keep limit = 1 until it is clear",
        ),
        end if end.second.code.is_some_and(|code| !GONE.contains(&code)) => Finding::warning(
            "probe: ending",
            format!("ending a session that is gone is answered {}, which counts as a failure", end.second),
            "report this answer to the makers of Soloist: it should count as success",
        ),
        _ => Finding::ok("probe: ending", "ended sessions leave the list and stay ended"),
    }));
    findings
}

fn limiter(limit: u32) -> Finding {
    let found = format!("LoginRadius limits this user to {}, too", super::output::counted(limit.into(), "session"));
    Finding::warning("vendor limiter", found, LIMITERS)
}

pub(super) fn login_refused(why: &str) -> Finding {
    let is_limiter = why.contains("1338");
    let remedy = if is_limiter { LIMITERS } else { "see the message" };
    Finding::problem(
        if is_limiter { "vendor limiter" } else { "probe" },
        format!("the login was refused: {why}"),
        remedy,
    )
}

pub(super) fn no_login() -> Finding {
    Finding::problem(
        "probe: login",
        "no new session was listed in time",
        "did the login work, as this user, at this tenant? Refused with 1338, it was LoginRadius' own limiter; otherwise the login takes long to be listed, or is none that listings show",
    )
}

pub(super) fn not_touched() -> Finding {
    Finding::warning(
        "probe",
        "refresh, expiry and ending were not measured: they touch the user's session",
        "ask the user, then answer yes, or give --yes",
    )
}

fn login(login: &LoginSeen) -> Finding {
    let about = "probe: login";
    let late = login.listed_after_ms.is_some_and(|ms| ms > LADDER_MS);
    match (login.login_date, login.behind_event_ms()) {
        (None, _) => Finding::problem(
            about,
            "the row's LoginDate cannot be read, so such a session is never ended",
            "show `soloist sessions` to LoginRadius support; nothing can be enforced without login times",
        ),
        _ if late => Finding::warning(
            about,
            "logins are listed later than the last re-check, so only the sweep finds them",
            "shorten sweep.interval to what may pass between a login and its enforcement",
        ),
        (_, Some(behind)) if behind > 0 => Finding::warning(
            about,
            "rows carry an earlier time than the login's event, so each login costs all four re-checks",
            "plan for five listings a login when you set loginradius.requests_per_second",
        ),
        _ => Finding::ok(about, "logins are listed with a time that their events can be found by"),
    }
}

fn dead_listed(dead: usize, policies: &[&Policy]) -> Finding {
    let about = "probe: expired sessions";
    let found = format!("{} listed: they count like live ones", super::output::counted(dead as u64, "dead session"));
    if policies.iter().any(|policy| policy.mode == Mode::Enforce && keeps_several(policy)) {
        let remedy = "with a limit above 1 a dead session can push out a live one: set limit = 1, or ask LoginRadius to prune expired sessions";
        return Finding::warning(about, found, remedy);
    }
    Finding::ok(about, format!("{found}; with a limit of 1 that harms nobody"))
}

fn refresh_means(refresh: &RefreshSeen, policies: &[&Policy]) -> Finding {
    let about = "probe: refresh";
    if refresh.row == RefreshedRow::Duplicated {
        let harm = |enforced: bool| {
            let mut of_mode = policies.iter().filter(|policy| (policy.mode == Mode::Enforce) == enforced);
            of_mode.find_map(|policy| harm_of_twins(refresh, policy))
        };
        return match (harm(true), harm(false)) {
            (Some([found, remedy]), _) => Finding::problem(about, format!("enforce is refused: {found}"), remedy),
            (None, Some([found, remedy])) => Finding::warning(about, format!("before you enforce: {found}"), remedy),
            (None, None) => Finding::ok(about, "rows are duplicated; your policies end no live session for that"),
        };
    }
    match (refresh.row, refresh.time) {
        (RefreshedRow::Refused, _) => Finding::warning(
            about,
            "could not be measured: LoginRadius refused to refresh",
            "if your apps do refresh sessions, have LoginRadius support allow it for this key, and probe again",
        ),
        (RefreshedRow::Unlisted, _) => Finding::warning(
            about,
            "a refreshed session is not listed, so it is neither counted nor ended",
            "ask LoginRadius support; short token lifetimes keep this small",
        ),
        (_, Some(RefreshedTime::Restamped)) => Finding::warning(
            about,
            "a refresh counts as a login: who refreshed last stays, not who logged in last",
            "let apps refresh only while they are used, or expect an idle new device to be ended for a busy old one",
        ),
        (_, Some(RefreshedTime::Other)) => Finding::warning(
            about,
            "a refresh changes a session's login time in a way that nobody can plan with",
            "ask LoginRadius support, and stay in mode = \"observe\" until it is clear",
        ),
        _ => Finding::ok(about, "a refreshed session is the same session, with the same login time"),
    }
}

/// How a policy would end a live session because old and new row of one refresh are both listed; and the remedy.
fn harm_of_twins(refresh: &RefreshSeen, policy: &Policy) -> Option<[&'static str; 2]> {
    let one_device = policy.count == Count::Device && device_count(&refresh.twins, policy) == 1;
    let by_chance = refresh.time != Some(RefreshedTime::Restamped);
    if !has_cap(policy) {
        return None;
    }
    if by_chance && !(one_device && keeps_several_on_a_device(policy)) {
        return Some([
            "both rows of a refreshed session carry the same login time, so chance says which stays, and the token in use can be ended",
            "set count = \"device\" with per_device = 2, or mode = \"observe\", or have LoginRadius replace the row on refresh",
        ]);
    }
    if !one_device && keeps_several(policy) {
        return Some([
            "both rows of a refreshed session count, so with a limit above 1 a device that refreshes pushes another one out",
            "set limit = 1, or count = \"device\" with device_fields that LoginRadius fills, or mode = \"observe\"",
        ]);
    }
    None
}

fn has_cap(policy: &Policy) -> bool {
    let per_device = if policy.count == Count::Device { Some(policy.per_device) } else { None };
    limits(policy).chain(per_device).any(|limit| limit != Limit::Unlimited)
}

/// Whether a second session or device of a user may stay because of a number above 1.
fn keeps_several(policy: &Policy) -> bool {
    limits(policy).any(|limit| limit != Limit::ONE && limit != Limit::Unlimited)
}

fn keeps_several_on_a_device(policy: &Policy) -> bool {
    policy.per_device != Limit::ONE
}

fn limits(policy: &Policy) -> impl Iterator<Item = Limit> {
    let buckets = policy.buckets.iter().flat_map(|buckets| buckets.limits.values());
    std::iter::once(&policy.limit).chain(buckets).copied()
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::super::State;
    use super::*;
    use crate::model::{Session, SessionDevice, View};

    fn twins(time: RefreshedTime, os: Option<&str>) -> RefreshSeen {
        let field = |text: &str| Some(text.to_owned());
        let device = SessionDevice {
            device_type: field("Mobile"),
            browser: field("Safari"),
            os: os.map(str::to_owned),
            ..SessionDevice::default()
        };
        let row = |token| Session::new(token, None, device.clone());
        let twins = View { sessions: vec![row("old"), row("new")], complete: true };
        RefreshSeen { row: RefreshedRow::Duplicated, time: Some(time), refused: None, twins }
    }

    fn at_most(count: u32) -> Limit {
        Limit::AtMost(NonZeroU32::new(count).unwrap())
    }

    fn sessions(limit: Limit) -> Policy {
        Policy { limit, ..Policy::default() }
    }

    fn devices(limit: u32, per_device: u32) -> Policy {
        Policy { limit: at_most(limit), count: Count::Device, per_device: at_most(per_device), ..Policy::default() }
    }

    #[test]
    fn enforce_is_refused_where_a_duplicated_row_can_end_a_live_session() {
        use RefreshedTime::{Kept, Restamped};
        for (policy, time, os, state) in [
            (sessions(at_most(1)), Restamped, Some("iOS"), State::Ok),
            (sessions(at_most(2)), Restamped, Some("iOS"), State::Problem),
            (sessions(Limit::Unlimited), Restamped, Some("iOS"), State::Ok),
            (sessions(at_most(1)), Kept, Some("iOS"), State::Problem),
            (sessions(at_most(2)), Kept, Some("iOS"), State::Problem),
            (sessions(Limit::Unlimited), Kept, Some("iOS"), State::Ok),
            (devices(2, 1), Restamped, Some("iOS"), State::Ok),
            (devices(2, 1), Restamped, None, State::Problem),
            (devices(2, 1), Kept, Some("iOS"), State::Problem),
            (devices(2, 2), Kept, Some("iOS"), State::Ok),
            (devices(2, 2), Kept, None, State::Problem),
        ] {
            let finding = refresh_means(&twins(time, os), &[&policy]);
            assert!(finding.state == state, "{policy:?} {time:?} {os:?}: {}", finding.found);
        }
    }

    #[test]
    fn what_only_observes_is_warned_and_not_refused() {
        let policy = Policy { mode: Mode::Observe, ..sessions(at_most(2)) };
        let finding = refresh_means(&twins(RefreshedTime::Restamped, Some("iOS")), &[&policy]);
        assert!(finding.state == State::Warning && finding.found.starts_with("before you enforce"));
    }
}
