//! What an app server asks: requests of one key over kept-alive connections, as many as are answered or so many a second.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep_until};

use super::load::{Run, Side, measured};
use super::session_api::APP_KEY;
use super::wire::Wire;

/// Until the first question of a rate is due.
const BEFORE_THE_FIRST: Duration = Duration::from_millis(50);

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
        let begin = Instant::now() + BEFORE_THE_FIRST;
        let mut asking = Vec::new();
        for (first, mut wire) in wires.into_iter().enumerate() {
            let (requests, connections) = (Arc::clone(&self.requests), self.connections);
            asking.push(async move {
                let mut took_ms = Vec::new();
                for number in (first..requests.len()).step_by(connections) {
                    let Some(request) = requests.get(number) else { break };
                    #[expect(clippy::cast_precision_loss, reason = "thousands of requests")]
                    let due = begin + Duration::from_secs_f64(number as f64 / per_second);
                    let is_late = due < Instant::now();
                    sleep_until(due).await;
                    let from = if is_late { due } else { Instant::now() };
                    wire.ask(request, "200").await?;
                    took_ms.push(from.elapsed().as_secs_f64() * 1_000.0);
                }
                Ok(took_ms)
            });
        }
        measured(&side.service, asking).await
    }

    async fn connect(&self, addr: SocketAddr) -> anyhow::Result<Vec<Wire>> {
        let mut wires = Vec::new();
        for _ in 0..self.connections {
            wires.push(Wire::open(addr).await?);
        }
        Ok(wires)
    }
}
