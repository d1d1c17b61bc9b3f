//! Stage 3: the loop around the step. One worker a tenant, so that a tenant in trouble never delays another.

mod allowance;
mod asking;
mod calls;
mod class;
mod coalesce;
mod ending;
mod evictions;
mod evidence;
pub mod fleet;
mod guard;
mod health;
mod known;
mod lanes;
mod rate;
mod settle;
mod signs;
mod step;

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

pub use self::asking::{Admission, Newcomer};
pub use self::evictions::eviction_of;
pub use self::guard::Brakes;
pub use self::health::TenantState;
pub use self::signs::LimiterSign;
pub use self::step::{Enforcer, Evaluation, Look, LookAgain, StepError, TenantEnforcer};

use self::asking::Views;
use self::calls::Calls;
use self::coalesce::Coalescer;
use self::guard::Guard;
use self::health::Health;
use self::lanes::Lanes;
use self::rate::RateGate;
use self::settle::Circumstances;
use self::signs::Signs;
use crate::clock::Clock;
use crate::config::{Rate, WorkerConfig};
use crate::directives::Directives;
use crate::ledger::Ledger;
use crate::model::{LoginEvent, Reason, TenantId, UserId};
use crate::provider::SessionProvider;
use crate::queue::{Delivery, DeliveryTag, Queue, QueueError, Settlement, Why};
use crate::retry;
use crate::telemetry::{Metrics, causes, labels};

/// Unsettled deliveries a lane may hold, for each step that may run.
const PREFETCH_PER_STEP: usize = 4;
/// How often a tenant with refused credentials is tried again.
const UNAUTHORIZED_PROBE: Duration = Duration::from_secs(30);
/// How long a probe waits for a waiting user before it takes the one that failed last.
const PROBE_PICK_WAIT: Duration = Duration::from_millis(250);
/// Probes look at the oldest waiting user first, then further down, so that no single user decides for all.
const PROBE_USERS: u32 = 8;

/// What a tenant's worker is made of.
pub struct WorkerParts {
    pub tenant: TenantId,
    pub provider: Arc<dyn SessionProvider>,
    pub rate: Rate,
    pub queue: Arc<dyn Queue>,
    pub directives: Arc<dyn Directives>,
    pub ledger: Arc<dyn Ledger>,
    pub brakes: Brakes,
    pub config: WorkerConfig,
    pub clock: Clock,
    pub metrics: Metrics,
    /// Shortens waits at random: 0 to 1. An argument, so that a simulation can repeat a run.
    pub chance: fn() -> f64,
}

/// Works on one tenant's messages.
pub struct TenantWorker {
    queue: Arc<dyn Queue>,
    enforcer: Arc<TenantEnforcer>,
}

impl TenantWorker {
    pub fn new(parts: WorkerParts) -> Self {
        let WorkerParts { tenant, provider, rate, queue, directives, ledger, brakes, config, clock, metrics, chance } =
            parts;
        metrics.announce(&tenant);
        let health = Health::new(tenant.clone(), metrics.clone());
        let signs = Signs::new(tenant.clone(), clock, metrics.clone());
        let gate = RateGate::new(rate);
        let calls = Calls { tenant: tenant.clone(), provider, gate, health, signs, metrics: metrics.clone(), chance };
        let guard = Guard::new(&brakes);
        let views = Views::default();
        let enforcer =
            TenantEnforcer { tenant, calls, directives, ledger, brakes, guard, config, clock, metrics, views };
        Self { queue, enforcer: Arc::new(enforcer) }
    }

    /// The step alone, for those who ask about one user.
    pub fn enforcer(&self) -> Arc<TenantEnforcer> {
        Arc::clone(&self.enforcer)
    }

    /// Works until it is told to stop; then finishes what it began, within the drain time, and gives back the rest.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        self.enforcer.remember_evictions().await;
        while !stop.is_cancelled() {
            match self.enforcer.calls.health.state() {
                TenantState::Running => self.consume(&stop).await?,
                state => self.wait_out(state, &stop).await?,
            }
        }
        Ok(())
    }

    async fn consume(&self, stop: &CancellationToken) -> anyhow::Result<()> {
        let config = &self.enforcer.config;
        let prefetch = config.concurrency.saturating_mul(PREFETCH_PER_STEP);
        let lanes = Lanes::open(&*self.queue, &self.enforcer.tenant, prefetch).await?;
        let mut state = self.enforcer.calls.health.watch();
        let mut steps: JoinSet<anyhow::Result<UserId>> = JoinSet::new();
        let mut coalescer = Coalescer::default();
        let mut turn = 0;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _changed = state.wait_for(|state| *state != TenantState::Running) => break,
                Some(done) = steps.join_next() => {
                    let user = done??;
                    if let Some(next) = coalescer.finished(&user) {
                        self.begin(&mut steps, next, &lanes, stop);
                    }
                }
                delivery = lanes.receive(turn), if steps.len() < config.concurrency => {
                    turn = turn.wrapping_add(1);
                    if let Some(first) = coalescer.arrived(delivery?) {
                        self.begin(&mut steps, first, &lanes, stop);
                    }
                }
            }
        }
        let drained = timeout(config.drain_timeout, drain(&mut steps)).await;
        lanes.close().await?;
        match drained {
            Ok(result) => result,
            Err(_late) => {
                tracing::warn!(tenant = %self.enforcer.tenant, "steps did not end in time; their messages are given back");
                Ok(())
            }
        }
    }

    fn begin(
        &self,
        steps: &mut JoinSet<anyhow::Result<UserId>>,
        deliveries: Vec<Delivery>,
        lanes: &Lanes,
        stop: &CancellationToken,
    ) {
        let Some(step) = Step::of(deliveries) else { return };
        let span = tracing::info_span!(
            "delivery",
            tenant = %self.enforcer.tenant,
            user.id = %step.look.user,
            event.id = %step.event_id,
            delivery.attempt = step.attempt,
        );
        let (enforcer, lanes, stop) = (Arc::clone(&self.enforcer), lanes.clone(), stop.clone());
        steps.spawn(async move { step.run(&enforcer, &lanes, &stop).await }.instrument(span));
    }

    /// Probes the provider until it answers; all messages wait unspent.
    async fn wait_out(&self, state: TenantState, stop: &CancellationToken) -> anyhow::Result<()> {
        let health = &self.enforcer.calls.health;
        let mut watched = health.watch();
        let mut probes = 0_u32;
        while health.state() != TenantState::Running {
            probes = probes.saturating_add(1);
            let wait = match state {
                TenantState::Unauthorized => UNAUTHORIZED_PROBE,
                _ => retry::probe_delay(probes),
            };
            // Another caller's success (an operator who looks at a user, say) ends the pause before its probe is due.
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                _answers = watched.wait_for(|state| *state == TenantState::Running) => return Ok(()),
                () = tokio::time::sleep(wait) => {}
            }
            let place = (probes - 1) % PROBE_USERS + 1;
            let Some(user) = self.waiting_user(place).await?.or_else(|| health.last_failed()) else { continue };
            let probed = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                probed = timeout(self.enforcer.config.step_deadline, self.enforcer.calls.probe(&user)) => probed,
            };
            if let Ok(Err(error)) = probed {
                let cause = causes(&error);
                tracing::debug!(tenant = %self.enforcer.tenant, probes, "still paused: {cause}");
            }
            if health.state() != state && health.state() != TenantState::Running {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The user whose message is at this place (from 1) among those that wait, or the last before it; nothing is taken.
    async fn waiting_user(&self, place: u32) -> Result<Option<UserId>, QueueError> {
        let prefetch = usize::try_from(place).unwrap_or(1);
        let lanes = Lanes::open(&*self.queue, &self.enforcer.tenant, prefetch).await?;
        let mut user = None;
        for _ in 0..place {
            match timeout(PROBE_PICK_WAIT, lanes.receive(0)).await {
                Ok(delivery) => user = Some(delivery?.event.user),
                Err(_nobody_else_waits) => break,
            }
        }
        lanes.close().await?;
        Ok(user)
    }
}

async fn drain(steps: &mut JoinSet<anyhow::Result<UserId>>) -> anyhow::Result<()> {
    while let Some(done) = steps.join_next().await {
        done??;
    }
    Ok(())
}

/// One look and the deliveries that it is for.
struct Step {
    deliveries: Vec<Delivery>,
    look: Look,
    event_id: crate::model::EventId,
    attempt: u32,
}

impl Step {
    fn of(deliveries: Vec<Delivery>) -> Option<Self> {
        let newest = settle::newest(&deliveries)?;
        let chosen = deliveries.iter().find(|delivery| delivery.tag == newest)?;
        // A login among them makes the look one for a login, whatever else woke us; and for each of them, where they may
        // be turned away.
        let logins = deliveries.iter().map(|delivery| &delivery.event).filter(|event| event.reason == Reason::Login);
        let reason = logins.clone().map(|event| event.reason).next();
        // One of which only the second is known may be the last of them.
        let vague = logins.clone().filter(|event| event.login_at.is_none()).filter_map(|event| event.at).max();
        let first = logins.filter_map(|event| event.login_at.or(event.at)).min();
        let event = chosen.event.clone();
        let look = Look {
            user: event.user,
            reason: reason.unwrap_or(event.reason),
            at: first.or(event.login_at).or(event.at),
            login_at: event.login_at.map(|at| vague.map_or(at, |vague| at.max(vague))),
            dry_run: false,
        };
        Some(Self { look, event_id: event.id, attempt: chosen.attempt, deliveries })
    }

    /// Looks and settles. An error is the queue's and ends the worker.
    async fn run(self, enforcer: &TenantEnforcer, lanes: &Lanes, stop: &CancellationToken) -> anyhow::Result<UserId> {
        let settlements = match enforcer.evaluate_and_know(&self.look).await {
            Ok(evaluation) => settle::after_look(&evaluation, &self.deliveries),
            Err(error) => self.after_failure(enforcer, error),
        };
        self.settle(lanes, &settlements, stop).await?;
        self.count(enforcer, &settlements);
        Ok(self.look.user)
    }

    /// Settles, if need be until the disk takes it or we are told to stop: then the next process looks again.
    /// A queue that has stopped takes nothing any more.
    async fn settle(
        &self,
        lanes: &Lanes,
        settlements: &[(DeliveryTag, Settlement)],
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        let mut failures = 0_u32;
        while let Err(error) = lanes.settle(&self.deliveries, settlements).await {
            if matches!(error, QueueError::Stopped) {
                return Err(error.into());
            }
            failures = failures.saturating_add(1);
            if stop.is_cancelled() {
                tracing::warn!("not settled before the stop, so it will be looked at again: {error}");
                return Ok(());
            }
            if failures == 1 {
                tracing::error!("cannot settle, will try until it can: {:#}", anyhow::Error::new(error));
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(retry::probe_delay(failures)) => {}
            }
        }
        Ok(())
    }

    fn after_failure(&self, enforcer: &TenantEnforcer, error: StepError) -> Vec<(DeliveryTag, Settlement)> {
        let health = &enforcer.calls.health;
        let now = Circumstances {
            state: health.state(),
            others_succeed: health.others_succeed(&self.look.user),
            attempts_max: enforcer.config.attempts_max,
            jitter: (enforcer.calls.chance)(),
        };
        let settlements = settle::after_failure(&error, &self.deliveries, now);
        let error = anyhow::Error::new(error);
        if settlements.iter().any(|(_, settlement)| matches!(settlement, Settlement::DeadLetter { .. })) {
            tracing::error!("given up: {error:#}");
        } else if now.state == TenantState::Running {
            tracing::warn!("looked in vain, will look again: {error:#}");
        } else {
            tracing::debug!("put off while the tenant pauses: {error:#}");
        }
        settlements
    }

    fn count(&self, enforcer: &TenantEnforcer, settlements: &[(DeliveryTag, Settlement)]) {
        let (metrics, tenant) = (&enforcer.metrics, enforcer.tenant.as_str());
        let now = enforcer.clock.now();
        for (tag, settlement) in settlements {
            let (name, why) = match settlement {
                Settlement::Ack => ("ack", None),
                Settlement::Again { next: crate::queue::Next::Recheck { .. }, why, .. } => ("recheck", Some(*why)),
                Settlement::Again { why, .. } => ("again", Some(*why)),
                Settlement::DeadLetter { why } => ("dead_letter", Some(*why)),
            };
            let why = why.map_or("", Why::as_str);
            let of = labels([("tenant", tenant), ("settlement", name), ("why", why)]);
            metrics.deliveries_settled.get_or_create(&of).inc();
            if name == "recheck" {
                metrics.rechecks.get_or_create(&labels([("tenant", tenant), ("why", why)])).inc();
            }
            let event = self.deliveries.iter().find(|delivery| delivery.tag == *tag).map(|delivery| &delivery.event);
            if let Some(LoginEvent { id, reason, .. }) = event {
                tracing::debug!(event.id = %id, "settled event `{id}` ({}): {name}", reason.as_str());
            }
            let accepted = event.filter(|event| event.reason == Reason::Login).and_then(|event| event.accepted_at);
            if let Some(accepted_at) = accepted
                && matches!(name, "ack" | "recheck")
            {
                let seconds = now.duration_since(accepted_at).as_secs_f64().max(0.0);
                metrics.login_to_settled.get_or_create(&labels([("tenant", tenant)])).observe(seconds);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::EventId;

    fn login(number: u64, at: &str, login_at: Option<&str>) -> Delivery {
        let event = LoginEvent {
            tenant: TenantId::default_tenant(),
            user: UserId::parse("ann").unwrap(),
            id: EventId::parse("h").unwrap(),
            at: Some(at.parse().unwrap()),
            login_at: login_at.map(|at| at.parse().unwrap()),
            reason: Reason::Login,
            accepted_at: None,
        };
        Delivery { tag: DeliveryTag { epoch: 1, number }, event, attempt: 1, redelivered: false }
    }

    #[test]
    fn a_look_for_several_logins_waits_for_the_last_however_exactly_each_is_known() {
        let exact = login(1, "2026-01-01T00:00:01Z", Some("2026-01-01T00:00:01.5Z"));
        let waits_for = |deliveries: &[&Delivery]| {
            Step::of(deliveries.iter().copied().cloned().collect()).unwrap().look.login_at.map(|at| at.to_string())
        };
        let earlier = login(2, "2026-01-01T00:00:00Z", None);
        let later = login(3, "2026-01-01T00:00:09Z", None);
        assert_eq!(waits_for(&[&earlier, &exact]).as_deref(), Some("2026-01-01T00:00:01.5Z"));
        assert_eq!(waits_for(&[&later, &exact]).as_deref(), Some("2026-01-01T00:00:09Z"));
        assert_eq!(waits_for(&[&earlier, &later]), None, "then one more look is all that can be had");
    }
}
