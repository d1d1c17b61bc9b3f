//! What a million waiting messages cost: ingest and receive rate, memory, and the time to the first delivery.

#![expect(clippy::print_stdout, reason = "a benchmark reports on its output")]

#[expect(dead_code, reason = "each benchmark uses a part of it")]
mod support;

use std::io::BufRead as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use soloist::clock::Clock;
use soloist::model::{Lane, Reason, TenantId};
use soloist::queue::embedded::{EmbeddedConfig, EmbeddedQueue};
use soloist::queue::{Queue, Settlement, Subscription};
use tokio::task::JoinSet;
use tokio::time::Instant;

use support::child::{self, Child};
use support::events::event;
use support::{Goal, RUNS, Spread};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BACKLOG: u64 = 1_000_000;
/// Messages of the other lane, whose rows lie behind those of the lane that is measured.
const BACKGROUND: u64 = 1_000;
/// Messages that one run publishes, and that it then receives and settles.
const PER_RUN: u64 = 40_000;
/// Publishers at once, as many as the ingest benchmark has connections; a commit takes as many events.
const PUBLISHERS: usize = 256;
/// Deliveries that are settled side by side: a worker's concurrency; and its prefetch.
const SETTLERS: usize = 64;
const PREFETCH: usize = 256;
/// After a run the write-ahead log is still being moved into the file, which should not slow down the next run.
const REST: Duration = Duration::from_millis(500);

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        [_, "fill", folder] => fill(Path::new(folder)),
        [_, "hold", folder] => hold(Path::new(folder)),
        _ if support::is_wanted() => compare(),
        _ => {
            println!("backlog: measures nothing here, run `cargo bench --bench backlog`");
            Ok(())
        }
    }
}

/// What the runs of one queue showed.
#[derive(Default)]
struct Runs {
    ingest: Vec<f64>,
    receive: Vec<f64>,
}

fn compare() -> anyhow::Result<()> {
    let folders = [support::scratch()?, support::scratch()?];
    let [full, empty] = &folders;
    let text = |folder: &tempfile::TempDir| folder.path().to_str().map(str::to_owned).context("not text");
    let (full, empty) = (text(full)?, text(empty)?);
    let mut filler = Child::start(&["fill", &full])?;
    println!("\nbacklog: {BACKLOG} messages written in {} s", filler.read()?);
    filler.end()?;

    let (mut first_ms, mut memory_mib) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let mut holder = Child::start(&["hold", &full])?;
        first_ms.push(holder.ask("first")?.parse()?);
        memory_mib.push(holder.ask("memory")?.parse()?);
        holder.end()?;
    }
    let mut holders = [Child::start(&["hold", &full])?, Child::start(&["hold", &empty])?];
    let mut runs = [Runs::default(), Runs::default()];
    for number in 0..=RUNS {
        for (holder, runs) in holders.iter_mut().zip(&mut runs) {
            let ingest = holder.ask("ingest")?.parse()?;
            let receive = holder.ask("receive")?.parse()?;
            // The first run fills caches.
            if number > 0 {
                runs.ingest.push(ingest);
                runs.receive.push(receive);
            }
        }
    }
    let [holder, _] = &mut holders;
    let loaded_mib: f64 = holder.ask("memory")?.parse()?;
    for holder in holders {
        holder.end()?;
    }
    let [full, empty] = &runs;
    report(full, empty, &first_ms, &memory_mib, loaded_mib);
    Ok(())
}

fn report(full: &Runs, empty: &Runs, first_ms: &[f64], memory_mib: &[f64], loaded_mib: f64) {
    println!(
        "{PUBLISHERS} publishers of one event each; {SETTLERS} settlers that ack one delivery each; {PER_RUN} events a run,\n\
         {RUNS} runs in turn; median (min–max)\n"
    );
    println!("{:<28}{:>26}{:>26}", "", "1,000,000 wait", "empty");
    for (name, ours, theirs) in
        [("published a second", &full.ingest, &empty.ingest), ("received a second", &full.receive, &empty.receive)]
    {
        println!("{name:<28}{:>26}{:>26}", Spread::of(ours).to_string(), Spread::of(theirs).to_string());
    }
    println!("memory after these runs, the load's own included: {loaded_mib:.1} MiB\n");
    let line = |what, unit, measured, goal| println!("{}", support::verdict(what, unit, measured, goal));
    let ratio = Spread::of_ratios(&full.ingest, &empty.ingest);
    line("publishing over an empty queue's", "", ratio, Goal::AtLeast(0.9));
    let ratio = Spread::of_ratios(&full.receive, &empty.receive);
    line("receiving over an empty queue's", "", ratio, Goal::AtLeast(0.9));
    line("memory of a process with only the queue", " MiB", Spread::of(memory_mib), Goal::AtMost(64.0));
    line("from open to the first delivery", " ms", Spread::of(first_ms), Goal::AtMost(1_000.0));
}

/// Publishes the backlog and ends. Prints how many seconds it took.
#[tokio::main]
async fn fill(folder: &Path) -> anyhow::Result<()> {
    let clock = Clock::start();
    let from = Instant::now();
    let (queue, thread) = EmbeddedQueue::open(&EmbeddedConfig::in_dir(folder), clock)?;
    let mut number = 0;
    while number < BACKLOG {
        let end = BACKLOG.min(number + 256);
        let events = (number..end).map(|number| event(number, Reason::Login, clock)).collect::<Result<Vec<_>, _>>()?;
        queue.publish(&events).await?;
        number = end;
    }
    for number in 0..BACKGROUND {
        queue.publish(&[event(number, Reason::Sweep, clock)?]).await?;
    }
    queue.stop();
    thread.ended().await?;
    println!("{:.1}", from.elapsed().as_secs_f64());
    Ok(())
}

/// Holds a queue and does what it is asked to, a line at a time, until its input ends.
#[tokio::main]
async fn hold(folder: &Path) -> anyhow::Result<()> {
    let clock = Clock::start();
    let from = Instant::now();
    let (queue, thread) = EmbeddedQueue::open(&EmbeddedConfig::in_dir(folder), clock)?;
    let lane = queue.subscribe(&TenantId::default_tenant(), Lane::Logins, PREFETCH).await?;
    let first = tokio::time::timeout(Duration::from_secs(5), lane.receive()).await;
    let first_ms = from.elapsed().as_secs_f64() * 1_000.0;
    lane.close().await?;
    // An empty queue has nothing to deliver.
    drop(first);
    let number = Arc::new(AtomicU64::new(BACKLOG * 1_000));
    for line in std::io::stdin().lock().lines() {
        let answer = match line?.as_str() {
            "first" => first_ms,
            "memory" => child::memory_mib("VmRSS")?,
            "ingest" => ingest(&queue, &number, clock).await?,
            "receive" => receive(&queue).await?,
            other => anyhow::bail!("nobody knows how to {other}"),
        };
        println!("{answer}");
    }
    queue.stop();
    thread.ended().await
}

async fn ingest(queue: &EmbeddedQueue, number: &Arc<AtomicU64>, clock: Clock) -> anyhow::Result<f64> {
    let end = number.load(Ordering::Relaxed) + PER_RUN;
    let from = Instant::now();
    let mut publishers = JoinSet::new();
    for _ in 0..PUBLISHERS {
        let (queue, number) = (queue.clone(), Arc::clone(number));
        publishers.spawn(async move {
            loop {
                let own = number.fetch_add(1, Ordering::Relaxed);
                if own >= end {
                    return anyhow::Ok(());
                }
                queue.publish(&[event(own, Reason::Login, clock)?]).await?;
            }
        });
    }
    rate(publishers, from).await
}

async fn receive(queue: &EmbeddedQueue) -> anyhow::Result<f64> {
    let lane = queue.subscribe(&TenantId::default_tenant(), Lane::Logins, PREFETCH).await?;
    let taken = Arc::new(AtomicU64::new(0));
    let from = Instant::now();
    let mut settlers = JoinSet::new();
    for _ in 0..SETTLERS {
        let (lane, taken): (Arc<dyn Subscription>, _) = (Arc::clone(&lane), Arc::clone(&taken));
        settlers.spawn(async move {
            while taken.fetch_add(1, Ordering::Relaxed) < PER_RUN {
                let delivery = lane.receive().await?;
                lane.settle(&[(delivery.tag, Settlement::Ack)]).await?;
            }
            anyhow::Ok(())
        });
    }
    let rate = rate(settlers, from).await;
    lane.close().await?;
    rate
}

/// Events a second, once all tasks have ended; then the disk gets its rest.
async fn rate(mut tasks: JoinSet<anyhow::Result<()>>, from: Instant) -> anyhow::Result<f64> {
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    let seconds = from.elapsed().as_secs_f64();
    tokio::time::sleep(REST).await;
    #[expect(clippy::cast_precision_loss, reason = "thousands of events")]
    let events = PER_RUN as f64;
    Ok(events / seconds)
}
