//! How near the worker comes to what a provider with 50 ms of latency allows, and how soon it makes the first call.

#![expect(clippy::print_stdout, reason = "a benchmark reports on its output")]

#[expect(dead_code, reason = "each benchmark uses a part of it")]
mod support;

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;

use soloist::config::Revocations;
use soloist::directives::{Control, Purse};
use soloist::ledger::SqliteLedger;
use soloist::model::LoginEvent;
use soloist::queue::Queue as _;
use soloist::queue::embedded::{EmbeddedConfig, EmbeddedQueue, QueueThread};
use soloist::worker::{Brakes, TenantWorker};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use support::bare_ledger::NoLedger;
use support::child::cpu_seconds;
use support::enforcement::{CALLS, LATENCY, Surroundings, stop_all};
use support::{Goal, RUNS, Spread, quantile};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const CONCURRENCY: u32 = 64;
/// More than all runs end together.
const BUDGET: NonZeroU32 = NonZeroU32::new(1_000_000).unwrap();
/// Logins of a run at full load: each place of the worker takes so many, one after the other.
const LOGINS_A_PLACE: u32 = 20;
/// Logins of a run at half load: about three seconds.
const LOGINS_AT_HALF_LOAD: u32 = 640;

fn main() -> anyhow::Result<()> {
    if !support::is_wanted() {
        println!("enforce: measures nothing here, run `cargo bench --bench enforce`");
        return Ok(());
    }
    measure()
}

#[tokio::main]
async fn measure() -> anyhow::Result<()> {
    let folder = support::scratch()?;
    let mut service = Service::open(folder.path())?;
    let (mut settled, mut ideal, mut call_ms, mut first_call_ms) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut bare = Vec::new();
    for _ in 0..RUNS {
        ideal.push(ideal_rate().await?);
        bare.push(service.full_load(Evidence::Off).await?);
        service.around.provider.mean_call_ms();
        settled.push(service.full_load(Evidence::On).await?);
        call_ms.push(service.around.provider.mean_call_ms());
        let mut took_ms = service.half_load().await?;
        took_ms.sort_by(f64::total_cmp);
        first_call_ms.push((quantile(&took_ms, 0.5), quantile(&took_ms, 0.99)));
    }
    service.close().await?;

    let allowed = f64::from(CONCURRENCY) / (f64::from(CALLS) * LATENCY.as_secs_f64());
    let each = |value: fn(&(f64, f64)) -> f64| Spread::of(&first_call_ms.iter().map(value).collect::<Vec<_>>());
    println!(
        "\nenforce: {} ms a provider call, concurrency {CONCURRENCY}, {CALLS} calls a login, limiter off, {RUNS} runs in turn;\n\
         median (min–max)\n\n\
         {:<44}{allowed:.0}\n\
         {:<44}{}\n\
         {:<44}{}\n\
         {:<44}{}\n\
         {:<44}{}\n\
         {:<44}{}\n\
         {:<44}{}\n",
        LATENCY.as_millis(),
        "concurrency ÷ (calls × latency), logins/s",
        "the same by bare timers, logins/s",
        Spread::of(&ideal),
        "the worker, logins/s",
        Spread::of(&rates(&settled)),
        "the same without ledger, budget and guard",
        Spread::of(&rates(&bare)),
        "CPU a login with them and without, ms",
        format_args!("{} and {}", Spread::of(&cpu_ms(&settled)), Spread::of(&cpu_ms(&bare))),
        "a call of the fake provider as it was, ms",
        Spread::of(&call_ms),
        "accepted → first call at half load, p50, ms",
        each(|run| run.0),
    );
    // Timers tick in milliseconds: a call that took longer than asked for is the provider's, not the worker's.
    let allowed = call_ms.iter().map(|ms| f64::from(CONCURRENCY) / (f64::from(CALLS) * ms / 1_000.0));
    let share = Spread::of_ratios(&rates(&settled), &allowed.collect::<Vec<_>>());
    println!(
        "{}",
        support::verdict("settled over what concurrency and these calls allow", "", share, Goal::AtLeast(0.95))
    );
    let cost = Spread::of_ratios(&rates(&settled), &rates(&bare));
    println!("{}", support::verdict("settled with ledger and brakes over without", "", cost, Goal::AtLeast(0.95)));
    let p99 = each(|run| run.1);
    println!("{}", support::verdict("accepted → first call at half load, p99", " ms", p99, Goal::AtMost(10.0)));
    Ok(())
}

/// Whether intents and outcomes are written, and revocations paid for.
#[derive(Clone, Copy)]
enum Evidence {
    On,
    Off,
}

/// What one run at full load came to.
struct Run {
    logins_a_second: f64,
    cpu_ms_a_login: f64,
}

fn rates(runs: &[Run]) -> Vec<f64> {
    runs.iter().map(|run| run.logins_a_second).collect()
}

fn cpu_ms(runs: &[Run]) -> Vec<f64> {
    runs.iter().map(|run| run.cpu_ms_a_login).collect()
}

/// What the machine's timers make of the ideal: as many loops as the worker has places, each only waiting.
async fn ideal_rate() -> anyhow::Result<f64> {
    let mut places = JoinSet::new();
    let from = Instant::now();
    for _ in 0..CONCURRENCY {
        places.spawn(async {
            for _ in 0..LOGINS_A_PLACE * CALLS {
                sleep(LATENCY).await;
            }
        });
    }
    while let Some(ended) = places.join_next().await {
        ended?;
    }
    Ok(f64::from(CONCURRENCY * LOGINS_A_PLACE) / from.elapsed().as_secs_f64())
}

/// A real queue and ledger on the disk, a fake provider.
struct Service {
    queue: EmbeddedQueue,
    thread: QueueThread,
    ledger: Arc<SqliteLedger>,
    purse: Arc<Purse>,
    around: Surroundings,
}

impl Service {
    fn open(folder: &Path) -> anyhow::Result<Self> {
        let around = Surroundings::new(CONCURRENCY)?;
        let (queue, thread) = EmbeddedQueue::open(&EmbeddedConfig::in_dir(folder), around.clock)?;
        let decisions_max = around.config.ledger.decisions_max;
        let (ledger, _) = SqliteLedger::open(folder, decisions_max, false, around.clock)?;
        let budget = Revocations::AtMost(BUDGET);
        let (written, metrics) = (around.config.written_policies(), around.metrics.clone());
        let control = Control::open(folder, written, budget, around.clock, metrics)?;
        let purse = Arc::new(Purse::of(Arc::new(control)));
        Ok(Self { queue, thread, ledger: Arc::new(ledger), purse, around })
    }

    fn worker(&self, evidence: Evidence) -> TenantWorker {
        let queue = Arc::new(self.queue.clone());
        let brakes = Brakes::alone(self.around.config.guard);
        match evidence {
            Evidence::Off => self.around.braked_worker(queue, Arc::new(NoLedger), brakes),
            Evidence::On => {
                let brakes = Brakes { purse: Arc::clone(&self.purse), ..brakes };
                self.around.braked_worker(queue, Arc::clone(&self.ledger) as _, brakes)
            }
        }
    }

    /// Logins settled a second when all wait before the worker starts.
    async fn full_load(&mut self, evidence: Evidence) -> anyhow::Result<Run> {
        let logins = CONCURRENCY * LOGINS_A_PLACE;
        let events: Vec<LoginEvent> = (0..logins).map(|_| self.around.next_login()).collect::<Result<_, _>>()?;
        self.queue.publish(&events).await?;
        let until = self.around.settled() + u64::from(logins);
        let stop = CancellationToken::new();
        let mut running = JoinSet::new();
        running.spawn(self.worker(evidence).run(stop.clone()));
        let (from, cpu_from) = (Instant::now(), cpu_seconds(std::process::id())?);
        self.around.wait_for(until).await;
        let (seconds, cpu) = (from.elapsed().as_secs_f64(), cpu_seconds(std::process::id())? - cpu_from);
        stop_all(stop, running).await?;
        let logins = f64::from(logins);
        Ok(Run { logins_a_second: logins / seconds, cpu_ms_a_login: cpu * 1_000.0 / logins })
    }

    /// Milliseconds from accepting each login to the first call for it, at half of what concurrency allows.
    async fn half_load(&mut self) -> anyhow::Result<Vec<f64>> {
        let until = self.around.settled() + u64::from(LOGINS_AT_HALF_LOAD);
        let stop = CancellationToken::new();
        let mut running = JoinSet::new();
        running.spawn(self.worker(Evidence::On).run(stop.clone()));
        let from = Instant::now();
        let mut publishing = JoinSet::new();
        let mut accepted = HashMap::new();
        for number in 0..LOGINS_AT_HALF_LOAD {
            sleep_until(from + LATENCY * CALLS * 2 / CONCURRENCY * number).await;
            let event = self.around.next_login()?;
            accepted.insert(event.user.clone(), Instant::now());
            let queue = self.queue.clone();
            publishing.spawn(async move { queue.publish(&[event]).await });
        }
        while let Some(published) = publishing.join_next().await {
            published??;
        }
        self.around.wait_for(until).await;
        stop_all(stop, running).await?;
        let users = self.around.provider.users();
        let took = accepted.iter().filter_map(|(user, accepted)| {
            let first_call = users.get(user)?.first_call?;
            Some(first_call.duration_since(*accepted).as_secs_f64() * 1_000.0)
        });
        Ok(took.collect())
    }

    async fn close(self) -> anyhow::Result<()> {
        self.queue.stop();
        self.thread.ended().await
    }
}
