//! The end of the demo: the table, the totals, one record as support reads it, and the verdict.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use super::figures::Figures;
use super::screen::{Ink, Screen};
use super::show::{EndTold, in_words, instant, outlived};
use super::stage::Stage;
use super::story::Cast;
use crate::sandbox::{Report, SessionView};

/// Devices on a line of what is left.
const DEVICES_A_LINE: usize = 4;
/// Names in a reason why the demo failed.
const NAMED_MAX: usize = 5;

/// What is known at the end. Mostly it is what the sandbox, which knows every session that ever was, says.
#[derive(Default)]
pub(super) struct Ending {
    report: Report,
    figures: Figures,
    waiting: u64,
    dead: u64,
    left_by_device: BTreeMap<String, usize>,
    /// How long surplus sessions lived after the login that displaced them, in order: before any fault, and since.
    outlived: [Vec<Duration>; 2],
    rows: Vec<Row>,
}

struct Row {
    uid: String,
    logins: usize,
    ended: usize,
    left: usize,
    on: String,
    wrong: usize,
}

impl Ending {
    /// `calm_until`: when the first fault was switched on.
    pub(super) async fn of(stage: &Stage, cast: &Cast, calm_until: Timestamp) -> anyhow::Result<Self> {
        let waiting = stage.inside.waiting().await?;
        let mut ending = Self {
            report: stage.sandbox.report(1),
            figures: Figures::of(&stage.inside.metrics),
            waiting: waiting.open(),
            dead: waiting.dead,
            ..Self::default()
        };
        let by_user: BTreeMap<&str, (usize, usize)> =
            ending.report.by_user.iter().map(|user| (user.uid.as_str(), (user.revoked, user.wrong))).collect();
        for uid in &cast.users {
            let sessions = stage.sandbox.sessions_ever(uid);
            let left: Vec<&SessionView> = sessions.iter().filter(|session| session.ended_at.is_none()).collect();
            for session in &left {
                *ending.left_by_device.entry(session.device.clone()).or_default() += 1;
            }
            for session in &sessions {
                let [calm, rough] = &mut ending.outlived;
                let of_its_time = if session.ended_at.is_some_and(|at| at < calm_until) { calm } else { rough };
                of_its_time.extend(outlived(session, &sessions));
            }
            let (ended, wrong) = by_user.get(uid.as_str()).copied().unwrap_or_default();
            let on = left.iter().max_by_key(|session| instant(session)).map_or_else(String::new, |session| {
                format!("{:<8} {}", session.device, session.session.get(..8).unwrap_or_default())
            });
            ending.rows.push(Row { uid: uid.clone(), logins: sessions.len(), ended, left: left.len(), on, wrong });
        }
        ending.outlived.iter_mut().for_each(|times| times.sort_unstable());
        Ok(ending)
    }

    /// Why the demo has not shown what it promises; empty when it has.
    pub(super) fn failures(&self) -> Vec<String> {
        let named = |users: &[String]| users.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
        let report = &self.report;
        let mut failures = Vec::new();
        if !report.over_limit.is_empty() {
            let count = report.over_limit.len();
            failures.push(format!("{count} users have more than one session: {}", named(&report.over_limit)));
        }
        if !report.emptied.is_empty() {
            let count = report.emptied.len();
            failures.push(format!("{count} users have no session left: {}", named(&report.emptied)));
        }
        if !report.wrong_revocations.is_empty() {
            let users: Vec<String> = report.wrong_revocations.iter().map(|wrong| wrong.uid.clone()).collect();
            failures.push(format!("{} sessions were ended by mistake, of {}", users.len(), named(&users)));
        }
        let logins: u64 = self.rows.iter().map(|row| row.logins as u64).sum();
        let accepted = self.figures.accepted();
        if accepted < logins {
            failures.push(format!("{} of {logins} login events were not accepted", logins - accepted));
        }
        if self.waiting > 0 {
            failures.push(format!("{} messages still wait", self.waiting));
        }
        if self.dead > 0 {
            failures.push(format!("{} messages were dead-lettered", self.dead));
        }
        failures
    }

    pub(super) fn table(&self, screen: &mut Screen, cast: &Cast) -> anyhow::Result<()> {
        screen.title("What became of it")?;
        let head = format!("  {:<10}{:>7}{:>9}{:>7}   {:<22}{:>6}", "user", "logins", "ended", "left", "on", "wrong");
        screen.line(&[(Ink::Name, &head)])?;
        let rule = format!("  {}", "-".repeat(head.len() - 2));
        screen.line(&[(Ink::Dim, &rule)])?;
        let mut total = Row { uid: "all".to_owned(), logins: 0, ended: 0, left: 0, on: String::new(), wrong: 0 };
        for row in &self.rows {
            total.logins += row.logins;
            total.ended += row.ended;
            total.left += row.left;
            total.wrong += row.wrong;
        }
        if cast.is_told_in_full() {
            self.rows.iter().try_for_each(|row| row.show(screen))?;
            screen.line(&[(Ink::Dim, &rule)])?;
        } else {
            let told = cast.told();
            self.rows.iter().filter(|row| told.contains(&row.uid)).try_for_each(|row| row.show(screen))?;
            screen.line(&[(Ink::Dim, &format!("  ... and {} more", self.rows.len() - told.len()))])?;
            screen.line(&[(Ink::Dim, &rule)])?;
            total.uid = format!("{} users", self.rows.len());
        }
        total.show(screen)?;
        if !cast.is_told_in_full() {
            let left: Vec<String> = self.left_by_device.iter().map(|(name, count)| format!("{name} {count}")).collect();
            for (line, devices) in left.chunks(DEVICES_A_LINE).enumerate() {
                let name = if line == 0 { "left on" } else { "" };
                screen.line(&[(Ink::Plain, &format!("  {name:<10}")), (Ink::Login, &devices.join(", "))])?;
            }
        }
        Ok(())
    }

    pub(super) fn totals(&self, screen: &mut Screen, cast: &Cast) -> anyhow::Result<()> {
        let figures = &self.figures;
        let (calls, lists, ends) = (figures.calls(), figures.calls_to("list"), figures.calls_to("revoke"));
        let failed = calls.saturating_sub(figures.calls_ok());
        let (accepted, repeated, settled) = (figures.accepted(), figures.duplicates(), figures.settled());
        let [calm, rough] = &self.outlived;
        let late = if cast.has_late_webhooks() { ", late webhooks included" } else { "" };
        let mut facts = vec![
            ("login events", format!("{accepted} accepted, {repeated} repeats recognised, {settled} settled")),
            ("queue", format!("{} waiting, {} dead-lettered", self.waiting, self.dead)),
            ("calls to LoginRadius", format!("{calls}: {lists} lists, {ends} ends; {failed} failed")),
            ("surplus ended after", format!("p50 {}, p99 {}{late}", quantile(calm, 50), quantile(calm, 99))),
        ];
        if !rough.is_empty() {
            facts.push(("... amid faults", format!("p50 {}, at most {}", quantile(rough, 50), quantile(rough, 100))));
        }
        screen.blank()?;
        for (name, fact) in facts {
            screen.line(&[(Ink::Plain, &format!("  {name:<24}")), (Ink::Name, &fact)])?;
        }
        let (over, emptied) = (self.report.over_limit.len(), self.report.emptied.len());
        let wrong = self.report.wrong_revocations.len();
        let ink = if over + emptied + wrong == 0 { Ink::Good } else { Ink::Bad };
        let fact = format!("over the limit {over}, left without a session {emptied}");
        screen.line(&[(Ink::Plain, &format!("  {:<24}", "users")), (ink, &fact)])?;
        screen.line(&[(Ink::Plain, &format!("  {:<24}", "logged out by mistake")), (ink, &wrong.to_string())])?;
        Ok(())
    }
}

/// Of times in order; 100 percent is the longest.
fn quantile(times: &[Duration], percent: usize) -> String {
    let at = (times.len() * percent).div_ceil(100).saturating_sub(1);
    times.get(at).copied().map_or_else(|| "-".to_owned(), in_words)
}

impl Row {
    fn show(&self, screen: &mut Screen) -> std::io::Result<()> {
        let Self { uid, logins, ended, left, on, wrong } = self;
        screen.line(&[
            (Ink::Name, &format!("  {uid:<10}")),
            (Ink::Plain, &format!("{logins:>7}{ended:>9}{left:>7}   ")),
            (Ink::Login, &format!("{on:<22}")),
            (if *wrong == 0 { Ink::Good } else { Ink::Bad }, &format!("{wrong:>6}")),
        ])
    }
}

/// Why one session was ended, from the record that answers every such question.
pub(super) fn record(screen: &mut Screen, end: &EndTold) -> anyhow::Result<()> {
    let short = |id: &str| id.get(..8).unwrap_or(id).to_owned();
    let (session, uid) = (&end.session, &end.uid);
    screen.title(&format!("Why was {uid} signed out on {}? The record says", session.device))?;
    let mut facts = vec![("session", format!("{}, logged in at {:.3}", short(&session.session), session.login_at))];
    if let Some(witness) = &end.witness {
        let at = format!("{}, logged in at {:.3}", short(&witness.session), witness.login_at);
        facts.push(("displaced by", format!("{} {at}", witness.device)));
    }
    facts.push(("reason", end.reason.clone()));
    facts.push(("policy", format!("{}: one session, the newest stays", end.policy)));
    facts.push(("decision", short(&end.decision)));
    for (name, fact) in facts {
        screen.line(&[(Ink::Plain, &format!("  {name:<14}")), (Ink::Name, &fact)])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_wrong_is_no_failure() {
        assert_eq!(Ending::default().failures(), Vec::<String>::new());
    }

    #[test]
    fn each_broken_promise_fails_the_demo() {
        let mut ending = Ending { waiting: 1, dead: 2, ..Ending::default() };
        ending.report.over_limit = vec!["ann".to_owned()];
        ending.report.emptied = vec!["bob".to_owned(), "cleo".to_owned()];
        ending.rows.push(Row { uid: "ann".to_owned(), logins: 3, ended: 1, left: 2, on: String::new(), wrong: 0 });
        assert_eq!(
            ending.failures(),
            [
                "1 users have more than one session: ann",
                "2 users have no session left: bob, cleo",
                "3 of 3 login events were not accepted",
                "1 messages still wait",
                "2 messages were dead-lettered",
            ]
        );
    }

    #[test]
    fn quantiles_are_times_that_occurred() {
        let times: Vec<Duration> = (1..=200).map(Duration::from_millis).collect();
        let shown = [50, 99, 100].map(|percent| quantile(&times, percent));
        assert_eq!(shown, ["100 ms", "198 ms", "200 ms"]);
        assert_eq!((quantile(&times[..1], 50), quantile(&[], 50)), ("1 ms".to_owned(), "-".to_owned()));
    }
}
