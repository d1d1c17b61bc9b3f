//! The ledger is evidence: it survives restarts, and enforcement does not wait for one that is damaged.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use soloist::clock::Clock;
use soloist::config::{Config, ConfigSources, Rate};
use soloist::directives::LiveDirectives;
use soloist::ledger::{Courier, RemoteLedger};
use soloist::model::{AccessToken, Reason, Session, SessionDevice, TenantId, UserId, UserTraits, View};
use soloist::provider::{ProviderError, Revoked, SessionProvider};
use soloist::queue::embedded::{EmbeddedConfig, EmbeddedQueue};
use soloist::sandbox::SandboxConfig;
use soloist::telemetry::Metrics;
use soloist::worker::{Brakes, Enforcer as _, Look, StepError, TenantWorker, WorkerParts};

use crate::support::service::Service;

#[tokio::test]
async fn a_damaged_ledger_is_set_aside_and_enforcement_goes_on() {
    let service = Service::start().await;
    for _ in 0..3 {
        service.sandbox.login("ann", None).unwrap();
    }
    service.settled().await;
    let (sandbox, data_dir) = service.stop().await;
    let path = data_dir.path().join("ledger.db");
    assert!(!data_dir.path().join("ledger.db-wal").exists(), "a stop leaves one whole file");
    let mut bytes = std::fs::read(&path).unwrap();
    let behind_the_header = 4096;
    bytes[behind_the_header..].fill(0xa5);
    std::fs::write(&path, bytes).unwrap();

    let service = Service::start_on(sandbox, data_dir, &[]).await;
    for _ in 0..3 {
        service.sandbox.login("bob", None).unwrap();
    }
    service.until("bob's surplus to end", async |service| service.sandbox.sessions("bob").len() == 1).await;

    assert!(service.data_dir.path().join("ledger.db.damaged-1").exists());
    service.stop().await;
}

#[tokio::test]
async fn what_was_decided_is_there_after_a_restart() {
    let service = Service::start_with(SandboxConfig::default(), &[]).await;
    for _ in 0..2 {
        service.sandbox.login("ann", None).unwrap();
    }
    service.settled().await;
    let (sandbox, data_dir) = service.stop().await;

    let service = Service::start_on(sandbox, data_dir, &[]).await;

    let (_, answer) = service.admin("GET", "/admin/v1/users/ann/decisions").await;
    assert_eq!(answer["decisions"][0]["outcomes"][0]["ended"], serde_json::json!("revoked"));
    assert_eq!(answer["decisions"][0]["executed"], serde_json::json!(true));
    service.stop().await;
}

/// Sessions in memory.
struct Sessions(Mutex<Vec<Session>>);

#[async_trait]
impl SessionProvider for Sessions {
    async fn list(&self, _user: &UserId) -> Result<View, ProviderError> {
        Ok(View { sessions: self.0.lock().unwrap().clone(), complete: true })
    }

    async fn revoke(&self, token: &AccessToken) -> Result<Revoked, ProviderError> {
        self.0.lock().unwrap().retain(|session| session.token != *token);
        Ok(Revoked::Done)
    }

    async fn identify(&self, _token: &AccessToken) -> Result<UserId, ProviderError> {
        Err(ProviderError::Refused(anyhow::anyhow!("not asked for here")))
    }

    async fn traits(&self, _user: &UserId) -> Result<UserTraits, ProviderError> {
        Ok(UserTraits::default())
    }
}

/// Gets nothing anywhere.
struct NoWay;

#[async_trait]
impl Courier for NoWay {
    async fn deliver(&self, _tenant: &TenantId, _record: Vec<u8>) -> anyhow::Result<()> {
        anyhow::bail!("no way to the broker")
    }
}

/// Looks at a user with three sessions while no record gets anywhere: what came of it, sessions left, records lost.
async fn look_without_a_ledger(required: bool) -> (Result<(), StepError>, usize, u64) {
    let folder = tempfile::tempdir().unwrap();
    let set = |name: &str| (format!("SOLOIST_LOGINRADIUS__{name}"), "test".to_owned());
    let env = BTreeMap::from([set("API_KEY"), set("API_SECRET")]);
    let config = Config::load(&ConfigSources { file: None, default_file: None, env }).unwrap();
    let (clock, metrics) = (Clock::start(), Metrics::new());
    let session = |n| {
        let login_at = format!("2026-06-01T12:00:0{n}Z").parse().unwrap();
        Session::new(&format!("token-{n}"), Some(login_at), SessionDevice::default())
    };
    let provider = Arc::new(Sessions(Mutex::new((0..3).map(session).collect())));
    let worker = TenantWorker::new(WorkerParts {
        tenant: TenantId::default_tenant(),
        provider: provider.clone(),
        rate: Rate::Unlimited,
        queue: Arc::new(EmbeddedQueue::open(&EmbeddedConfig::in_dir(folder.path()), clock).unwrap().0),
        directives: Arc::new(LiveDirectives::own(config.written_policies(), Vec::new(), clock).unwrap()),
        ledger: Arc::new(RemoteLedger::new(Arc::new(NoWay), required, clock, metrics.clone())),
        brakes: Brakes::alone(config.guard),
        config: config.worker,
        clock,
        metrics: metrics.clone(),
        chance: rand::random,
    });
    let user = UserId::parse("ann").unwrap();
    let look = Look { user, reason: Reason::Enforce, at: None, login_at: None, dry_run: false };
    let looked = worker.enforcer().evaluate(&look).await.map(drop);
    let left = provider.0.lock().unwrap().len();
    (looked, left, metrics.ledger_lost.get())
}

#[tokio::test]
async fn nobody_is_ended_while_a_required_ledger_is_out_of_reach() {
    let (looked, left, lost) = look_without_a_ledger(true).await;
    assert!(matches!(looked, Err(StepError::Ledger(_))));
    assert_eq!((left, lost), (3, 1));
}

#[tokio::test]
async fn history_is_lost_and_counted_where_the_ledger_is_not_required() {
    let (looked, left, lost) = look_without_a_ledger(false).await;
    assert!(looked.is_ok());
    assert_eq!((left, lost), (1, 2), "an intent and its outcome");
}
