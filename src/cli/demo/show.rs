//! Tells what happens, as it happens: who logs in on what, which session ends, how soon and why.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::figures::Figures;
use super::screen::{Ink, Screen};
use super::stage::Stage;
use crate::sandbox::{LoginMade, SessionView};

/// How often the show looks at what has happened, and how often where a look at so many users costs more.
const LOOK_EVERY: Duration = Duration::from_millis(20);
const LOOK_AT_MANY_EVERY: Duration = Duration::from_millis(100);
/// How often a piped run with many users says how far it is.
const SAY_EVERY: Duration = Duration::from_secs(2);
/// Decisions of one user that are read to find the one that ended a session.
const DECISIONS_READ: usize = 100;

/// One line to come, with the moment it tells of.
struct Happened {
    at: Timestamp,
    what: What,
}

enum What {
    LogsIn {
        made: LoginMade,
        words: &'static str,
    },
    Ends(Box<EndTold>),
    /// The service pauses or goes on.
    State {
        ink: Ink,
        words: String,
    },
}

/// A session's end, with what is known about its cause.
#[derive(Clone, Debug)]
pub(super) struct EndTold {
    pub(super) uid: String,
    pub(super) session: SessionView,
    pub(super) witness: Option<SessionView>,
    pub(super) reason: String,
    pub(super) policy: String,
    pub(super) decision: String,
    pub(super) waited: Duration,
}

pub(super) struct Show<'a> {
    pub(super) stage: &'a mut Stage,
    pub(super) screen: &'a mut Screen,
    /// The users whose every login and end is told.
    told_users: Vec<String>,
    told_all: bool,
    began: Timestamp,
    coming: Vec<Happened>,
    told: HashSet<String>,
    last_end: Option<EndTold>,
    state: &'static str,
    said: Instant,
    /// Logins that will come in all.
    pub(super) planned: u64,
}

impl<'a> Show<'a> {
    pub(super) fn new(stage: &'a mut Stage, screen: &'a mut Screen, told_users: Vec<String>, told_all: bool) -> Self {
        let began = stage.sandbox.now();
        Self {
            stage,
            screen,
            told_users,
            told_all,
            began,
            coming: Vec::new(),
            told: HashSet::new(),
            last_end: None,
            state: "running",
            said: Instant::now(),
            planned: 0,
        }
    }

    /// The last end that was told, of a plain kind if there was one.
    pub(super) fn an_end(&self) -> Option<&EndTold> {
        self.last_end.as_ref()
    }

    /// Tells from now on only of the first few.
    pub(super) fn tell_only(&mut self, first: usize) {
        self.told_users.truncate(first);
    }

    fn look_every(&self) -> Duration {
        if self.told_all { LOOK_EVERY } else { LOOK_AT_MANY_EVERY }
    }

    /// One login.
    pub(super) fn login(&mut self, uid: &str, device: &str) -> anyhow::Result<()> {
        let made = self.stage.sandbox.login(uid, Some(device))?;
        self.tell_login(made, "logs in");
        Ok(())
    }

    /// Several logins of one user at the very same instant.
    pub(super) fn login_at_once(&mut self, uid: &str, devices: &[&str]) -> anyhow::Result<()> {
        let mut words = "logs in";
        for made in self.stage.sandbox.login_at_once(uid, devices)? {
            self.tell_login(made, words);
            words = "logs in at the same instant";
        }
        Ok(())
    }

    fn tell_login(&mut self, made: LoginMade, words: &'static str) {
        if self.told_users.contains(&made.uid) {
            self.coming.push(Happened { at: made.login_at, what: What::LogsIn { made, words } });
        }
    }

    /// Goes on telling for that long.
    pub(super) async fn go_on(&mut self, for_that_long: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + for_that_long;
        loop {
            self.tell().await?;
            let now = Instant::now();
            if now >= until {
                return Ok(());
            }
            sleep(self.look_every().min(until - now)).await;
        }
    }

    /// A pause in which the eye sees what a login brought about; where nobody watches, as short as it may be.
    pub(super) async fn until_seen(&mut self, length: Duration, at_most: Duration) -> anyhow::Result<()> {
        if self.screen.is_live() { self.go_on(length).await } else { self.until_settled(at_most).await.map(drop) }
    }

    /// A pause for the eye; none where nobody watches.
    pub(super) async fn beat(&mut self, length: Duration) -> anyhow::Result<()> {
        self.go_on(if self.screen.is_live() { length } else { Duration::ZERO }).await
    }

    /// Goes on telling until everything is settled. Returns how long it took.
    pub(super) async fn until_settled(&mut self, at_most: Duration) -> anyhow::Result<Duration> {
        let from = Instant::now();
        loop {
            let settled = self.stage.is_settled().await?;
            self.tell().await?;
            if settled {
                return Ok(from.elapsed());
            }
            if from.elapsed() > at_most {
                let open = self.stage.inside.waiting().await?;
                anyhow::bail!(
                    "not everything was settled within {} s: {} messages ready, {} in hand, {} delayed; the service is {}",
                    at_most.as_secs(),
                    open.ready,
                    open.in_hand,
                    open.delayed,
                    self.stage.inside.state()
                );
            }
            sleep(self.look_every()).await;
        }
    }

    /// Looks at what has happened and tells it in order.
    async fn tell(&mut self) -> anyhow::Result<()> {
        self.stage.check()?;
        for uid in self.told_users.clone() {
            self.gather_ends(&uid).await?;
        }
        self.note_state();
        self.coming.sort_by_key(|happened| happened.at);
        for happened in std::mem::take(&mut self.coming) {
            self.tell_one(&happened)?;
        }
        self.tell_progress().await
    }

    async fn gather_ends(&mut self, uid: &str) -> anyhow::Result<()> {
        let sessions = self.stage.sandbox.sessions_ever(uid);
        let is_new = |session: &&SessionView| session.state != "live" && !self.told.contains(&session.session);
        let ended: Vec<SessionView> = sessions.iter().filter(is_new).cloned().collect();
        if ended.is_empty() {
            return Ok(());
        }
        let decisions = self.stage.inside.decisions(uid, DECISIONS_READ).await?;
        for session in ended {
            let end = end_told(uid, &session, &sessions, &decisions);
            let at = session.ended_at.unwrap_or(session.login_at);
            if !end.is_tie() || self.last_end.is_none() {
                self.last_end = Some(end.clone());
            }
            self.coming.push(Happened { at, what: What::Ends(Box::new(end)) });
            self.told.insert(session.session);
        }
        Ok(())
    }

    /// A pause, or its end. It was read after the ends that it caused, and belongs before them.
    fn note_state(&mut self) {
        let state = self.stage.inside.state();
        if state == std::mem::replace(&mut self.state, state) {
            return;
        }
        let now = self.stage.sandbox.now();
        let first_end = self.coming.iter().filter(|line| matches!(line.what, What::Ends(_))).map(|line| line.at).min();
        let (ink, words) = match state {
            "running" => (Ink::Good, "LoginRadius answers again: work goes on".to_owned()),
            cause => (Ink::Bad, format!("paused ({cause}): nothing is spent, nobody is signed out")),
        };
        let at = if ink == Ink::Good { first_end.unwrap_or(now).min(now) } else { now };
        self.coming.insert(0, Happened { at, what: What::State { ink, words } });
    }

    fn tell_one(&mut self, happened: &Happened) -> std::io::Result<()> {
        let at = format!("{}  ", self.since_start(happened.at));
        let session_line = |uid: &str, sign: (Ink, &str), device: &str, session: &str| {
            [
                (Ink::Dim, at.clone()),
                (Ink::Name, format!("{uid:<6}")),
                (sign.0, format!("{} {device:<8} ", sign.1)),
                (Ink::Dim, format!("{}  ", session.get(..8).unwrap_or_default())),
            ]
        };
        let pieces: Vec<(Ink, String)> = match &happened.what {
            What::State { ink, words } => vec![(Ink::Dim, at), (*ink, format!("soloist  {words}"))],
            What::LogsIn { made, words } => {
                let start = session_line(&made.uid, (Ink::Login, "+"), &made.device, &made.session);
                start.into_iter().chain([(Ink::Plain, (*words).to_owned())]).collect()
            }
            What::Ends(end) => {
                let start = session_line(&end.uid, (Ink::Ended, "-"), &end.session.device, &end.session.session);
                start.into_iter().chain([(Ink::Ended, end.in_words())]).collect()
            }
        };
        let pieces: Vec<(Ink, &str)> = pieces.iter().map(|(ink, text)| (*ink, text.as_str())).collect();
        self.screen.line(&pieces)
    }

    async fn tell_progress(&mut self) -> anyhow::Result<()> {
        let say = !self.told_all && !self.screen.is_live() && self.said.elapsed() >= SAY_EVERY;
        if !self.screen.is_live() && !say {
            return Ok(());
        }
        let figures = Figures::of(&self.stage.inside.metrics);
        let (settled, ended) = (figures.settled(), figures.ended());
        if say {
            self.said = Instant::now();
            let at = self.since_start(self.stage.sandbox.now());
            self.screen.text(&format!("{at}  {settled} of {} logins settled, {ended} sessions ended", self.planned))?;
        } else {
            let open = self.stage.inside.waiting().await?.open();
            self.screen.progress(settled, format!("{ended} ended, {open} waiting"));
        }
        Ok(())
    }

    fn since_start(&self, at: Timestamp) -> String {
        format!("{:>6.2}s", at.duration_since(self.began).as_secs_f64())
    }
}

impl EndTold {
    fn is_tie(&self) -> bool {
        self.witness.as_ref().is_some_and(|witness| instant(witness) == instant(&self.session))
    }

    fn in_words(&self) -> String {
        let waited = in_words(self.waited);
        match (&self.witness, self.reason.as_str()) {
            (Some(witness), "displaced_by_newer_login") if self.is_tie() => {
                format!("ended after {waited}: a tie, {} stays", witness.device)
            }
            (Some(witness), "displaced_by_newer_login") => {
                format!("ended after {waited}: newer login on {}", witness.device)
            }
            (_, reason) => format!("ended after {waited}: {reason}"),
        }
    }
}

/// The login instant as listings show it.
pub(super) fn instant(session: &SessionView) -> i64 {
    session.login_at.as_millisecond()
}

/// `12 ms`, `3.4 s`.
pub(super) fn in_words(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        format!("{} ms", time.as_millis())
    } else {
        format!("{:.1} s", time.as_secs_f64())
    }
}

/// How long a session lived on after the next newer login of its user.
pub(super) fn outlived(session: &SessionView, sessions: &[SessionView]) -> Option<Duration> {
    let rank = |session: &SessionView| (instant(session), session.session.clone());
    let next = sessions.iter().filter(|other| rank(other) > rank(session)).min_by_key(|other| rank(other))?;
    let since = session.ended_at?.duration_since(next.login_at.max(session.login_at));
    Some(Duration::try_from(since).unwrap_or_default())
}

/// Finds the decision that ended a session: the newest that says so.
fn end_told(uid: &str, session: &SessionView, sessions: &[SessionView], decisions: &[Value]) -> EndTold {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or("not recorded").to_owned();
    let found = decisions.iter().find_map(|record| {
        let decision = record.get("decision")?;
        let verdicts = decision.get("verdicts")?.as_array()?;
        let is_it = |verdict: &&Value| {
            verdict.get("session").and_then(Value::as_str) == Some(&session.session)
                && verdict.get("action").and_then(Value::as_str) == Some("revoke")
        };
        Some((decision, verdicts.iter().find(is_it)?))
    });
    let (decision, verdict) = found.unzip();
    let by_id: BTreeMap<&str, &SessionView> = sessions.iter().map(|s| (s.session.as_str(), s)).collect();
    let witness = verdict.and_then(|verdict| verdict.get("witnesses")?.as_array()?.first()?.as_str());
    EndTold {
        uid: uid.to_owned(),
        session: session.clone(),
        witness: witness.and_then(|id| by_id.get(id).copied()).cloned(),
        reason: text(verdict.and_then(|verdict| verdict.get("reason"))),
        policy: text(decision.and_then(|decision| decision.pointer("/policy/name"))),
        decision: text(decision.and_then(|decision| decision.get("id"))),
        waited: outlived(session, sessions).unwrap_or_default(),
    }
}
