//! Stage 3: the loop around the step. One worker a tenant, so that a tenant in trouble never delays another.

mod allowance;
mod asking;
mod calls;
mod class;
mod coalesce;
mod delivered;
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
use self::delivered::Step;
use self::guard::Guard;
use self::health::Health;
use self::lanes::Lanes;
use self::rate::RateGate;
use self::signs::Signs;
use crate::clock::Clock;
use crate::config::{Rate, WorkerConfig};
use crate::directives::Directives;
use crate::ledger::Ledger;
use crate::model::{TenantId, UserId};
use crate::provider::SessionProvider;
use crate::queue::{Delivery, Queue, QueueError};
use crate::retry;
use crate::telemetry::{Metrics, causes};

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
