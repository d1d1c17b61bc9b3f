//! What runs: the queue's process and the workers', which die and come again.

use std::num::NonZeroU32;
use std::path::Path;
use std::sync::{Arc, Mutex as StdMutex};
use std::time::Duration;

use jiff::SignedDuration;
use soloist::clock::Clock;
use soloist::config::{Rate, WorkerConfig};
use soloist::directives::Directives;
use soloist::ledger::Ledger;
use soloist::model::TenantId;
use soloist::provider::SessionProvider;
use soloist::queue::Queue;
use soloist::queue::embedded::{EmbeddedConfig, EmbeddedQueue};
use soloist::telemetry::Metrics;
use soloist::worker::fleet::Share;
use soloist::worker::{Brakes, TenantWorker, WorkerParts};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use tokio_util::sync::CancellationToken;

use super::brakes::{Deciding, guard};
use super::dice;
use super::hands::{Life, QueueInHand};
use super::judge::STEP_DEADLINE;
use super::mutants::Mutant;
use super::paused::wait;
use super::world::{BEGIN, World};

/// How long a process takes to come again that ended because its queue went away.
const RESTART: Duration = Duration::from_millis(500);

/// The process of the queue. Its file outlives it.
pub(crate) struct QueueProcess {
    config: EmbeddedConfig,
    clock: Clock,
    handle: StdMutex<Option<EmbeddedQueue>>,
    running: Mutex<JoinSet<()>>,
}

impl QueueProcess {
    pub(crate) fn new(folder: &Path, clock: Clock) -> Self {
        let config = EmbeddedConfig { dedupe_ids_max: 1_000, ..EmbeddedConfig::in_dir(folder) };
        Self { config, clock, handle: StdMutex::new(None), running: Mutex::default() }
    }

    pub(crate) async fn start(&self) {
        let mut running = self.running.lock().await;
        if self.handle().is_some() {
            return;
        }
        let (queue, task) = EmbeddedQueue::open_on_task(&self.config, self.clock).unwrap();
        running.spawn(async move { task.run().await.unwrap() });
        *self.handle.lock().unwrap() = Some(queue);
    }

    /// Drops all that it has in memory.
    pub(crate) async fn die(&self) {
        let mut running = self.running.lock().await;
        *self.handle.lock().unwrap() = None;
        running.shutdown().await;
    }

    pub(crate) fn handle(&self) -> Option<EmbeddedQueue> {
        self.handle.lock().unwrap().clone()
    }
}

/// Lets a worker live, die as the plan wants it, and live again, until `stop`.
pub(crate) async fn live(
    world: Arc<World>,
    worker: usize,
    queue: Arc<QueueProcess>,
    deciding: Arc<Deciding>,
    mutant: Option<Mutant>,
    stop: CancellationToken,
) {
    while !stop.is_cancelled() {
        let Some(handle) = queue.handle() else {
            wait(RESTART).await;
            continue;
        };
        let life =
            Life { world: Arc::clone(&world), worker, control: deciding.control(), over: CancellationToken::new() };
        let one_life = build(&life, Arc::new(handle), deciding.brakes(&world.plan), mutant).run(stop.clone());
        let died = tokio::select! {
            biased;
            () = life.over.cancelled() => true,
            // It fails where the queue has gone away: then the orchestrator starts it again.
            _ended = one_life => false,
        };
        life.over.cancel();
        {
            let mut state = world.lock();
            state.listings.retain(|(of, _), _| *of != worker);
        }
        if !died {
            wait(RESTART).await;
            continue;
        }
        if world.plan.is_one_process {
            queue.die().await;
            deciding.die();
        }
        let down = world.plan.crashes.iter().find(|crash| crash.worker == worker).map_or(0, |crash| crash.down_ms);
        wait(Duration::from_millis(down)).await;
        if world.plan.is_one_process {
            deciding.start(&world);
            queue.start().await;
        }
    }
}

/// A life of a worker as the plan wants it.
fn build(life: &Life, queue: Arc<dyn Queue>, brakes: Brakes, mutant: Option<Mutant>) -> TenantWorker {
    let plan = &life.world.plan;
    let rate = plan.requests_per_second.and_then(NonZeroU32::new);
    let off = SignedDuration::from_hours(plan.clock_off_hours);
    let parts = WorkerParts {
        rate: rate.map_or(Rate::Unlimited, Rate::PerSecond),
        brakes,
        clock: Clock::starting_at(life.world.clock.now().checked_add(off).unwrap()),
        ..parts(Ports {
            provider: Arc::new(life.clone()),
            queue: Arc::new(QueueInHand { queue, life: life.clone() }),
            directives: Arc::new(life.clone()),
            ledger: Arc::new(life.clone()),
        })
    };
    let parts = WorkerParts { config: WorkerConfig { attempts_max: plan.attempts_max, ..parts.config }, ..parts };
    let worker = TenantWorker::new(match mutant {
        Some(mutant) => mutant.dress(parts, life),
        None => parts,
    });
    let workers = u32::try_from(plan.workers).unwrap();
    worker.enforcer().set_share(Share::of(1, workers.try_into().unwrap()));
    worker
}

/// What a worker touches the world by.
pub(crate) struct Ports {
    pub(crate) provider: Arc<dyn SessionProvider>,
    pub(crate) queue: Arc<dyn Queue>,
    pub(crate) directives: Arc<dyn Directives>,
    pub(crate) ledger: Arc<dyn Ledger>,
}

/// The one place where the production worker is put together.
pub(crate) fn parts(ports: Ports) -> WorkerParts {
    let Ports { provider, queue, directives, ledger } = ports;
    WorkerParts {
        tenant: TenantId::default_tenant(),
        provider,
        rate: Rate::Unlimited,
        queue,
        directives,
        brakes: Brakes::alone(guard(6)),
        ledger,
        config: WorkerConfig {
            concurrency: 4,
            step_deadline: STEP_DEADLINE,
            revokes_per_step_max: 2,
            attempts_max: 12,
            drain_timeout: Duration::from_secs(10),
        },
        clock: Clock::starting_at(BEGIN),
        metrics: Metrics::new(),
        chance: dice::chance_of_workers,
    }
}
