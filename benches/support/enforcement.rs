//! A worker's surroundings: a fake provider with a latency, policies, and the logins that it works on.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use soloist::clock::Clock;
use soloist::config::{Config, ConfigSources, Rate};
use soloist::directives::LiveDirectives;
use soloist::ledger::Ledger;
use soloist::model::{
    AccessToken, EventId, LoginEvent, Reason, Session, SessionDevice, TenantId, UserId, UserTraits, View,
};
use soloist::provider::{ProviderError, Revoked, SessionProvider};
use soloist::queue::Queue;
use soloist::telemetry::{Metrics, labels};
use soloist::worker::{Brakes, TenantWorker, WorkerParts};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// Of every call of the provider.
pub(crate) const LATENCY: Duration = Duration::from_millis(50);
/// List, revoke the surplus session, list again.
pub(crate) const CALLS: u32 = 3;

/// What workers share. Several workers count as one here.
pub(crate) struct Surroundings {
    directives: Arc<LiveDirectives>,
    pub(crate) config: Config,
    pub(crate) provider: Arc<FakeProvider>,
    pub(crate) clock: Clock,
    pub(crate) metrics: Metrics,
    logins: u32,
}

impl Surroundings {
    /// For workers that take so many steps at once.
    pub(crate) fn new(concurrency: u32) -> anyhow::Result<Self> {
        let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let env = BTreeMap::from([
            set("SOLOIST_LOGINRADIUS__API_KEY", "bench-key"),
            set("SOLOIST_LOGINRADIUS__API_SECRET", "bench-secret"),
            set("SOLOIST_WORKER__CONCURRENCY", &concurrency.to_string()),
        ]);
        let config = Config::load(&ConfigSources { file: None, default_file: None, env })?;
        let clock = Clock::start();
        Ok(Self {
            directives: Arc::new(LiveDirectives::own(config.written_policies(), Vec::new(), clock)?),
            config,
            provider: Arc::default(),
            clock,
            metrics: Metrics::new(),
            logins: 0,
        })
    }

    /// Without a limit of calls a second.
    pub(crate) fn worker(&self, queue: Arc<dyn Queue>, ledger: Arc<dyn Ledger>) -> TenantWorker {
        self.braked_worker(queue, ledger, Brakes::alone(self.config.guard))
    }

    /// The same with a budget.
    pub(crate) fn braked_worker(&self, queue: Arc<dyn Queue>, ledger: Arc<dyn Ledger>, brakes: Brakes) -> TenantWorker {
        TenantWorker::new(WorkerParts {
            tenant: TenantId::default_tenant(),
            provider: Arc::clone(&self.provider) as Arc<dyn SessionProvider>,
            rate: Rate::Unlimited,
            queue,
            directives: Arc::clone(&self.directives) as _,
            ledger,
            brakes,
            config: self.config.worker.clone(),
            clock: self.clock,
            metrics: self.metrics.clone(),
            chance: rand::random,
        })
    }

    /// A login of a user of its own, whom the provider knows from now on.
    pub(crate) fn next_login(&mut self) -> anyhow::Result<LoginEvent> {
        self.logins += 1;
        let user = UserId::parse(&format!("user-{}", self.logins))?;
        let now = self.clock.now();
        self.provider.users().insert(user.clone(), User { login_at: now, has_surplus: true, first_call: None });
        Ok(LoginEvent {
            tenant: TenantId::default_tenant(),
            user,
            id: EventId::parse(&format!("login-{}", self.logins))?,
            at: Some(now),
            login_at: Some(now),
            reason: Reason::Login,
            accepted_at: Some(now),
        })
    }

    pub(crate) fn settled(&self) -> u64 {
        let of = labels([("tenant", TenantId::DEFAULT), ("settlement", "ack"), ("why", "")]);
        self.metrics.deliveries_settled.get_or_create(&of).get()
    }

    pub(crate) async fn wait_for(&self, settled: u64) {
        while self.settled() < settled {
            sleep(Duration::from_millis(1)).await;
        }
    }
}

pub(crate) async fn stop_all(stop: CancellationToken, mut running: JoinSet<anyhow::Result<()>>) -> anyhow::Result<()> {
    stop.cancel();
    while let Some(ended) = running.join_next().await {
        ended??;
    }
    Ok(())
}

pub(crate) struct User {
    login_at: Timestamp,
    has_surplus: bool,
    pub(crate) first_call: Option<Instant>,
}

/// Answers every call after the latency. Each user has the session of the login and, until it is ended, an older one.
#[derive(Default)]
pub(crate) struct FakeProvider {
    users: Mutex<HashMap<UserId, User>>,
    calls: Mutex<(u32, Duration)>,
}

impl FakeProvider {
    pub(crate) fn users(&self) -> MutexGuard<'_, HashMap<UserId, User>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn take_time(&self) {
        let from = Instant::now();
        sleep(LATENCY).await;
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        *calls = (calls.0 + 1, calls.1 + from.elapsed());
    }

    /// Since it was asked last.
    pub(crate) fn mean_call_ms(&self) -> f64 {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, total) = std::mem::take(&mut *calls);
        total.as_secs_f64() * 1_000.0 / f64::from(count)
    }
}

#[async_trait]
impl SessionProvider for FakeProvider {
    async fn list(&self, user: &UserId) -> Result<View, ProviderError> {
        if let Some(user) = self.users().get_mut(user) {
            user.first_call.get_or_insert_with(Instant::now);
        }
        self.take_time().await;
        let session = |token: String, login_at| Session::new(&token, Some(login_at), SessionDevice::default());
        let mut view = View { sessions: Vec::new(), complete: true };
        if let Some(known) = self.users().get(user) {
            view.sessions.push(session(format!("new:{user}"), known.login_at));
            let earlier = known.login_at - Duration::from_hours(1);
            view.sessions.extend(known.has_surplus.then(|| session(format!("old:{user}"), earlier)));
        }
        Ok(view)
    }

    async fn revoke(&self, token: &AccessToken) -> Result<Revoked, ProviderError> {
        self.take_time().await;
        let user = token.expose().strip_prefix("old:").and_then(|user| UserId::parse(user).ok());
        let mut users = self.users();
        let Some(known) = user.and_then(|user| users.get_mut(&user)) else { return Ok(Revoked::AlreadyGone) };
        known.has_surplus = false;
        Ok(Revoked::Done)
    }

    async fn identify(&self, _: &AccessToken) -> Result<UserId, ProviderError> {
        Err(ProviderError::Refused(anyhow::anyhow!("nobody asks")))
    }

    async fn traits(&self, _: &UserId) -> Result<UserTraits, ProviderError> {
        Ok(UserTraits::default())
    }
}
