//! What the sweep of a million known users costs: memory, and processor time beside the provider's calls.
//!
//! The baseline is a second process that takes the same looks from its queue at the same pace, without a sweep and
//! without users. Both run side by side; each number is the median of seven windows.

#![expect(clippy::print_stdout, reason = "a benchmark reports on its output")]

#[expect(dead_code, reason = "each benchmark uses a part of it")]
mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use soloist::clock::Clock;
use soloist::config::{Config, ConfigSources, Rate};
use soloist::directives::LiveDirectives;
use soloist::ledger::SqliteLedger;
use soloist::model::{
    AccessToken, EventId, LoginEvent, Reason, Session, SessionDevice, TenantId, UserId, UserTraits, View,
};
use soloist::provider::{ProviderError, Revoked, SessionProvider};
use soloist::queue::Queue;
use soloist::queue::embedded::{EmbeddedConfig, EmbeddedQueue};
use soloist::sweep::Sweep;
use soloist::telemetry::{Metrics, labels};
use soloist::worker::{Brakes, TenantWorker, WorkerParts};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use support::child::{Child, cpu_seconds, input, memory_mib};
use support::{Goal, RUNS, Spread, verdict};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USERS: usize = 1_000_000;
const INTERVAL: Duration = Duration::from_hours(6);
/// Users over interval, and a tenth more: the pace of the sweep.
const LOOKS_A_SECOND: usize = 51;
const LATENCY: Duration = Duration::from_millis(50);
/// How long both run before they are measured, and how long a window is.
const WARM_UP: Duration = Duration::from_secs(10);
const WINDOW: Duration = Duration::from_secs(15);

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["fill", folder] => fill(Path::new(folder)),
        ["hold", what, folder] => hold(Path::new(folder), *what == "sweep"),
        _ if support::is_wanted() => measure(),
        _ => {
            println!("sweep: measures nothing here, run `cargo bench --bench sweep`");
            Ok(())
        }
    }
}

fn measure() -> anyhow::Result<()> {
    let (folder, empty) = (support::scratch()?, support::scratch()?);
    let path = |folder: &tempfile::TempDir| folder.path().to_str().map(str::to_owned).context("a path of UTF-8");
    let (folder_path, empty_path) = (path(&folder)?, path(&empty)?);
    let mut filler = Child::start(&["fill", &folder_path])?;
    let filled = filler.read()?;
    filler.end()?;
    let started = Instant::now();
    let mut sweep = Child::start(&["hold", "sweep", &folder_path])?;
    let opened_ms = sweep.read()?;
    let mut looks = Child::start(&["hold", "looks", &empty_path])?;
    looks.read()?;
    wait(WARM_UP);
    let (mut ours, mut base, mut pace, mut more_mib) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let number = |child: &mut Child, what: &str| anyhow::Ok(child.ask(what)?.parse::<f64>()?);
        let from = (cpu_seconds(sweep.id())?, cpu_seconds(looks.id())?, number(&mut sweep, "looks")?, Instant::now());
        wait(WINDOW);
        let seconds = from.3.elapsed().as_secs_f64();
        ours.push((cpu_seconds(sweep.id())? - from.0) / seconds * 100.0);
        base.push((cpu_seconds(looks.id())? - from.1) / seconds * 100.0);
        pace.push((number(&mut sweep, "looks")? - from.2) / seconds);
        more_mib.push(number(&mut sweep, "memory")? - number(&mut looks, "memory")?);
    }
    sweep.end()?;
    looks.end()?;
    println!(
        "\nsweep: {USERS} users every {} h, {} ms a provider call, {RUNS} windows of {} s after {:.0} s; median (min–max)\n\
         filled in {filled} s, opened in {opened_ms} ms\n\n\
         looks a second: {}\n\
         processor time, % of one core: sweep {}, the looks alone {}, ratio {}\n",
        INTERVAL.as_secs() / 3_600,
        LATENCY.as_millis(),
        WINDOW.as_secs(),
        started.elapsed().as_secs_f64(),
        Spread::of(&pace),
        Spread::of(&ours),
        Spread::of(&base),
        Spread::of_ratios(&ours, &base),
    );
    println!("{}", verdict("processor time beside the provider's calls", " %", Spread::of(&ours), Goal::AtMost(2.0)));
    println!("{}", verdict("memory more than without users", " MiB", Spread::of(&more_mib), Goal::AtMost(64.0)));
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "the parent has no runtime and nothing else to do")]
fn wait(time: Duration) {
    std::thread::sleep(time);
}

/// Takes the users in and spreads their last looks over the interval, as a sweep that has run for long leaves them.
#[tokio::main]
async fn fill(folder: &Path) -> anyhow::Result<()> {
    let from = Instant::now();
    let (ledger, thread) = SqliteLedger::open(folder, 1_000, true, Clock::start())?;
    let numbers: Vec<usize> = (0..USERS).collect();
    for portion in numbers.chunks(10_000) {
        let users = portion.iter().map(|number| uid(*number)).collect::<Result<Vec<_>, _>>()?;
        ledger.import_users(&TenantId::default_tenant(), users).await?;
    }
    ledger.stop();
    thread.ended().await?;
    let db = rusqlite::Connection::open(folder.join("ledger.db"))?;
    db.execute(
        "UPDATE users SET asked_at_ms = seen_at_ms - abs(random()) % ?1",
        [i64::try_from(INTERVAL.as_millis())?],
    )?;
    println!("{:.0}", from.elapsed().as_secs_f64());
    Ok(())
}

/// As LoginRadius makes them.
fn uid(number: usize) -> anyhow::Result<UserId> {
    Ok(UserId::parse(&format!("{:016x}{number:016x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15)))?)
}

/// A worker with its queue and ledger, fed by the sweep or at the same pace without one.
#[tokio::main]
async fn hold(folder: &Path, sweeps: bool) -> anyhow::Result<()> {
    let set = |name: &str| (format!("SOLOIST_LOGINRADIUS__{name}"), "bench".to_owned());
    let env = BTreeMap::from([set("API_KEY"), set("API_SECRET")]);
    let config = Config::load(&ConfigSources { file: None, default_file: None, env })?;
    let (clock, metrics, tenant) = (Clock::start(), Metrics::new(), TenantId::default_tenant());
    let from = Instant::now();
    let (queue, queue_thread) = EmbeddedQueue::open(&EmbeddedConfig::in_dir(folder), clock)?;
    let (ledger, ledger_thread) = SqliteLedger::open(folder, 1_000, true, clock)?;
    println!("{}", from.elapsed().as_millis());
    let directives = Arc::new(LiveDirectives::own(config.written_policies(), Vec::new(), clock)?);
    let shared: Arc<dyn Queue> = Arc::new(queue.clone());
    let worker = TenantWorker::new(WorkerParts {
        tenant: tenant.clone(),
        provider: Arc::new(OneSession(clock)),
        rate: Rate::Unlimited,
        queue: Arc::clone(&shared),
        directives: directives.clone(),
        ledger: Arc::new(ledger.clone()),
        brakes: Brakes::alone(config.guard),
        config: config.worker.clone(),
        clock,
        metrics: metrics.clone(),
        chance: rand::random,
    });
    let (stop, mut parts) = (CancellationToken::new(), JoinSet::new());
    parts.spawn(worker.run(stop.clone()));
    if sweeps {
        let (users, metrics) = (ledger.clone(), metrics.clone());
        let tenants = vec![tenant.clone()];
        let sweep = Sweep { tenants, interval: INTERVAL, users, queue: shared, directives, clock, metrics };
        parts.spawn(sweep.run(stop.clone()));
    } else {
        parts.spawn(feed(shared, tenant.clone(), stop.clone()));
    }
    let mut asked = input();
    while let Some(line) = asked.recv().await {
        match line.as_str() {
            "memory" => println!("{}", memory_mib("VmRSS")?),
            "looks" => println!("{}", metrics.sweep_looks.get_or_create(&labels([("tenant", tenant.as_str())])).get()),
            other => anyhow::bail!("nobody knows how to {other}"),
        }
    }
    stop.cancel();
    while let Some(ended) = parts.join_next().await {
        ended??;
    }
    queue.stop();
    ledger.stop();
    queue_thread.ended().await.and(ledger_thread.ended().await)
}

/// The same looks, as many a second as the sweep asks for.
async fn feed(queue: Arc<dyn Queue>, tenant: TenantId, stop: CancellationToken) -> anyhow::Result<()> {
    let (mut number, mut second) = (0, tokio::time::interval(Duration::from_secs(1)));
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _tick = second.tick() => {}
        }
        let event = |number: usize| {
            anyhow::Ok(LoginEvent {
                tenant: tenant.clone(),
                user: uid(number)?,
                id: EventId::parse(&format!("look-{number}"))?,
                at: None,
                login_at: None,
                reason: Reason::Sweep,
                accepted_at: None,
            })
        };
        let events = (number..number + LOOKS_A_SECOND).map(event).collect::<Result<Vec<_>, _>>()?;
        queue.publish(&events).await?;
        number += LOOKS_A_SECOND;
    }
}

/// Everybody has one session, of an hour ago.
struct OneSession(Clock);

#[async_trait]
impl SessionProvider for OneSession {
    async fn list(&self, user: &UserId) -> Result<View, ProviderError> {
        sleep(LATENCY).await;
        let login_at = self.0.now() - Duration::from_hours(1);
        let session = Session::new(&format!("token-of-{user}"), Some(login_at), SessionDevice::default());
        Ok(View { sessions: vec![session], complete: true })
    }

    async fn revoke(&self, _: &AccessToken) -> Result<Revoked, ProviderError> {
        Ok(Revoked::AlreadyGone)
    }

    async fn identify(&self, _: &AccessToken) -> Result<UserId, ProviderError> {
        Err(ProviderError::Refused(anyhow::anyhow!("nobody asks")))
    }

    async fn traits(&self, _: &UserId) -> Result<UserTraits, ProviderError> {
        Ok(UserTraits::default())
    }
}
