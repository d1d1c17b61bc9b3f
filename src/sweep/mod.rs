//! Looks at every known user again and again, so that a lost event costs time and nothing else.
//!
//! It puts messages into the background lane, which has the calls that logins leave over and a tenth at least. Those who
//! were asked about longest ago come first, at the least pace that gives each their look within the interval. All that
//! it must remember is on the disk, so a restart goes on where it was. A message is published before its user is marked:
//! a crash in between makes a second look, never a missing one.

mod pace;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use self::pace::{Need, due_before_ms};
use crate::clock::Clock;
use crate::directives::Directives;
use crate::ledger::{KnownUser, SqliteLedger, UserCount};
use crate::model::{EventId, Lane, LoginEvent, Reason, TenantId, UserId};
use crate::policy::Mode;
use crate::queue::Queue;
use crate::telemetry::{Metrics, labels};

/// How often messages are published at most, and in how many portions an interval at least.
const TICK_MAX: Duration = Duration::from_secs(1);
const TICKS_PER_INTERVAL: u32 = 50;
const TICK_MIN: Duration = Duration::from_millis(50);
/// How often the pace is found anew at least, and how many times in an interval.
const PLAN_EVERY_MAX: Duration = Duration::from_mins(5);
const PLANS_PER_INTERVAL: u32 = 60;
/// While so many messages wait in the background lane, nobody is swept: second looks must not wait behind the sweep.
const OUTSTANDING_MAX: u32 = 100;
/// The same for messages that wait for their time: something puts them off again and again.
const DELAYED_MAX: u64 = 10_000;
/// Seen times are stored a little late, so nobody is out of the session lifetime before this has passed, too.
const SEEN_GRACE: Duration = Duration::from_hours(1);
/// Users whose sessions are long dead are kept this much longer: a lifetime that is configured too short by mistake
/// must not make us forget people.
const KEEP_UNSEEN: Duration = Duration::from_hours(30 * 24);
/// The sweep has become slow when somebody has waited for this many intervals.
const STRETCHED_FROM: f64 = 1.25;

/// What the sweep is made of. It belongs to the process that keeps the ledger.
pub struct Sweep {
    pub tenants: Vec<TenantId>,
    pub interval: Duration,
    pub users: SqliteLedger,
    pub queue: Arc<dyn Queue>,
    pub directives: Arc<dyn Directives>,
    pub clock: Clock,
    pub metrics: Metrics,
}

/// Where the sweep of one tenant is.
struct Round {
    tenant: TenantId,
    /// Users a second, and those that may be looked at now, fractions included.
    pace: f64,
    saved: f64,
    saved_at: Instant,
    planned_at: Option<Instant>,
    rules: Option<Rules>,
    standing: Standing,
    failing: bool,
}

/// What the tenant's policies mean for the sweep.
#[derive(Clone, Copy)]
struct Rules {
    /// The longest of them all.
    session_lifetime: Duration,
    /// In mode `off` a look does nothing.
    all_off: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    InTime,
    Stretched,
    /// Somebody has waited for longer than a session lives.
    Late,
}

impl Sweep {
    /// Sweeps until it is told to stop.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut rounds: Vec<Round> = self.tenants.iter().cloned().map(Round::new).collect();
        let mut ticks = interval((self.interval / TICKS_PER_INTERVAL).clamp(TICK_MIN, TICK_MAX));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                _tick = ticks.tick() => {}
            }
            for round in &mut rounds {
                let turned = tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    turned = self.turn(round) => turned,
                };
                round.note(turned);
            }
        }
    }

    /// Publishes what is due now, as far as there is room.
    async fn turn(&self, round: &mut Round) -> anyhow::Result<()> {
        if round.planned_at.is_none_or(|at| at.elapsed() >= self.plan_every()) {
            self.plan(round).await?;
        }
        let many = round.save_up().min(self.room(&round.tenant).await?);
        if many == 0 {
            return Ok(());
        }
        let before_ms = due_before_ms(self.clock.now_ms(), self.interval);
        let due = self.users.users_due(&round.tenant, before_ms, many).await?;
        let Some(first) = due.first() else {
            round.saved = 0.0;
            return Ok(());
        };
        round.rules = self.rules(&round.tenant, &first.user);
        match round.rules {
            Some(rules) if !rules.all_off => self.ask(round, rules, due).await,
            // Nobody would be looked at.
            _ => Ok(()),
        }
    }

    /// Puts these users into the queue, but for those whose sessions are dead, and marks them all.
    async fn ask(&self, round: &mut Round, rules: Rules, due: Vec<KnownUser>) -> anyhow::Result<()> {
        let now = self.clock.now();
        let seen_since = |unseen: Duration| now.checked_sub(unseen).map_or(i64::MIN, jiff::Timestamp::as_millisecond);
        let alive_since = seen_since(rules.session_lifetime.saturating_add(SEEN_GRACE));
        let kept_since = seen_since(rules.session_lifetime.saturating_add(KEEP_UNSEEN));
        let count = u32::try_from(due.len()).unwrap_or(OUTSTANDING_MAX);
        let (kept, long_gone): (Vec<_>, Vec<_>) = due.into_iter().partition(|user| user.seen_at_ms >= kept_since);
        let alive = kept.iter().filter(|user| user.seen_at_ms >= alive_since);
        let events: Vec<LoginEvent> =
            alive.map(|user| self.event(&round.tenant, &user.user)).collect::<Result<_, _>>()?;
        if !events.is_empty() {
            self.queue.publish(&events).await?;
        }
        let ids = |users: Vec<KnownUser>| users.into_iter().map(|user| user.user).collect();
        self.users.users_asked(&round.tenant, ids(kept), ids(long_gone)).await?;
        round.saved -= f64::from(count);
        self.metrics.sweep_looks.get_or_create(&of(&round.tenant)).inc_by(events.len() as u64);
        Ok(())
    }

    fn event(&self, tenant: &TenantId, user: &UserId) -> anyhow::Result<LoginEvent> {
        Ok(LoginEvent {
            tenant: tenant.clone(),
            user: user.clone(),
            id: EventId::parse(&format!("sweep-{}", uuid::Uuid::new_v4()))?,
            at: None,
            login_at: None,
            reason: Reason::Sweep,
            accepted_at: Some(self.clock.now()),
        })
    }

    /// How many messages the tenant's background lane has room for; none while that cannot be known.
    async fn room(&self, tenant: &TenantId) -> anyhow::Result<usize> {
        if self.queue.broker().await.is_some_and(|broker| !broker.is_well()) {
            return Ok(0);
        }
        let stats = self.queue.stats().await?;
        let lane = stats.iter().find(|lane| lane.tenant == *tenant && lane.lane == Lane::Background);
        let (waiting, delayed) =
            lane.map_or((0, None), |lane| (lane.ready.saturating_add(lane.unsettled.unwrap_or(0)), lane.delayed));
        let delayed = match delayed {
            Some(delayed) => delayed,
            None => self.queue.broker_counts().await.map_or(0, |counts| counts.delayed),
        };
        let room = if delayed > DELAYED_MAX { 0 } else { u64::from(OUTSTANDING_MAX).saturating_sub(waiting) };
        Ok(usize::try_from(room)?)
    }

    fn rules(&self, tenant: &TenantId, user: &UserId) -> Option<Rules> {
        let directive = self.directives.current(tenant, user).ok()?;
        let policies = || directive.policies.all().map(|resolved| &resolved.policy);
        let session_lifetime = policies().map(|policy| policy.session_lifetime).max()?;
        let all_off = directive.cap == Some(Mode::Off) || policies().all(|policy| policy.mode == Mode::Off);
        Some(Rules { session_lifetime, all_off })
    }

    fn plan_every(&self) -> Duration {
        (self.interval / PLANS_PER_INTERVAL).min(PLAN_EVERY_MAX)
    }

    /// Finds the pace anew, and tells where the sweep is.
    async fn plan(&self, round: &mut Round) -> anyhow::Result<()> {
        let now_ms = self.clock.now_ms();
        let need = Need::new(now_ms, self.interval);
        let before_ms = due_before_ms(now_ms, self.interval);
        let (count, need) = self.users.users_asked_up_to(&round.tenant, before_ms, need, Need::add).await?;
        (round.pace, round.planned_at) = (need.per_second(), Some(Instant::now()));
        if let Some(anybody) = self.users.users_due(&round.tenant, now_ms, 1).await?.first() {
            round.rules = self.rules(&round.tenant, &anybody.user);
        }
        self.report(round, count, now_ms);
        Ok(())
    }

    fn report(&self, round: &mut Round, count: UserCount, now_ms: i64) {
        let is_off = round.rules.is_some_and(|rules| rules.all_off);
        let asked_at_ms = count.oldest_asked_at_ms.filter(|_| !is_off).unwrap_or(now_ms);
        let age = Duration::from_millis(u64::try_from(now_ms.saturating_sub(asked_at_ms)).unwrap_or(0));
        let seconds = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
        let tenant = of(&round.tenant);
        self.metrics.sweep_users.get_or_create(&tenant).set(i64::try_from(count.users).unwrap_or(i64::MAX));
        self.metrics.sweep_oldest_age.get_or_create(&tenant).set(seconds(age));
        self.metrics.sweep_interval.get_or_create(&tenant).set(seconds(self.interval.max(age)));
        self.metrics.sweep_looks.get_or_create(&tenant).inc_by(0);
        let lifetime = round.rules.map(|rules| rules.session_lifetime);
        let standing = match round.standing {
            _ if lifetime.is_some_and(|lifetime| age > lifetime) => Standing::Late,
            _ if age > self.interval.mul_f64(STRETCHED_FROM) => Standing::Stretched,
            before if age > self.interval && before != Standing::InTime => Standing::Stretched,
            _ => Standing::InTime,
        };
        if standing != std::mem::replace(&mut round.standing, standing) {
            tell(&round.tenant, standing, count.users, age, self.interval);
        }
    }
}

/// One line when the sweep becomes slow or is in time again.
fn tell(tenant: &TenantId, standing: Standing, users: u64, age: Duration, interval: Duration) {
    let (age, interval) = (age.as_secs(), interval.as_secs());
    let help = "raise loginradius.requests_per_second or sweep.interval, and see whether the tenant is paused";
    match standing {
        Standing::InTime => {
            tracing::info!(%tenant, "the sweep of {users} users keeps its interval of {interval} s again");
        }
        Standing::Stretched => tracing::warn!(
            %tenant,
            "the sweep of {users} users takes longer than its interval of {interval} s: one waits for {age} s; {help}"
        ),
        Standing::Late => tracing::error!(
            %tenant,
            alarm = "sweep_late",
            "the sweep of {users} users takes longer than a session lives: one waits for {age} s; {help}"
        ),
    }
}

impl Round {
    fn new(tenant: TenantId) -> Self {
        Self {
            tenant,
            pace: 0.0,
            saved: 0.0,
            saved_at: Instant::now(),
            planned_at: None,
            rules: None,
            standing: Standing::InTime,
            failing: false,
        }
    }

    /// How many users may be asked about by now; what could not be used is not saved up for long.
    fn save_up(&mut self) -> usize {
        let now = Instant::now();
        let passed = now.saturating_duration_since(self.saved_at).as_secs_f64();
        self.saved = (self.saved + passed * self.pace).min(f64::from(OUTSTANDING_MAX));
        self.saved_at = now;
        (1..=OUTSTANDING_MAX).take_while(|many| f64::from(*many) <= self.saved).count()
    }

    /// The log tells of a trouble once.
    fn note(&mut self, turned: anyhow::Result<()>) {
        match turned {
            Err(error) if !std::mem::replace(&mut self.failing, true) => {
                tracing::warn!(tenant = %self.tenant, "the sweep cannot go on now and tries again: {error:#}");
            }
            Err(_told_before) => {}
            Ok(()) => self.failing = false,
        }
    }
}

fn of(tenant: &TenantId) -> crate::telemetry::Labels {
    labels([("tenant", tenant.as_str())])
}
