//! Login events out: signed, posted once, never tried again, whatever comes back.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context;
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use reqwest::{Client, Url, header};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::faults::WebhookFault;

/// How long a receiver may take.
const WEBHOOK_TIMEOUT: Duration = Duration::from_secs(5);
/// Webhooks that were taken from the queue and wait for their delay or a connection.
const IN_FLIGHT_MAX: usize = 1_024;

/// What became of a login's webhook at the moment of the login.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WebhookFate {
    /// It will be posted soon, once.
    Queued,
    /// A fault lost it.
    Dropped,
    /// Too many were waiting.
    Overflowed,
    /// There is no target, or the login asked for none.
    NotSent,
}

/// Counts of webhooks since the start or the last reset.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebhookCounts {
    /// Taken into the queue.
    pub queued: u64,
    /// Lost by a fault.
    pub dropped: u64,
    /// Lost because too many waited.
    pub overflowed: u64,
    /// Queued without an outcome yet.
    pub pending: usize,
    /// Posts by what came back: a status such as `202`, or `timeout`, `connect`, `failed`.
    pub outcomes: BTreeMap<String, u64>,
}

#[derive(Debug, Clone)]
struct Target {
    url: Url,
    client: Client,
}

#[derive(Debug)]
pub(super) struct Outgoing {
    target: Target,
    body: Bytes,
    signature: String,
    hook_id: String,
    fault: WebhookFault,
}

/// The queue of webhooks and what is known of those that left it.
#[derive(Debug)]
pub(super) struct Webhooks {
    secret: String,
    queue: mpsc::Sender<Outgoing>,
    target: Mutex<Option<Target>>,
    counts: Mutex<WebhookCounts>,
    pending: watch::Sender<usize>,
}

impl Webhooks {
    /// The second value is what [`Webhooks::run`] works on.
    pub(super) fn new(secret: String, queue_max: usize) -> (Self, mpsc::Receiver<Outgoing>) {
        let (queue, outgoing) = mpsc::channel(queue_max.max(1));
        let webhooks =
            Self { secret, queue, target: Mutex::default(), counts: Mutex::default(), pending: watch::Sender::new(0) };
        (webhooks, outgoing)
    }

    pub(super) fn set_target(&self, url: Option<&str>) -> anyhow::Result<()> {
        let target = url.map(target).transpose()?;
        *self.target.lock().unwrap_or_else(PoisonError::into_inner) = target;
        Ok(())
    }

    pub(super) fn target(&self) -> Option<String> {
        let target = self.target.lock().unwrap_or_else(PoisonError::into_inner);
        target.as_ref().map(|target| target.url.to_string())
    }

    pub(super) fn counts(&self) -> WebhookCounts {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone();
        WebhookCounts { pending: *self.pending.borrow(), ..counts }
    }

    pub(super) fn reset(&self) {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner) = WebhookCounts::default();
    }

    fn count(&self, add: impl FnOnce(&mut WebhookCounts)) {
        add(&mut self.counts.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Queues one event. `body` is made only if it is needed.
    pub(super) fn send(&self, hook_id: String, fault: WebhookFault, body: impl FnOnce(&str) -> String) -> WebhookFate {
        let target = self.target.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(target) = target else { return WebhookFate::NotSent };
        if fault.dropped {
            self.count(|counts| counts.dropped = counts.dropped.saturating_add(1));
            return WebhookFate::Dropped;
        }
        let body = Bytes::from(body(&hook_id));
        let signature = sign(&self.secret, &body);
        self.pending.send_modify(|pending| *pending = pending.saturating_add(1));
        if self.queue.try_send(Outgoing { target, body, signature, hook_id, fault }).is_err() {
            self.one_less_pending();
            self.count(|counts| counts.overflowed = counts.overflowed.saturating_add(1));
            return WebhookFate::Overflowed;
        }
        self.count(|counts| counts.queued = counts.queued.saturating_add(1));
        WebhookFate::Queued
    }

    fn one_less_pending(&self) {
        self.pending.send_modify(|pending| *pending = pending.saturating_sub(1));
    }

    /// Returns when every queued webhook has its outcome.
    pub(super) async fn settled(&self) {
        // Waiting fails only when the sender is gone, and the sender is `self`.
        let _settled = self.pending.subscribe().wait_for(|pending| *pending == 0).await.is_ok();
    }

    /// Posts what is queued until told to stop, over that many connections.
    pub(super) async fn run(
        self: Arc<Self>,
        mut outgoing: mpsc::Receiver<Outgoing>,
        connections: usize,
        stop: CancellationToken,
    ) {
        let connections = Arc::new(Semaphore::new(connections.max(1)));
        let mut posts = JoinSet::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Some(done) = posts.join_next(), if !posts.is_empty() => {
                    self.one_less_pending();
                    if let Err(error) = done {
                        tracing::error!("a webhook's task failed: {error}");
                    }
                }
                Some(next) = outgoing.recv(), if posts.len() < IN_FLIGHT_MAX => {
                    posts.spawn(Arc::clone(&self).deliver(next, Arc::clone(&connections)));
                }
            }
        }
    }

    async fn deliver(self: Arc<Self>, outgoing: Outgoing, connections: Arc<Semaphore>) {
        tokio::time::sleep(Duration::from_millis(outgoing.fault.delay_ms)).await;
        let Ok(_connection) = connections.acquire().await else { return };
        for _copy in 0..outgoing.fault.copies {
            let outcome = post(&outgoing).await;
            self.count(|counts| {
                let count = counts.outcomes.entry(outcome).or_default();
                *count = count.saturating_add(1);
            });
        }
    }
}

/// One attempt. The answer's body is not read: the vendor does not care either.
async fn post(outgoing: &Outgoing) -> String {
    let request = outgoing
        .target
        .client
        .post(outgoing.target.url.clone())
        .header(header::ACCEPT, "application/json")
        .header(header::ACCEPT_ENCODING, "gzip, deflate")
        .header(header::CONTENT_TYPE, "application/json; charset=utf-8")
        .header("request-context", "appId=cid-v1:00000000-0000-4000-8000-000000000000")
        .header("request-id", format!("|{}.1_1.", outgoing.hook_id.replace('-', "")))
        .header("signature", &outgoing.signature)
        .body(outgoing.body.clone());
    match request.send().await {
        Ok(response) => {
            let status = response.status().as_u16().to_string();
            // Reading the little there is lets the connection be used again.
            if response.content_length().is_some_and(|length| length <= 65_536) {
                let _read = response.bytes().await.is_ok();
            }
            status
        }
        Err(error) if error.is_timeout() => "timeout".to_owned(),
        Err(error) if error.is_connect() => "connect".to_owned(),
        Err(_) => "failed".to_owned(),
    }
}

fn target(url: &str) -> anyhow::Result<Target> {
    let url = Url::parse(url).context("the webhook target is not a URL")?;
    anyhow::ensure!(matches!(url.scheme(), "http" | "https"), "the webhook target must be an http or https URL");
    let mut client = Client::builder()
        .timeout(WEBHOOK_TIMEOUT)
        .http1_only()
        .no_gzip()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .user_agent("LoginRadius Service Consumer (https://www.loginradius.com)");
    if url.scheme() == "http" {
        // Without this the client cannot be built on a machine that has no store of certificates.
        client = client.tls_certs_only([]);
    }
    let client = client.build().map_err(reqwest::Error::without_url).context("cannot build the webhook client")?;
    Ok(Target { url, client })
}

/// Upper-case hex of HMAC-SHA256 over the body, as the vendor documents it.
fn sign(secret: &str, body: &[u8]) -> String {
    // A key of any length will do for HMAC, so there is always a signature.
    let mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes());
    mac.map(|mac| hex::encode_upper(mac.chain_update(body).finalize().into_bytes())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_that_of_the_test_vectors() {
        assert_eq!(
            sign("secret", br#"{"HookName":"login"}"#),
            "6B7E5FEAB9D8906A08D65F1C10F84257C5693A7F64F2F96612DF206D30760E93"
        );
        assert_eq!(
            sign(
                "0f2c5d3e-1111-4222-8333-444455556666",
                r#"{"HookName":"login","Data":{"FirstName":"Zoë"}}"#.as_bytes()
            ),
            "C5AF18D5B99AD50E175C6B4C244CAAB48257E74155282FBCE28437C736F1539F"
        );
    }
}
