//! How many logins a second become durable over HTTP, against the same handler over a queue that stores nothing.

#![expect(clippy::print_stdout, reason = "a benchmark reports on its output")]

#[expect(dead_code, reason = "each benchmark uses a part of it")]
mod support;

use std::io::{BufRead as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use axum_server::Handle;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use soloist::clock::Clock;
use soloist::http::{self, ServerConfig};
use soloist::model::{Lane, LoginEvent, TenantId};
use soloist::queue::embedded::{EmbeddedConfig, EmbeddedQueue};
use soloist::queue::{LaneStats, Published, Queue, QueueError, Subscription, Via};
use soloist::telemetry::Metrics;
use soloist::webhook::{self, WebhookLimits, WebhookTenant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use support::child::{self, Child};
use support::{Goal, RUNS, Spread, quantile};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const CONNECTIONS: usize = 256;
/// Requests of one measured run, and of the one before it that fills caches and connections.
const REQUESTS: usize = 60_000;
const WARM_UP: usize = 10_000;
/// Writes with which the disk is measured between two runs, and how large one is: about what a commit writes.
const DISK_PROBES: usize = 30;
const DISK_PROBE_BYTES: usize = 64 * 1024;
const SECRET: &[u8] = b"bench-secret";
const BODY: &str = include_str!("support/login.json");
/// Where the template has the event id, whose last digits make each body unique.
const EVENT_ID: &str = "00000000-0000-4000-8000-000000000000";
const ID_DIGITS: usize = 12;

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

/// What one run showed.
struct Run {
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    service_us: f64,
    client_us: f64,
}

fn compare() -> anyhow::Result<()> {
    let folder = support::scratch()?;
    let path = folder.path().to_str().context("the folder's name is not text")?;
    let client = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut load = Load { next_id: 0 };
    let mut sides = Vec::new();
    for stores in ["durable", "nothing"] {
        let mut service = Child::start(&["serve", stores, path])?;
        let addr: SocketAddr = service.read()?.parse()?;
        load.run(&client, &service, addr, WARM_UP)?;
        sides.push((service, addr, Vec::<Run>::new()));
    }
    let mut fsync_ms = Vec::new();
    for _ in 0..RUNS {
        for (service, addr, runs) in &mut sides {
            runs.push(load.run(&client, service, *addr, REQUESTS)?);
        }
        fsync_ms.extend(probe_disk(folder.path())?);
    }
    fsync_ms.sort_by(f64::total_cmp);
    let mut columns = Vec::new();
    for (service, _, runs) in sides {
        service.end()?;
        columns.push(runs);
    }
    if let [durable, nothing] = columns.as_slice() {
        report(durable, nothing, &fsync_ms);
    }
    Ok(())
}

/// One column of the table.
type Value = fn(&Run) -> f64;

fn report(durable: &[Run], nothing: &[Run], fsync_ms: &[f64]) {
    let all = |runs: &[Run], value: Value| runs.iter().map(value).collect::<Vec<f64>>();
    println!(
        "\ningest: signed login bodies of {} B over loopback HTTP, {CONNECTIONS} connections, {REQUESTS} requests a run,\n\
         {RUNS} runs in turn; median (min–max). `stores nothing` is the same server and handler over an empty queue.\n",
        BODY.len()
    );
    println!("{:<28}{:>26}{:>26}", "", "durable", "stores nothing");
    let rows: [(&str, Value); 5] = [
        ("202s a second", |run| run.per_second),
        ("p50, ms", |run| run.p50_ms),
        ("p99, ms", |run| run.p99_ms),
        ("service CPU, µs a request", |run| run.service_us),
        ("client CPU, µs a request", |run| run.client_us),
    ];
    for (name, value) in rows {
        let (ours, theirs) = (Spread::of(&all(durable, value)), Spread::of(&all(nothing, value)));
        println!("{name:<28}{:>26}{:>26}", ours.to_string(), theirs.to_string());
    }
    let cpu = |run: &Run| run.service_us + run.client_us;
    println!(
        "{:<28}{:>26}",
        "CPU ratio, both processes",
        Spread::of_ratios(&all(nothing, cpu), &all(durable, cpu)).to_string()
    );
    println!(
        "fsync of {} KiB appended to a file there: p50 {:.2} ms, p99 {:.2} ms\n",
        DISK_PROBE_BYTES / 1024,
        quantile(fsync_ms, 0.5),
        quantile(fsync_ms, 0.99)
    );
    let rate = |run: &Run| run.per_second;
    let ratio = Spread::of_ratios(&all(durable, rate), &all(nothing, rate));
    println!("{}", support::verdict("durable 202s over those that store nothing", "", ratio, Goal::AtLeast(0.8)));
}

fn probe_disk(folder: &Path) -> anyhow::Result<Vec<f64>> {
    let mut file = std::fs::File::create(folder.join("probe"))?;
    let block = vec![0x5a; DISK_PROBE_BYTES];
    let mut took_ms = Vec::with_capacity(DISK_PROBES);
    for _ in 0..DISK_PROBES {
        file.write_all(&block)?;
        let from = Instant::now();
        file.sync_data()?;
        took_ms.push(from.elapsed().as_secs_f64() * 1_000.0);
    }
    Ok(took_ms)
}

/// The load: every body unique, all signed before the clock starts.
struct Load {
    next_id: u64,
}

impl Load {
    fn run(
        &mut self,
        runtime: &tokio::runtime::Runtime,
        service: &Child,
        addr: SocketAddr,
        requests: usize,
    ) -> anyhow::Result<Run> {
        let signed = Arc::new(self.sign(requests)?);
        let cpu = || anyhow::Ok((child::cpu_seconds(service.id())?, child::cpu_seconds(std::process::id())?));
        let (seconds, mut latencies_ms, before, after) = runtime.block_on(async {
            let mut connections = Vec::new();
            for _ in 0..CONNECTIONS {
                connections.push(Connection::open(addr).await?);
            }
            let before = cpu()?;
            let from = Instant::now();
            let next = Arc::new(AtomicUsize::new(0));
            let mut tasks = JoinSet::new();
            for connection in connections {
                tasks.spawn(connection.post_all(Arc::clone(&signed), Arc::clone(&next)));
            }
            let mut latencies_ms = Vec::with_capacity(requests);
            while let Some(ended) = tasks.join_next().await {
                latencies_ms.extend(ended??);
            }
            anyhow::Ok((from.elapsed().as_secs_f64(), latencies_ms, before, cpu()?))
        })?;
        latencies_ms.sort_by(f64::total_cmp);
        #[expect(clippy::cast_precision_loss, reason = "thousands of requests")]
        let requests = requests as f64;
        Ok(Run {
            per_second: requests / seconds,
            p50_ms: quantile(&latencies_ms, 0.5),
            p99_ms: quantile(&latencies_ms, 0.99),
            service_us: (after.0 - before.0) / requests * 1e6,
            client_us: (after.1 - before.1) / requests * 1e6,
        })
    }

    fn sign(&mut self, count: usize) -> anyhow::Result<Vec<Signed>> {
        let digits_at = BODY.find(EVENT_ID).context("the body has no event id")? + EVENT_ID.len() - ID_DIGITS;
        let key = Hmac::<Sha256>::new_from_slice(SECRET)?;
        let mut body = BODY.as_bytes().to_vec();
        let mut signed = Vec::with_capacity(count);
        for _ in 0..count {
            self.next_id += 1;
            let digits = format!("{:012x}", self.next_id);
            put(&mut body, digits_at, digits.as_bytes())?;
            let signature = hex::encode_upper(key.clone().chain_update(&body).finalize().into_bytes());
            signed.push(Signed { digits, signature });
        }
        Ok(signed)
    }
}

/// What differs from one request to the next.
struct Signed {
    digits: String,
    signature: String,
}

fn put(buffer: &mut [u8], at: usize, bytes: &[u8]) -> anyhow::Result<()> {
    buffer.get_mut(at..at + bytes.len()).context("the template is too short")?.copy_from_slice(bytes);
    Ok(())
}

/// One kept-alive connection with a request that is patched and sent again and again.
struct Connection {
    stream: TcpStream,
    request: Vec<u8>,
    signature_at: usize,
    digits_at: usize,
}

impl Connection {
    async fn open(addr: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        let head = format!("POST /webhooks/loginradius HTTP/1.1\r\nHost: {addr}\r\nSignature: ");
        let rest =
            format!("\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: {}\r\n\r\n", BODY.len());
        let request = format!("{head}{:64}{rest}{BODY}", "");
        let digits_at = request.find(EVENT_ID).context("the body has no event id")? + EVENT_ID.len() - ID_DIGITS;
        Ok(Self { stream, request: request.into_bytes(), signature_at: head.len(), digits_at })
    }

    /// Takes requests as long as there are any; returns how long each took.
    async fn post_all(mut self, signed: Arc<Vec<Signed>>, next: Arc<AtomicUsize>) -> anyhow::Result<Vec<f64>> {
        let mut took_ms = Vec::new();
        let mut answer = vec![0; 4_096];
        while let Some(own) = signed.get(next.fetch_add(1, Ordering::Relaxed)) {
            put(&mut self.request, self.signature_at, own.signature.as_bytes())?;
            put(&mut self.request, self.digits_at, own.digits.as_bytes())?;
            let from = Instant::now();
            self.stream.write_all(&self.request).await?;
            let mut length = 0;
            while !is_whole(answer.get(..length).unwrap_or_default())? {
                let room = answer.get_mut(length..).filter(|room| !room.is_empty()).context("a long answer")?;
                let read = self.stream.read(room).await?;
                anyhow::ensure!(read > 0, "the service closed a connection");
                length += read;
            }
            took_ms.push(from.elapsed().as_secs_f64() * 1_000.0);
        }
        Ok(took_ms)
    }
}

/// Whether this is a whole answer; any but a 202 fails the benchmark.
fn is_whole(answer: &[u8]) -> anyhow::Result<bool> {
    let Some(head_bytes) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(false) };
    let head = std::str::from_utf8(answer.get(..head_bytes).unwrap_or_default())?;
    anyhow::ensure!(head.starts_with("HTTP/1.1 202"), "an answer is not 202: {head}");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).context("no length")?;
    Ok(answer.len() >= head_bytes + 4 + length.parse::<usize>()?)
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
    let tenant = WebhookTenant { id: TenantId::default_tenant(), secrets: vec![SECRET.to_vec()] };
    let limits = WebhookLimits {
        body_bytes_max: 256 * 1024,
        body_timeout: Duration::from_secs(10),
        in_flight_max: 4_096,
        buffer_kib_max: WebhookLimits::BUFFER_KIB_MAX,
    };
    let router = webhook::router(vec![tenant], queue, limits, clock, Metrics::new());
    let listener = http::bind("127.0.0.1:0".parse()?)?;
    println!("{}", listener.local_addr()?);
    let config = ServerConfig { header_timeout: Duration::from_secs(5), connections_max: 4_096, tls: None };
    let handle = Handle::new();
    let mut serving = JoinSet::new();
    serving.spawn(http::serve(listener, router, config, handle.clone()));
    tokio::task::spawn_blocking(|| std::io::stdin().lock().lines().count()).await?;
    handle.shutdown();
    while let Some(ended) = serving.join_next().await {
        ended??;
    }
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
