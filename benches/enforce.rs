//! How near the worker comes to what a provider with 50 ms of latency allows, and how soon it makes the first call.

#![expect(clippy::print_stdout, reason = "a benchmark reports on its output")]

#[expect(dead_code, reason = "each benchmark uses a part of it")]
mod support;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use soloist::clock::Clock;
use soloist::config::{Config, ConfigSources, Rate};
use soloist::directives::ConfiguredDirectives;
use soloist::ledger::SqliteLedger;
use soloist::model::{
    AccessToken, EventId, LoginEvent, Reason, Session, SessionDevice, TenantId, UserId, UserTraits, View,
};
use soloist::provider::{ProviderError, Revoked, SessionProvider};
use soloist::queue::Queue;
use soloist::queue::embedded::{EmbeddedConfig, EmbeddedQueue, QueueThread};
use soloist::telemetry::{Metrics, labels};
use soloist::worker::{TenantWorker, WorkerParts};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use support::{Goal, RUNS, Spread, quantile};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const LATENCY: Duration = Duration::from_millis(50);
const CONCURRENCY: u32 = 64;
/// List, revoke the surplus session, list again.
const CALLS: u32 = 3;
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
    for _ in 0..RUNS {
        ideal.push(ideal_rate().await?);
        settled.push(service.full_load().await?);
        call_ms.push(service.provider.mean_call_ms());
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
         {:<44}{}\n",
        LATENCY.as_millis(),
        "concurrency ÷ (calls × latency), logins/s",
        "the same by bare timers, logins/s",
        Spread::of(&ideal),
        "the worker, logins/s",
        Spread::of(&settled),
        "a call of the fake provider as it was, ms",
        Spread::of(&call_ms),
        "accepted → first call at half load, p50, ms",
        each(|run| run.0),
    );
    // Timers tick in milliseconds: a call that took longer than asked for is the provider's, not the worker's.
    let allowed = call_ms.iter().map(|ms| f64::from(CONCURRENCY) / (f64::from(CALLS) * ms / 1_000.0));
    let share = Spread::of_ratios(&settled, &allowed.collect::<Vec<_>>());
    println!(
        "{}",
        support::verdict("settled over what concurrency and these calls allow", "", share, Goal::AtLeast(0.95))
    );
    let p99 = each(|run| run.1);
    println!("{}", support::verdict("accepted → first call at half load, p99", " ms", p99, Goal::AtMost(10.0)));
    Ok(())
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

/// The worker's surroundings: a real queue and ledger on the disk, a fake provider.
struct Service {
    queue: EmbeddedQueue,
    thread: QueueThread,
    ledger: Arc<SqliteLedger>,
    directives: Arc<ConfiguredDirectives>,
    config: Config,
    provider: Arc<FakeProvider>,
    clock: Clock,
    metrics: Metrics,
    logins: u32,
}

impl Service {
    fn open(folder: &Path) -> anyhow::Result<Self> {
        let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let env = BTreeMap::from([
            set("SOLOIST_LOGINRADIUS__API_KEY", "bench-key"),
            set("SOLOIST_LOGINRADIUS__API_SECRET", "bench-secret"),
            set("SOLOIST_WORKER__CONCURRENCY", &CONCURRENCY.to_string()),
        ]);
        let config = Config::load(&ConfigSources { file: None, default_file: None, env })?;
        let clock = Clock::start();
        let (queue, thread) = EmbeddedQueue::open(&EmbeddedConfig::in_dir(folder), clock)?;
        Ok(Self {
            queue,
            thread,
            ledger: Arc::new(SqliteLedger::open(folder, config.ledger.decisions_max, false, clock)?.0),
            directives: Arc::new(ConfiguredDirectives::new(config.policies()?)),
            config,
            provider: Arc::default(),
            clock,
            metrics: Metrics::new(),
            logins: 0,
        })
    }

    fn worker(&self) -> TenantWorker {
        TenantWorker::new(WorkerParts {
            tenant: TenantId::default_tenant(),
            provider: Arc::clone(&self.provider) as Arc<dyn SessionProvider>,
            rate: Rate::Unlimited,
            queue: Arc::new(self.queue.clone()),
            directives: Arc::clone(&self.directives) as _,
            ledger: Arc::clone(&self.ledger) as _,
            config: self.config.worker.clone(),
            clock: self.clock,
            metrics: self.metrics.clone(),
        })
    }

    /// A login of a user of its own, whom the provider knows from now on.
    fn next_login(&mut self) -> anyhow::Result<LoginEvent> {
        self.logins += 1;
        let user = UserId::parse(&format!("user-{}", self.logins))?;
        let now = self.clock.now();
        self.provider.users().insert(user.clone(), User { login_at: now, has_surplus: true, first_call: None });
        Ok(LoginEvent {
            tenant: TenantId::default_tenant(),
            user,
            id: EventId::parse(&format!("login-{}", self.logins))?,
            at: Some(now),
            login_at: Some(now),
            reason: Reason::Login,
            accepted_at: Some(now),
        })
    }

    /// Logins settled a second when all wait before the worker starts.
    async fn full_load(&mut self) -> anyhow::Result<f64> {
        let logins = CONCURRENCY * LOGINS_A_PLACE;
        let events: Vec<LoginEvent> = (0..logins).map(|_| self.next_login()).collect::<Result<_, _>>()?;
        self.queue.publish(&events).await?;
        let until = self.settled() + u64::from(logins);
        let stop = CancellationToken::new();
        let mut running = JoinSet::new();
        running.spawn(self.worker().run(stop.clone()));
        let from = Instant::now();
        self.wait_for(until).await;
        let seconds = from.elapsed().as_secs_f64();
        stop_all(stop, running).await?;
        Ok(f64::from(logins) / seconds)
    }

    /// Milliseconds from accepting each login to the first call for it, at half of what concurrency allows.
    async fn half_load(&mut self) -> anyhow::Result<Vec<f64>> {
        let until = self.settled() + u64::from(LOGINS_AT_HALF_LOAD);
        let stop = CancellationToken::new();
        let mut running = JoinSet::new();
        running.spawn(self.worker().run(stop.clone()));
        let from = Instant::now();
        let mut publishing = JoinSet::new();
        let mut accepted = HashMap::new();
        for number in 0..LOGINS_AT_HALF_LOAD {
            sleep_until(from + LATENCY * CALLS * 2 / CONCURRENCY * number).await;
            let event = self.next_login()?;
            accepted.insert(event.user.clone(), Instant::now());
            let queue = self.queue.clone();
            publishing.spawn(async move { queue.publish(&[event]).await });
        }
        while let Some(published) = publishing.join_next().await {
            published??;
        }
        self.wait_for(until).await;
        stop_all(stop, running).await?;
        let users = self.provider.users();
        let took = accepted.iter().filter_map(|(user, accepted)| {
            let first_call = users.get(user)?.first_call?;
            Some(first_call.duration_since(*accepted).as_secs_f64() * 1_000.0)
        });
        Ok(took.collect())
    }

    fn settled(&self) -> u64 {
        let of = labels([("tenant", TenantId::DEFAULT), ("settlement", "ack"), ("why", "")]);
        self.metrics.deliveries_settled.get_or_create(&of).get()
    }

    async fn wait_for(&self, settled: u64) {
        while self.settled() < settled {
            sleep(Duration::from_millis(1)).await;
        }
    }

    async fn close(self) -> anyhow::Result<()> {
        self.queue.stop();
        self.thread.ended().await
    }
}

async fn stop_all(stop: CancellationToken, mut running: JoinSet<anyhow::Result<()>>) -> anyhow::Result<()> {
    stop.cancel();
    while let Some(ended) = running.join_next().await {
        ended??;
    }
    Ok(())
}

struct User {
    login_at: Timestamp,
    has_surplus: bool,
    first_call: Option<Instant>,
}

/// Answers every call after the latency. Each user has the session of the login and, until it is ended, an older one.
#[derive(Default)]
struct FakeProvider {
    users: Mutex<HashMap<UserId, User>>,
    calls: Mutex<(u32, Duration)>,
}

impl FakeProvider {
    fn users(&self) -> MutexGuard<'_, HashMap<UserId, User>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn take_time(&self) {
        let from = Instant::now();
        sleep(LATENCY).await;
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        *calls = (calls.0 + 1, calls.1 + from.elapsed());
    }

    /// Since it was asked last.
    fn mean_call_ms(&self) -> f64 {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, total) = std::mem::take(&mut *calls);
        total.as_secs_f64() * 1_000.0 / f64::from(count)
    }
}

#[async_trait]
impl SessionProvider for FakeProvider {
    async fn list(&self, user: &UserId) -> Result<View, ProviderError> {
        if let Some(user) = self.users().get_mut(user) {
            user.first_call.get_or_insert_with(Instant::now);
        }
        self.take_time().await;
        let session = |token: String, login_at| Session::new(&token, Some(login_at), SessionDevice::default());
        let mut view = View { sessions: Vec::new(), complete: true };
        if let Some(known) = self.users().get(user) {
            view.sessions.push(session(format!("new:{user}"), known.login_at));
            let earlier = known.login_at - Duration::from_hours(1);
            view.sessions.extend(known.has_surplus.then(|| session(format!("old:{user}"), earlier)));
        }
        Ok(view)
    }

    async fn revoke(&self, token: &AccessToken) -> Result<Revoked, ProviderError> {
        self.take_time().await;
        let user = token.expose().strip_prefix("old:").and_then(|user| UserId::parse(user).ok());
        let mut users = self.users();
        let Some(known) = user.and_then(|user| users.get_mut(&user)) else { return Ok(Revoked::AlreadyGone) };
        known.has_surplus = false;
        Ok(Revoked::Done)
    }

    async fn identify(&self, _: &AccessToken) -> Result<UserId, ProviderError> {
        Err(ProviderError::Refused(anyhow::anyhow!("nobody asks")))
    }

    async fn traits(&self, _: &UserId) -> Result<UserTraits, ProviderError> {
        Ok(UserTraits::default())
    }
}
