//! The provider and its users, as they are: what is true in a run, whatever the workers see of it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use jiff::{Timestamp, TimestampRound, Unit};
use serde_json::json;
use soloist::clock::Clock;
use soloist::model::{AccessToken, EventId, LoginEvent, Reason, SessionDevice, TenantId, TokenDigest, UserId};
use soloist::policy::{Policy, TenantPolicies, written};
use tokio::time::Instant;

use super::counts::{Counts, Violation};
use super::dice::Dice;
use super::judge::Listing;
use super::plan::{Act, Cut, Fault, FaultKind, Plan, Standing, What};
use super::rule::Row;

/// When every run begins, by the provider's clock.
pub(crate) const BEGIN: Timestamp = Timestamp::constant(1_772_323_200, 250_000_000);

pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) tenant: TenantId,
    pub(crate) policies: Arc<TenantPolicies>,
    pub(crate) clock: Clock,
    pub(crate) began: Instant,
    state: Mutex<State>,
}

/// What changes.
pub(crate) struct State {
    pub(crate) users: Vec<User>,
    pub(crate) dice: Dice,
    pub(crate) counts: Counts,
    pub(crate) violations: Vec<Violation>,
    /// The last listing that each worker was given of each user, and what was true then.
    pub(crate) listings: HashMap<(usize, usize), Listing>,
    /// When each call to the provider was made.
    pub(crate) calls: Vec<Instant>,
    /// How often each worker came to each effect.
    pub(crate) effects: HashMap<(usize, super::plan::Effect), u32>,
    /// When sessions were revoked of whom, since the budget was last resumed.
    pub(crate) revoked: Vec<(Instant, usize)>,
    /// Clients that will log in again.
    pub(crate) kicked: Vec<(usize, SessionDevice)>,
    pub(crate) refreshes_at_revoke: u32,
    pub(crate) is_quiet: bool,
    pub(crate) sweeping_since: Option<Instant>,
}

#[derive(Default)]
pub(crate) struct User {
    pub(crate) sessions: Vec<Session>,
    /// At least one of its events was accepted.
    pub(crate) is_known: bool,
    /// The ledger knows of it: the sweep goes by that.
    pub(crate) is_seen: bool,
    /// Why its surplus may have to wait for the sweep.
    pub(crate) excuses: Vec<&'static str>,
    /// The revocations of the last recorded decision, and what the rule says about the list that it was made from.
    pub(crate) recorded: Option<(Instant, Vec<TokenDigest>)>,
}

#[derive(Clone)]
pub(crate) struct Session {
    pub(crate) token: String,
    pub(crate) row: Row,
    pub(crate) logged_in: Timestamp,
    pub(crate) last_used: Timestamp,
    pub(crate) visible_from: Instant,
    pub(crate) ended: Option<(Instant, End)>,
    pub(crate) event: Told,
}

/// What we were told of a login.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    Nothing,
    Accepted,
    /// It came about by a refresh, of which nobody is told.
    Refresh,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    Revoked,
    ByUser,
}

impl Session {
    pub(crate) fn is_alive(&self) -> bool {
        self.ended.is_none()
    }
}

impl World {
    pub(crate) fn new(plan: &Plan) -> Self {
        let users = plan.users.iter().map(|_| User::default()).collect();
        let state = State {
            users,
            dice: Dice::of(plan.seed ^ 0xd1ce),
            counts: Counts { seeds: 1, ..Counts::default() },
            violations: Vec::new(),
            listings: HashMap::new(),
            calls: Vec::new(),
            effects: HashMap::new(),
            revoked: Vec::new(),
            kicked: Vec::new(),
            refreshes_at_revoke: plan.habits.refreshes_at_revoke,
            is_quiet: false,
            sweeping_since: None,
        };
        Self {
            plan: plan.clone(),
            tenant: TenantId::default_tenant(),
            policies: Arc::new(policies(plan)),
            clock: Clock::starting_at(BEGIN),
            began: Instant::now(),
            state: Mutex::new(state),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn at(&self, ms: u64) -> Instant {
        self.began + Duration::from_millis(ms)
    }

    /// What holds for a user, by the provider's own profile; `None` for the exempt.
    pub(crate) fn policy_of(&self, user: usize) -> Option<Policy> {
        let traits = traits(self.plan.users[user]);
        let resolution = self.policies.resolve(&uid(user), Some(&traits), self.clock.now()).unwrap();
        resolution.exemption.is_none().then(|| (*resolution.policy.policy).clone())
    }

    /// Does what a person does. A login comes with the event that tells of it.
    pub(crate) fn act(&self, act: &Act) -> Option<LoginEvent> {
        let now = self.clock.now();
        let mut state = self.lock();
        match act.what {
            What::Login { device, lag_ms, time_known, .. } => {
                return Some(self.login(&mut state, act.user, device_of(device), lag_ms, time_known));
            }
            What::Logout { which } => {
                if let Some(session) = living(&mut state.users[act.user], which) {
                    session.ended = Some((Instant::now(), End::ByUser));
                    state.counts.logouts += 1;
                }
            }
            What::Refresh { which, lag_ms } => {
                let alive = state.users[act.user].sessions.iter().filter(|session| session.is_alive());
                let place = alive.clone().count().checked_sub(1).map(|last| which % (last + 1));
                if let Some(token) = place.and_then(|place| alive.map(|session| session.token.clone()).nth(place)) {
                    self.refresh(&mut state, act.user, &token, lag_ms);
                }
            }
            What::Use { which } => {
                if let Some(session) = living(&mut state.users[act.user], which) {
                    session.last_used = now;
                }
            }
        }
        None
    }

    /// A client that was kicked logs in again.
    pub(crate) fn login_again(&self, user: usize) -> Option<LoginEvent> {
        let mut state = self.lock();
        let place = state.kicked.iter().position(|(of, _)| *of == user)?;
        let (_, device) = state.kicked.remove(place);
        Some(self.login(&mut state, user, device, 0, true))
    }

    fn login(
        &self,
        state: &mut State,
        user: usize,
        device: SessionDevice,
        lag_ms: u64,
        time_known: bool,
    ) -> LoginEvent {
        let nanos = i64::try_from(state.dice.between(0, 999_999)).unwrap();
        let at = self.clock.now() + Duration::from_nanos(nanos.unsigned_abs());
        let token = format!("token-{user}-{}-{}", state.users[user].sessions.len(), state.dice.roll());
        let listed_at = time_known.then(|| cut(at, self.plan.habits.listed_times));
        let visible_from = Instant::now() + Duration::from_millis(lag_ms);
        let number = state.users[user].sessions.len();
        state.users[user].sessions.push(Session {
            row: Row { digest: AccessToken::new(&token).digest(), at: listed_at, device },
            token,
            logged_in: at,
            last_used: at,
            visible_from,
            ended: None,
            event: Told::Nothing,
        });
        state.counts.logins += 1;
        LoginEvent {
            tenant: self.tenant.clone(),
            user: uid(user),
            id: EventId::parse(&format!("login-{user}-{number}")).unwrap(),
            at: Some(cut(at, Cut::Seconds)),
            login_at: self.plan.habits.events_tell_login.then_some(at),
            reason: Reason::Login,
            accepted_at: Some(at),
        }
    }

    /// The client of a living session gets a new token for it.
    pub(crate) fn refresh(&self, state: &mut State, user: usize, token: &str, lag_ms: u64) {
        let habits = self.plan.habits;
        let now = Instant::now();
        let fresh = format!("{token}-{}", state.dice.roll() % 1_000);
        let Some(old) = state.users[user].sessions.iter_mut().find(|session| session.token == token) else { return };
        let mut session = old.clone();
        old.ended = Some((now, End::ByUser));
        session.row.digest = AccessToken::new(&fresh).digest();
        session.token = fresh;
        session.event = Told::Refresh;
        session.visible_from = session.visible_from.max(now + Duration::from_millis(lag_ms));
        if habits.refresh_restamps && session.row.at.is_some() {
            session.logged_in = self.clock.now();
            session.row.at = Some(cut(session.logged_in, habits.listed_times));
        }
        if !habits.refresh_replaces || habits.refresh_restamps || lag_ms > 0 {
            state.users[user].excuses.push("refreshed");
        }
        state.users[user].sessions.push(session);
        state.counts.refreshes += 1;
    }

    /// An event is durable: from now on its user is ours to care for.
    pub(crate) fn accepted(&self, event: &LoginEvent) {
        let mut state = self.lock();
        let user = &mut state.users[user_of(&event.user)];
        user.is_known = true;
        let number = event.id.as_str().split('-').nth(2).and_then(|number| number.parse::<usize>().ok());
        if let Some(session) = number.and_then(|number| user.sessions.get_mut(number)) {
            session.event = Told::Accepted;
        }
    }

    /// The fault that befalls a call about this user now, if any.
    pub(crate) fn fault(&self, state: &mut State, user: usize, may_be: &[FaultKind]) -> Option<FaultKind> {
        if state.is_quiet {
            return None;
        }
        let now = Instant::now();
        let hits = |fault: &&Fault| {
            let is_now = self.at(fault.from_ms) <= now && now < self.at(fault.to_ms);
            is_now && fault.user.is_none_or(|of| of == user) && may_be.contains(&fault.kind)
        };
        let fault = self.plan.faults.iter().filter(hits).find(|fault| state.dice.chance(fault.percent))?;
        state.counts.faults += 1;
        Some(fault.kind)
    }

    /// Whether listings show the session now, alive or not.
    pub(crate) fn is_listed(&self, session: &Session) -> bool {
        let now = Instant::now();
        let habits = self.plan.habits;
        let lingers = |ms: u64, since: Instant| now < since + Duration::from_millis(ms);
        let is_there = match session.ended {
            None => true,
            Some((since, End::ByUser)) => lingers(habits.ghosts_ms, since),
            Some((since, End::Revoked)) => lingers(habits.revoked_listed_ms, since),
        };
        is_there && session.visible_from <= now
    }
}

fn living(user: &mut User, which: usize) -> Option<&mut Session> {
    let alive: Vec<&mut Session> = user.sessions.iter_mut().filter(|session| session.is_alive()).collect();
    let many = alive.len().max(1);
    alive.into_iter().nth(which % many)
}

pub(crate) fn uid(user: usize) -> UserId {
    UserId::parse(&format!("user-{user}")).unwrap()
}

pub(crate) fn user_of(uid: &UserId) -> usize {
    uid.as_str().rsplit('-').next().unwrap().parse().unwrap()
}

/// Whose token it is.
pub(crate) fn owner(token: &AccessToken) -> usize {
    token.expose().split('-').nth(1).unwrap().parse().unwrap()
}

fn cut(at: Timestamp, to: Cut) -> Timestamp {
    let unit = match to {
        Cut::Nanos => return at,
        Cut::Millis => Unit::Millisecond,
        Cut::Seconds => Unit::Second,
    };
    at.round(TimestampRound::new().smallest(unit).mode(jiff::RoundMode::Trunc)).unwrap()
}

/// What the profile says.
pub(crate) fn traits(standing: Standing) -> soloist::model::UserTraits {
    let roles = if standing == Standing::Exempt { vec!["auditor".to_owned()] } else { Vec::new() };
    soloist::model::UserTraits { roles, ..Default::default() }
}

fn device_of(number: u64) -> SessionDevice {
    let (device_type, os, browser) = match number {
        0 => ("mobile", "ios", "safari"),
        1 => ("mobile", "android", "chrome"),
        2 => ("desktop", "windows", "edge"),
        3 => ("desktop", "macos", "safari"),
        4 => ("desktop", "unknown", "firefox"),
        _ => ("unknown", "unknown", "unknown"),
    };
    let said = |text: &str| Some(text.to_owned());
    SessionDevice { device_type: said(device_type), os: said(os), browser: said(browser), ..Default::default() }
}

/// What is written for the tenant.
pub(crate) fn policies(plan: &Plan) -> TenantPolicies {
    written::tenant_policies(&table(plan), "policy", None).unwrap()
}

pub(crate) fn table(plan: &Plan) -> serde_json::Value {
    let rules = plan.rules;
    let overrides = plan.users.iter().enumerate().filter_map(|(user, standing)| match standing {
        Standing::Override(limit) => Some(json!({"uid": format!("user-{user}"), "limit": limit})),
        _ => None,
    });
    let mut table = json!({
        "mode": rules.mode,
        "limit": rules.limit,
        "strategy": rules.strategy,
        "count": if rules.by_device { "device" } else { "session" },
        "session_lifetime": rules.session_lifetime,
        "overrides": overrides.collect::<Vec<_>>(),
    });
    if rules.bucketed {
        table["buckets"] = json!({"by": "device_type", "limits": {"mobile": 1, "desktop": 2}});
    }
    if plan.users.contains(&Standing::Exempt) {
        let who = json!({"role": "auditor", "reason": "audits", "owner": "ops", "expires": "2099-01-01"});
        table["exemptions"] = json!([who]);
    }
    table
}
