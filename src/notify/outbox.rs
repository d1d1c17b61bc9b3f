//! Takes notices in: each once by its key, durably, for every endpoint that wants it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::endpoint::Endpoint;
use super::store::{Mark, NewNotice, Store};
use super::task::OutboxTask;
use super::{Device, Displacer, Notice, Texts};
use crate::clock::Clock;
use crate::config::NotifyEndpoint;
use crate::telemetry::{Metrics, labels};

/// How often it is said at most that notices are dropped.
const TOLD_EVERY: Duration = Duration::from_mins(10);

/// What an outbox is made of.
pub struct OutboxParts {
    /// The folder of `notices.db`.
    pub data_dir: PathBuf,
    pub endpoints: Vec<NotifyEndpoint>,
    pub texts: Texts,
    pub clock: Clock,
    pub metrics: Metrics,
    /// From 0 to 1, for delays.
    pub chance: fn() -> f64,
}

/// Where notices are posted.
#[derive(Clone)]
pub struct Outbox {
    shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) store: Store,
    pub(super) endpoints: Vec<Arc<Endpoint>>,
    pub(super) texts: Texts,
    pub(super) clock: Clock,
    pub(super) metrics: Metrics,
    pub(super) chance: fn() -> f64,
    /// Something new waits.
    pub(super) posted: Notify,
    dropped_told: Mutex<BTreeMap<String, Instant>>,
}

impl Outbox {
    /// Opens or makes `notices.db`.
    ///
    /// # Errors
    /// Also when a signing key cannot be used, or there is no way to speak https.
    pub fn open(parts: OutboxParts) -> anyhow::Result<(Self, OutboxTask)> {
        let names: Vec<String> = parts.endpoints.iter().map(|endpoint| endpoint.name.clone()).collect();
        let endpoints = parts.endpoints.into_iter().map(|of| Endpoint::new(of).map(Arc::new));
        let endpoints = endpoints.collect::<anyhow::Result<_>>()?;
        let shared = Arc::new(Shared {
            store: Store::open(&parts.data_dir, &names, parts.clock.now_ms())?,
            endpoints,
            texts: parts.texts,
            clock: parts.clock,
            metrics: parts.metrics,
            chance: parts.chance,
            posted: Notify::new(),
            dropped_told: Mutex::default(),
        });
        for name in &names {
            shared.metrics.notices.announce(name);
            shared.show_waiting(name);
        }
        Ok((Self { shared: Arc::clone(&shared) }, OutboxTask::new(shared)))
    }

    /// Returns when the notices are durable. Those whose key was posted before are passed over.
    ///
    /// # Errors
    /// When they cannot be written: then none is kept, and they are to be posted again.
    pub async fn post(&self, notices: Vec<Notice>) -> anyhow::Result<()> {
        self.post_with(notices, Mark::default()).await
    }

    pub(super) async fn post_with(&self, notices: Vec<Notice>, mark: Mark) -> anyhow::Result<()> {
        let shared = &self.shared;
        let new = notices.iter().map(|notice| shared.written(notice)).collect::<anyhow::Result<_>>()?;
        let dropped = shared.store.post(new, mark, shared.clock.now_ms()).await?;
        for (endpoint, number) in dropped {
            shared.tell_dropped(&endpoint, number, "too many wait");
        }
        for endpoint in &shared.endpoints {
            shared.show_waiting(endpoint.name());
        }
        shared.posted.notify_one();
        Ok(())
    }

    pub(super) fn store(&self) -> &Store {
        &self.shared.store
    }

    pub(super) fn clock(&self) -> Clock {
        self.shared.clock
    }
}

#[derive(Serialize)]
struct Body<'a> {
    r#type: &'static str,
    timestamp: String,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    tenant: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<&'a str>,
    reason: &'a str,
    text: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<&'a Device>,
    #[serde(skip_serializing_if = "Option::is_none")]
    displaced_by: Option<&'a Displacer>,
}

impl Shared {
    fn written(&self, notice: &Notice) -> anyhow::Result<NewNotice> {
        let digest: [u8; 32] = Sha256::digest(&notice.key).into();
        let [key, _] = [0, 16].map(|from| std::array::from_fn(|n| digest.get(from + n).copied().unwrap_or_default()));
        let body = Body {
            r#type: notice.event.as_str(),
            timestamp: notice.at.to_string(),
            data: Data {
                tenant: notice.tenant.as_str(),
                uid: notice.user.as_ref().map(crate::model::UserId::as_str),
                session: notice.session.as_deref(),
                reason: &notice.reason,
                text: self.texts.of(&notice.reason),
                device: notice.device.as_ref(),
                displaced_by: notice.displaced_by.as_ref(),
            },
        };
        let wanted = self.endpoints.iter().filter(|endpoint| endpoint.wants(notice));
        Ok(NewNotice {
            key,
            notice: format!("msg_{}", hex::encode(key)),
            body: serde_json::to_string(&body)?,
            endpoints: wanted.map(|endpoint| endpoint.name().to_owned()).collect(),
        })
    }

    pub(super) fn show_waiting(&self, name: &str) {
        let waiting = i64::try_from(self.store.waiting(name)).unwrap_or(i64::MAX);
        self.metrics.notices.pending.get_or_create(&labels([("endpoint", name)])).set(waiting);
    }

    /// Counts what an endpoint is not told, and says so now and then.
    pub(super) fn tell_dropped(&self, name: &str, number: u64, why: &str) {
        self.metrics.notices.dropped.get_or_create(&labels([("endpoint", name)])).inc_by(number);
        let now = Instant::now();
        let mut told = self.dropped_told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.get(name).is_some_and(|told| now - *told < TOLD_EVERY) {
            return;
        }
        told.insert(name.to_owned(), now);
        tracing::error!(
            alarm = "notices_dropped",
            endpoint = name,
            "notices for `{name}` are dropped, {why}: what it was not told stands in `soloist ledger export`"
        );
    }
}
