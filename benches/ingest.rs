//! How many logins a second become durable over HTTP, against the same handler over a queue that stores nothing.

#![expect(clippy::print_stdout, reason = "a benchmark reports on its output")]

#[expect(dead_code, reason = "each benchmark uses a part of it")]
mod support;

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use async_trait::async_trait;
use soloist::clock::Clock;
use soloist::model::{Lane, LoginEvent, TenantId};
use soloist::queue::embedded::{EmbeddedConfig, EmbeddedQueue};
use soloist::queue::{LaneStats, Published, Queue, QueueError, Subscription, Via};

use support::child;
use support::disk::Fsyncs;
use support::load::{self, Load, Side};
use support::server::Server;
use support::{Goal, RUNS, Spread};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const CONNECTIONS: usize = 256;
/// Requests of one measured run, and of the one before it that fills caches and connections.
const REQUESTS: usize = 60_000;
const WARM_UP: usize = 10_000;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        [_, "serve", stores, folder] => serve(*stores == "durable", Path::new(folder)),
        _ if support::is_wanted() => compare(),
        _ => {
            println!("ingest: measures nothing here, run `cargo bench --bench ingest`");
            Ok(())
        }
    }
}

fn compare() -> anyhow::Result<()> {
    let folder = support::scratch()?;
    let path = folder.path().to_str().context("the folder's name is not text")?;
    let mut load = Load::new(CONNECTIONS)?;
    let mut sides = [Side::start(&["serve", "durable", path])?, Side::start(&["serve", "nothing", path])?];
    for side in &sides {
        load.warm_up(side, WARM_UP)?;
    }
    let mut fsyncs = Fsyncs::default();
    load.alternate(&mut sides, REQUESTS, || fsyncs.probe(folder.path()))?;
    report(&sides, fsyncs);
    for side in sides {
        side.service.end()?;
    }
    Ok(())
}

fn report(sides: &[Side; 2], fsyncs: Fsyncs) {
    println!(
        "\ningest: signed login bodies of {} B over loopback HTTP, {CONNECTIONS} connections, {REQUESTS} requests a run,\n\
         {RUNS} runs in turn; median (min–max). `stores nothing` is the same server and handler over an empty queue.\n",
        load::BODY.len()
    );
    load::print_table(["durable", "stores nothing"], sides);
    let [durable, nothing] = sides;
    let cpu = |side: &Side| side.runs.iter().map(|run| run.service_us + run.client_us).collect::<Vec<f64>>();
    println!("{:<28}{:>26}", "CPU ratio, both processes", Spread::of_ratios(&cpu(nothing), &cpu(durable)).to_string());
    println!("{}\n", fsyncs.report());
    let ratio = Spread::of_ratios(&durable.rates(), &nothing.rates());
    println!("{}", support::verdict("durable 202s over those that store nothing", "", ratio, Goal::AtLeast(0.8)));
}

/// The service's process: says where it listens, and ends when its input does.
#[tokio::main]
async fn serve(durable: bool, folder: &Path) -> anyhow::Result<()> {
    let clock = Clock::start();
    let (queue, journal): (Arc<dyn Queue>, _) = if durable {
        let (queue, thread) = EmbeddedQueue::open(&EmbeddedConfig::in_dir(folder), clock)?;
        (Arc::new(queue.clone()), Some((queue, thread)))
    } else {
        (Arc::new(StoresNothing), None)
    };
    let server = Server::start(queue, clock)?;
    let mut input = child::input();
    while input.recv().await.is_some() {}
    server.stop().await?;
    if let Some((queue, thread)) = journal {
        queue.stop();
        thread.ended().await?;
    }
    Ok(())
}

struct StoresNothing;

#[async_trait]
impl Queue for StoresNothing {
    async fn publish(&self, _: &[LoginEvent]) -> Result<Published, QueueError> {
        Ok(Published { via: Via::Journal, duplicates: 0 })
    }

    async fn subscribe(&self, _: &TenantId, _: Lane, _: usize) -> Result<Arc<dyn Subscription>, QueueError> {
        Err(QueueError::StaleTag)
    }

    async fn check(&self) -> Result<(), QueueError> {
        Ok(())
    }

    async fn stats(&self) -> Result<Vec<LaneStats>, QueueError> {
        Ok(Vec::new())
    }
}
