//! What an app server asks: requests of one key over kept-alive connections, as many as are answered or so many a second.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::load::{Run, Side, measured};
use super::session_api::APP_KEY;
use super::wire::Wire;

/// How often it is looked which questions are due.
const TICK: Duration = Duration::from_micros(100);

/// A question of the app server, as it goes over the wire.
pub(crate) fn request(path: &str, body: &Value) -> Vec<u8> {
    let body = body.to_string();
    format!(
        "POST {path} HTTP/1.1\r\nHost: soloist\r\nAuthorization: Bearer {APP_KEY}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Questions that are ready to be sent.
pub(crate) struct Questions {
    requests: Arc<Vec<Vec<u8>>>,
    connections: usize,
}

impl Questions {
    pub(crate) fn new(requests: Vec<Vec<u8>>, connections: usize) -> Self {
        Self { requests: Arc::new(requests), connections }
    }

    /// Sends each of them once, the next one as soon as one is answered.
    pub(crate) async fn at_once(&self, side: &Side) -> anyhow::Result<Run> {
        let next = Arc::new(AtomicUsize::new(0));
        let mut asking = Vec::new();
        for mut wire in self.connect(side.addr).await? {
            let (requests, next) = (Arc::clone(&self.requests), Arc::clone(&next));
            asking.push(async move {
                let mut took_ms = Vec::new();
                while let Some(request) = requests.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let from = Instant::now();
                    wire.ask(request, "200").await?;
                    took_ms.push(from.elapsed().as_secs_f64() * 1_000.0);
                }
                Ok(took_ms)
            });
        }
        measured(&side.service, asking).await
    }

    /// Sends so many a second, whether or not those before them are answered; one that had to wait for its connection is
    /// counted from when it was due.
    pub(crate) async fn at_rate(&self, side: &Side, per_second: f64) -> anyhow::Result<Run> {
        let wires = self.connect(side.addr).await?;
        let (due, next) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
        let begin = Instant::now();
        let mut asking = Vec::new();
        for mut wire in wires {
            let (requests, due, next) = (Arc::clone(&self.requests), Arc::clone(&due), Arc::clone(&next));
            asking.push(async move {
                let mut took_ms = Vec::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(request) = requests.get(number) else { break Ok(took_ms) };
                    let is_late = due.available_permits() > 0;
                    due.acquire().await?.forget();
                    let from = if is_late { begin + place(number, per_second) } else { Instant::now() };
                    wire.ask(request, "200").await?;
                    took_ms.push(from.elapsed().as_secs_f64() * 1_000.0);
                }
            });
        }
        let count = self.requests.len();
        let pace = std::thread::spawn(move || release(&due, count, begin, per_second));
        let run = measured(&side.service, asking).await;
        pace.join().map_err(|_panic| anyhow::anyhow!("the thread that lets questions go has failed"))?;
        run
    }

    async fn connect(&self, addr: SocketAddr) -> anyhow::Result<Vec<Wire>> {
        let mut wires = Vec::new();
        for _ in 0..self.connections {
            wires.push(Wire::open(addr).await?);
        }
        Ok(wires)
    }
}

/// When a question is due, from the first one on.
fn place(number: usize, per_second: f64) -> Duration {
    #[expect(clippy::cast_precision_loss, reason = "thousands of requests")]
    let number = number as f64;
    Duration::from_secs_f64(number / per_second)
}

/// Lets so many questions go, each when it is due. A thread of its own: the runtime's timer counts in milliseconds, and would
/// let all that falls due within one go at once.
#[expect(clippy::disallowed_methods, reason = "this thread is its own: nothing else waits for it")]
fn release(due: &Semaphore, count: usize, begin: Instant, per_second: f64) {
    let mut released = 0;
    while released < count {
        std::thread::sleep(TICK);
        let fallen_due = (released..count).take_while(|number| begin + place(*number, per_second) <= Instant::now());
        let more = fallen_due.count();
        due.add_permits(more);
        released += more;
    }
}
