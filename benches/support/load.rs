//! The load: signed login bodies over kept-alive connections, every one unique, all signed before the clock starts.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context as _;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::child::{self, Child};
use super::wire::Wire;
use super::{RUNS, Spread, quantile};

pub(crate) const SECRET: &[u8] = b"bench-secret";
pub(crate) const BODY: &str = include_str!("login.json");
/// Where the template has the event id, whose last digits make each body unique.
const EVENT_ID: &str = "00000000-0000-4000-8000-000000000000";
const ID_DIGITS: usize = 12;

/// What one run showed.
pub(crate) struct Run {
    pub(crate) per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) service_us: f64,
    pub(crate) client_us: f64,
}

/// A service's process, where it listens, and what was measured of it.
pub(crate) struct Side {
    pub(crate) service: Child,
    pub(crate) addr: SocketAddr,
    pub(crate) runs: Vec<Run>,
}

impl Side {
    /// Starts this benchmark with these arguments, which says where it listens.
    pub(crate) fn start(arguments: &[&str]) -> anyhow::Result<Self> {
        let mut service = Child::start(arguments)?;
        let addr = service.read()?.parse()?;
        Ok(Self { service, addr, runs: Vec::new() })
    }

    pub(crate) fn rates(&self) -> Vec<f64> {
        self.runs.iter().map(|run| run.per_second).collect()
    }
}

/// Sends requests over so many connections at once.
pub(crate) struct Load {
    connections: usize,
    runtime: tokio::runtime::Runtime,
    next_id: u64,
}

impl Load {
    pub(crate) fn new(connections: usize) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { connections, runtime, next_id: 0 })
    }

    /// Measures both in turn. `after_each` tidies up what a run has left behind.
    pub(crate) fn alternate(
        &mut self,
        sides: &mut [Side; 2],
        requests: usize,
        mut after_each: impl FnMut() -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        for _ in 0..RUNS {
            for side in &mut *sides {
                let run = self.run(&side.service, side.addr, requests)?;
                side.runs.push(run);
                after_each()?;
            }
        }
        Ok(())
    }

    /// Fills caches and connections.
    pub(crate) fn warm_up(&mut self, side: &Side, requests: usize) -> anyhow::Result<()> {
        self.run(&side.service, side.addr, requests).map(drop)
    }

    fn run(&mut self, service: &Child, addr: SocketAddr, requests: usize) -> anyhow::Result<Run> {
        let signed = Arc::new(self.sign(requests)?);
        self.runtime.block_on(async {
            let next = Arc::new(AtomicUsize::new(0));
            let mut posting = Vec::new();
            for _ in 0..self.connections {
                let connection = Connection::open(addr).await?;
                posting.push(connection.post_all(Arc::clone(&signed), Arc::clone(&next)));
            }
            measured(service, posting).await
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

/// Sends requests side by side; each sender says how many milliseconds each of its requests took.
pub(crate) async fn measured<S>(service: &Child, senders: impl IntoIterator<Item = S>) -> anyhow::Result<Run>
where
    S: Future<Output = anyhow::Result<Vec<f64>>> + Send + 'static,
{
    let cpu = || anyhow::Ok((child::cpu_seconds(service.id())?, child::cpu_seconds(std::process::id())?));
    let before = cpu()?;
    let from = Instant::now();
    let mut tasks: JoinSet<_> = senders.into_iter().collect();
    let mut latencies_ms = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        latencies_ms.extend(ended??);
    }
    let (seconds, after) = (from.elapsed().as_secs_f64(), cpu()?);
    latencies_ms.sort_by(f64::total_cmp);
    #[expect(clippy::cast_precision_loss, reason = "thousands of requests")]
    let requests = latencies_ms.len() as f64;
    Ok(Run {
        per_second: requests / seconds,
        p50_ms: quantile(&latencies_ms, 0.5),
        p99_ms: quantile(&latencies_ms, 0.99),
        service_us: (after.0 - before.0) / requests * 1e6,
        client_us: (after.1 - before.1) / requests * 1e6,
    })
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
    wire: Wire,
    request: Vec<u8>,
    signature_at: usize,
    digits_at: usize,
}

impl Connection {
    async fn open(addr: SocketAddr) -> anyhow::Result<Self> {
        let wire = Wire::open(addr).await?;
        let head = format!("POST /webhooks/loginradius HTTP/1.1\r\nHost: {addr}\r\nSignature: ");
        let rest =
            format!("\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: {}\r\n\r\n", BODY.len());
        let request = format!("{head}{:64}{rest}{BODY}", "");
        let digits_at = request.find(EVENT_ID).context("the body has no event id")? + EVENT_ID.len() - ID_DIGITS;
        Ok(Self { wire, request: request.into_bytes(), signature_at: head.len(), digits_at })
    }

    /// Takes requests as long as there are any; returns how long each took.
    async fn post_all(mut self, signed: Arc<Vec<Signed>>, next: Arc<AtomicUsize>) -> anyhow::Result<Vec<f64>> {
        let mut took_ms = Vec::new();
        while let Some(own) = signed.get(next.fetch_add(1, Ordering::Relaxed)) {
            put(&mut self.request, self.signature_at, own.signature.as_bytes())?;
            put(&mut self.request, self.digits_at, own.digits.as_bytes())?;
            let from = Instant::now();
            self.wire.ask(&self.request, "202").await?;
            took_ms.push(from.elapsed().as_secs_f64() * 1_000.0);
        }
        Ok(took_ms)
    }
}

/// One column of a table.
type Value = fn(&Run) -> f64;

/// Prints what was measured of ours and of the baseline, side by side.
pub(crate) fn print_table(names: [&str; 2], sides: &[Side; 2]) {
    let [ours, baseline] = names;
    println!("{:<28}{ours:>26}{baseline:>26}", "");
    let rows: [(&str, Value); 5] = [
        ("answers a second", |run| run.per_second),
        ("p50, ms", |run| run.p50_ms),
        ("p99, ms", |run| run.p99_ms),
        ("service CPU, µs a request", |run| run.service_us),
        ("client CPU, µs a request", |run| run.client_us),
    ];
    for (name, value) in rows {
        let [ours, baseline] =
            sides.each_ref().map(|side| Spread::of(&side.runs.iter().map(value).collect::<Vec<_>>()));
        println!("{name:<28}{:>26}{:>26}", ours.to_string(), baseline.to_string());
    }
}
