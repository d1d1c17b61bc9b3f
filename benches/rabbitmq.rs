//! What our queue over RabbitMQ makes of a broker, against the least that any client must do: publish, consume, spool,
//! and workers side by side.

#![expect(clippy::print_stdout, reason = "a benchmark reports on its output")]

#[expect(dead_code, reason = "each benchmark uses a part of it")]
mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use soloist::clock::Clock;
use soloist::ledger::RemoteLedger;
use soloist::model::{Lane, LoginEvent, Reason, TenantId};
use soloist::queue::embedded::{EmbeddedConfig, EmbeddedQueue};
use soloist::queue::rabbitmq::topology;
use soloist::queue::{Queue, Settlement};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use support::bare::{self, BareQueue};
use support::broker::{Broker, Inspector};
use support::child;
use support::enforcement::{CALLS, LATENCY, Surroundings, stop_all};
use support::events::event;
use support::load::{self, Load, Side};
use support::rabbit::{CHANNELS, Rabbit, ToLedgerQueue};
use support::server::Server;
use support::{Goal, RUNS, Spread};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const CONNECTIONS: usize = 64;
/// Requests of one measured run over the broker and over the journal, and of the one before that fills caches.
const BROKER_REQUESTS: usize = 20_000;
const SPOOL_REQUESTS: usize = 30_000;
const WARM_UP: usize = 5_000;
/// Messages that one run receives and acks.
const MESSAGES: u64 = 60_000;
/// Deliveries that are settled side by side, each alone.
const SETTLERS: usize = 64;
const PREFETCH: u16 = 256;
/// How many a publish takes when a queue is filled.
const FILL_BATCH: usize = 256;
/// Steps that one worker takes at once, and how many logins each place is measured for.
const CONCURRENCY: u32 = 8;
const LOGINS_A_PLACE: u32 = 20;
/// Logins for each place before the measured ones, and as many behind them: more than the workers' prefetch.
const LOGINS_ASIDE: u32 = 8;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        [_, "serve", what, folder, url] => serve(what, Path::new(folder), url),
        [_, parts @ ..] if support::is_wanted() => compare(parts),
        _ => {
            println!("rabbitmq: measures nothing here, run `cargo bench --bench rabbitmq`");
            Ok(())
        }
    }
}

/// What the measurements share.
struct Bench {
    folder: PathBuf,
    broker: Broker,
    logins: String,
    background: String,
}

/// Measures the named parts, or all.
fn compare(parts: &[&str]) -> anyhow::Result<()> {
    let scratch = support::scratch()?;
    let tenant = TenantId::default_tenant();
    let mut bench = Bench {
        folder: scratch.path().to_path_buf(),
        broker: Broker::start(scratch.path())?,
        logins: topology::queue_name(&tenant, Lane::Logins),
        background: topology::queue_name(&tenant, Lane::Background),
    };
    let named = |part: &str| parts.contains(&part) || parts.iter().all(|part| part.starts_with('-'));
    println!("\nrabbitmq: a node of its own, quorum queues; {RUNS} runs in turn, median (min–max)");
    if named("publish") {
        bench.publish()?;
    }
    if named("receive") {
        bench.receive()?;
    }
    if named("workers") {
        bench.workers()?;
    }
    if named("spool") {
        bench.spool()?;
    }
    Ok(())
}

impl Bench {
    fn side(&self, what: &str, folder: &str) -> anyhow::Result<Side> {
        let folder = self.folder.join(folder);
        Side::start(&["serve", what, folder.to_str().context("the folder's name is not text")?, &self.broker.url()])
    }

    /// 202s a second that a quorum queue has confirmed.
    fn publish(&self) -> anyhow::Result<()> {
        let mut load = Load::new(CONNECTIONS)?;
        let mut sides = [self.side("ours", "publish")?, self.side("bare", "publish")?];
        let inspector = Inspector::connect(&self.broker.url())?;
        let empty = |expected: usize| {
            let purged = inspector.purge(&self.logins)?;
            anyhow::ensure!(purged as usize == expected, "the queue has {purged} messages of {expected}");
            Ok(())
        };
        for side in &sides {
            load.warm_up(side, WARM_UP)?;
            empty(WARM_UP)?;
        }
        load.alternate(&mut sides, BROKER_REQUESTS, || empty(BROKER_REQUESTS))?;
        println!(
            "\npublish: signed login bodies of {} B over loopback HTTP, {CONNECTIONS} connections, {BROKER_REQUESTS} \
             requests a run,\n{CHANNELS} channels, batches of what gathered, mandatory and confirmed. `bare lapin` is the \
             same server and\nhandler over the same channels and batches, without ids, headers, time limit, dedupe and \
             spool.\n",
            load::BODY.len()
        );
        load::print_table(["ours", "bare lapin"], &sides);
        print_rates("202s confirmed by a quorum queue over bare lapin's", &sides);
        end(sides)
    }

    /// Messages received and acked a second.
    fn receive(&self) -> anyhow::Result<()> {
        let runtime = Runtime::new()?;
        let inspector = Inspector::connect(&self.broker.url())?;
        let (ours, connection) = runtime.block_on(async {
            let ours = Rabbit::open(&self.folder.join("receive"), &self.broker.url(), Clock::start())?;
            ours.until_up().await?;
            anyhow::Ok((ours, bare::connect(&self.broker.url()).await?))
        })?;
        let mut next_id = 0;
        let mut fill = || {
            let left = inspector.purge(&self.logins)?;
            anyhow::ensure!(left == 0, "{left} messages were left over");
            runtime.block_on(fill(&ours, &mut next_id))
        };
        let mut seconds: [Vec<f64>; 3] = Default::default();
        for _ in 0..RUNS {
            let [subscription, settlers, one_loop] = &mut seconds;
            fill()?;
            subscription.push(runtime.block_on(receive(&ours))?);
            fill()?;
            let consumed = bare::consume(&connection, &self.logins, PREFETCH, SETTLERS, MESSAGES);
            settlers.push(runtime.block_on(consumed)?);
            fill()?;
            let consumed = bare::consume_by_one_loop(&connection, &self.logins, PREFETCH, SETTLERS, MESSAGES);
            one_loop.push(runtime.block_on(consumed)?);
        }
        runtime.block_on(ours.close())?;
        #[expect(clippy::cast_precision_loss, reason = "thousands of messages")]
        let rates = seconds.map(|runs| runs.iter().map(|seconds| MESSAGES as f64 / seconds).collect::<Vec<f64>>());
        let [subscription, settlers, one_loop] = &rates;
        println!(
            "\nreceive + ack: {MESSAGES} messages a run, {SETTLERS} settlers that ack one each, prefetch {PREFETCH}; acks \
             gathered, one frame for\nwhat is contiguous\n\n{:<44}{}\n{:<44}{}\n{:<44}{}\n",
            "our subscription, messages/s",
            Spread::of(subscription),
            "bare lapin, the same settlers, messages/s",
            Spread::of(settlers),
            "bare lapin, one loop without settlers",
            Spread::of(one_loop),
        );
        let ratio = Spread::of_ratios(subscription, settlers);
        println!("{}", support::verdict("received and acked over bare lapin's", "", ratio, Goal::AtLeast(0.9)));
        Ok(())
    }

    /// Logins settled a second by two workers and by one.
    fn workers(&self) -> anyhow::Result<()> {
        let runtime = Runtime::new()?;
        let inspector = Inspector::connect(&self.broker.url())?;
        let mut around = Surroundings::new(CONCURRENCY)?;
        let rabbits = runtime.block_on(async {
            let open = |name| Rabbit::open(&self.folder.join(name), &self.broker.url(), around.clock);
            let rabbits = [open("worker-1")?, open("worker-2")?];
            for rabbit in &rabbits {
                rabbit.until_up().await?;
            }
            anyhow::Ok(rabbits)
        })?;
        let (mut one, mut two) = (Vec::new(), Vec::new());
        for _ in 0..RUNS {
            for (workers, rates) in [(1, &mut one), (2, &mut two)] {
                let rabbits = rabbits.get(..workers).unwrap_or_default();
                rates.push(runtime.block_on(settle(&mut around, rabbits))?);
                for queue in [&self.logins, &self.background, topology::LEDGER] {
                    inspector.purge(queue)?;
                }
            }
        }
        for rabbit in rabbits {
            runtime.block_on(rabbit.close())?;
        }
        let allowed = f64::from(CONCURRENCY) / (f64::from(CALLS) * LATENCY.as_secs_f64());
        println!(
            "\nworkers: {} ms a provider call, concurrency {CONCURRENCY} each, {CALLS} calls a login, limiter off; intents \
             and outcomes go\nto the ledger's queue\n\n{:<44}{allowed:.1}\n{:<44}{}\n{:<44}{}\n",
            LATENCY.as_millis(),
            "concurrency ÷ (calls × latency), logins/s",
            "one worker, logins/s",
            Spread::of(&one),
            "two workers, logins/s",
            Spread::of(&two),
        );
        let ratio = Spread::of_ratios(&two, &one);
        println!("{}", support::verdict("settled by two workers over one", "", ratio, Goal::AtLeast(1.9)));
        Ok(())
    }

    /// 202s a second while the broker is down, and how soon it has them once it is back.
    fn spool(&mut self) -> anyhow::Result<()> {
        self.broker.stop()?;
        let mut load = Load::new(CONNECTIONS)?;
        let mut sides = [self.side("spool", "spool")?, self.side("embedded", "embedded")?];
        for side in &sides {
            load.warm_up(side, WARM_UP)?;
        }
        load.alternate(&mut sides, SPOOL_REQUESTS, || Ok(()))?;
        let [ours, _] = &mut sides;
        ours.service.tell("drain")?;
        self.broker.restart()?;
        let drained: f64 = ours.service.read()?.parse()?;
        let depth = Inspector::connect(&self.broker.url())?.depth(&self.logins)?;
        let accepted = WARM_UP + RUNS * SPOOL_REQUESTS;
        println!(
            "\nspool: the same requests while the broker is down, {SPOOL_REQUESTS} a run; `embedded` is the embedded queue \
             alone.\nThen the broker starts: {accepted} events were accepted, it has {depth}.\n",
        );
        load::print_table(["spool", "embedded"], &sides);
        println!("{:<28}{drained:>26.0}", "drained, events/s");
        print_rates("202s with the broker down over the embedded queue's", &sides);
        anyhow::ensure!(depth as usize == accepted, "the broker has {depth} messages of {accepted}");
        end(sides)
    }
}

fn print_rates(what: &str, [ours, baseline]: &[Side; 2]) {
    let ratio = Spread::of_ratios(&ours.rates(), &baseline.rates());
    println!("\n{}", support::verdict(what, "", ratio, Goal::AtLeast(0.9)));
}

fn end(sides: [Side; 2]) -> anyhow::Result<()> {
    sides.into_iter().try_for_each(|side| side.service.end())
}

/// Puts as many messages into the queue as one run takes out.
async fn fill(ours: &Rabbit, next_id: &mut u64) -> anyhow::Result<()> {
    let clock = Clock::start();
    let ids = *next_id..*next_id + MESSAGES;
    *next_id = ids.end;
    let events: Vec<LoginEvent> = ids.map(|id| event(id, Reason::Login, clock)).collect::<Result<_, _>>()?;
    for batch in events.chunks(FILL_BATCH * CHANNELS) {
        let mut publishing = JoinSet::new();
        for part in batch.chunks(FILL_BATCH) {
            let (queue, part) = (ours.queue.clone(), part.to_vec());
            publishing.spawn(async move { queue.publish(&part).await });
        }
        while let Some(published) = publishing.join_next().await {
            published??;
        }
    }
    Ok(())
}

/// Seconds that receiving and acking one run's messages takes.
async fn receive(ours: &Rabbit) -> anyhow::Result<f64> {
    let lane = ours.queue.subscribe(&TenantId::default_tenant(), Lane::Logins, PREFETCH.into()).await?;
    let taken = Arc::new(AtomicU64::new(0));
    let from = Instant::now();
    let mut settlers: JoinSet<anyhow::Result<()>> = JoinSet::new();
    for _ in 0..SETTLERS {
        let (lane, taken) = (Arc::clone(&lane), Arc::clone(&taken));
        settlers.spawn(async move {
            while taken.fetch_add(1, Ordering::Relaxed) < MESSAGES {
                let delivery = lane.receive().await?;
                lane.settle(&[(delivery.tag, Settlement::Ack)]).await?;
            }
            Ok(())
        });
    }
    while let Some(ended) = settlers.join_next().await {
        ended??;
    }
    let seconds = from.elapsed().as_secs_f64();
    lane.close().await?;
    Ok(seconds)
}

/// Logins settled a second by one worker for each of these queues, while there are more than they take.
async fn settle(around: &mut Surroundings, rabbits: &[Rabbit]) -> anyhow::Result<f64> {
    let places = CONCURRENCY * u32::try_from(rabbits.len())?;
    let [first, ..] = rabbits else { anyhow::bail!("there is no worker") };
    let logins = places * (LOGINS_ASIDE + LOGINS_A_PLACE + LOGINS_ASIDE);
    let events: Vec<LoginEvent> = (0..logins).map(|_| around.next_login()).collect::<Result<_, _>>()?;
    first.queue.publish(&events).await?;
    let begin = around.settled() + u64::from(places * LOGINS_ASIDE);
    let stop = CancellationToken::new();
    let mut running = JoinSet::new();
    for rabbit in rabbits {
        let courier = Arc::new(ToLedgerQueue(rabbit.queue.clone()));
        let ledger = RemoteLedger::new(courier, false, around.clock, around.metrics.clone());
        running.spawn(around.worker(Arc::new(rabbit.queue.clone()), Arc::new(ledger)).run(stop.clone()));
    }
    around.wait_for(begin).await;
    let from = Instant::now();
    around.wait_for(begin + u64::from(places * LOGINS_A_PLACE)).await;
    let seconds = from.elapsed().as_secs_f64();
    stop_all(stop, running).await?;
    Ok(f64::from(places * LOGINS_A_PLACE) / seconds)
}

/// A service's process: says where it listens, drains its spool when it is asked to, and ends when its input does.
#[tokio::main]
async fn serve(what: &str, folder: &Path, url: &str) -> anyhow::Result<()> {
    let clock = Clock::start();
    let mut input = child::input();
    match what {
        "bare" => {
            let mut tasks = JoinSet::new();
            let server = Server::start(Arc::new(BareQueue::start(url, CHANNELS, &mut tasks).await?), clock)?;
            while input.recv().await.is_some() {}
            server.stop().await
        }
        "embedded" => {
            std::fs::create_dir_all(folder)?;
            let (queue, thread) = EmbeddedQueue::open(&EmbeddedConfig::in_dir(folder), clock)?;
            let server = Server::start(Arc::new(queue.clone()), clock)?;
            while input.recv().await.is_some() {}
            server.stop().await?;
            queue.stop();
            thread.ended().await
        }
        _ => {
            let rabbit = Rabbit::open(folder, url, clock)?;
            if what == "ours" {
                rabbit.until_up().await?;
            }
            let server = Server::start(Arc::new(rabbit.queue.clone()), clock)?;
            while input.recv().await.is_some() {
                println!("{}", rabbit.drain_rate().await?);
            }
            server.stop().await?;
            rabbit.close().await
        }
    }
}
