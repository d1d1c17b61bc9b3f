//! A LoginRadius emulator with state: users, sessions, tokens, webhooks out, faults on demand.
//!
//! It is written from the vendor's documents alone and shares no type with our own client of the vendor, so that one
//! mistake cannot pass twice. It remembers every session and every end of one, and judges by itself whether a revocation
//! was wrong (see `judge`).

mod calls;
mod clock;
mod config;
mod control;
mod device;
mod faults;
mod http;
mod judge;
mod line;
mod refusal;
mod report;
mod session;
mod user;
mod webhooks;
mod world;

use std::{
    future::Future,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Context;
use axum::Router;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;

use self::{calls::Calls, clock::Clock, faults::Dice, line::Peer, session::Session, webhooks::Webhooks, world::World};
pub use self::{
    config::{
        DEFAULT_LISTEN, DeadToken, EmptyList, ExpiredRows, LoginDate, RefreshRow, RefreshTime, RowCase, RowOrder,
        SandboxConfig, TokenForm, UnknownUser, WebhookForm,
    },
    device::device_names,
    faults::{Faults, Outage},
    report::{Keep, Report, UserReport, Wrong},
    session::Credentials,
    user::Traits,
    webhooks::{WebhookCounts, WebhookFate},
    world::LoginError,
};

/// How long `stop` waits for open connections.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// A login as the one who made it sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoginMade {
    /// The account id.
    pub uid: String,
    /// The fake credential of this session.
    pub access_token: String,
    /// Lower-case hex of the first 16 bytes of the token's SHA-256.
    pub session: String,
    /// The login instant, before a listing cuts digits off.
    pub login_at: Timestamp,
    /// The name of the device.
    pub device: String,
    /// What became of the webhook.
    pub webhook: WebhookFate,
}

/// A session as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionView {
    /// Lower-case hex of the first 16 bytes of the token's SHA-256.
    pub session: String,
    /// The fake credential.
    pub access_token: String,
    /// The name of the device.
    pub device: String,
    /// The login instant, before a listing cuts digits off.
    pub login_at: Timestamp,
    /// When its token dies of age.
    pub expires_at: Timestamp,
    /// When it ended, if it did.
    pub ended_at: Option<Timestamp>,
    /// `live`, `revoked`, `logged_out`, `refreshed` or `expired`.
    pub state: String,
}

/// What all handlers share. No lock is held across an await.
#[derive(Debug)]
struct Shared {
    config: SandboxConfig,
    clock: Clock,
    world: Mutex<World>,
    dice: Mutex<Dice>,
    calls: Mutex<Calls>,
    webhooks: Arc<Webhooks>,
    stop: CancellationToken,
}

impl Shared {
    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn dice(&self) -> MutexGuard<'_, Dice> {
        self.dice.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn login(&self, uid: &str, device: Option<&str>, webhook: bool, now: Timestamp) -> Result<LoginMade, LoginError> {
        let (session, user, hook_id) = {
            let mut world = self.world();
            let (session, user) = world.login(uid, device, now)?;
            (session, user, world.new_uuid())
        };
        let fate = if webhook {
            let fault = self.dice().webhook();
            self.webhooks.send(hook_id, fault, |hook_id| user.login_payload(self.config.webhook_form, hook_id, now))
        } else {
            WebhookFate::NotSent
        };
        Ok(login_made(&session, fate))
    }

    fn sessions(&self, uid: &str, ended: bool, now: Timestamp) -> Vec<SessionView> {
        let world = self.world();
        let Some(user) = world.users.get(uid) else { return Vec::new() };
        let wanted = world.sessions_of(user).filter(|session| ended || session.is_live(now));
        wanted.map(|session| session_view(session, now)).collect()
    }

    fn set_faults(&self, faults: Faults) {
        *self.dice() = Dice::new(faults);
    }

    fn report(&self, limit: usize, keep: Keep) -> Report {
        let mut report = self.world().report(limit, keep, self.clock.now());
        let calls = self.calls();
        report.calls = calls.by_operation.iter().map(|(&name, &count)| (name.to_owned(), count)).collect();
        report.answers.clone_from(&calls.by_answer);
        report.most_calls_in_a_second = calls.most_in_a_second;
        drop(calls);
        report.webhooks = self.webhooks.counts();
        report
    }

    fn reset(&self) {
        *self.world() = World::new(self.config.clone());
        *self.calls() = Calls::default();
        self.set_faults(self.config.faults.clone());
        self.webhooks.reset();
    }
}

fn login_made(session: &Session, webhook: WebhookFate) -> LoginMade {
    LoginMade {
        uid: session.uid.clone(),
        access_token: session.access_token.clone(),
        session: session.id(),
        login_at: session.login_at,
        device: session.device.name.to_owned(),
        webhook,
    }
}

fn session_view(session: &Session, now: Timestamp) -> SessionView {
    SessionView {
        session: session.id(),
        access_token: session.access_token.clone(),
        device: session.device.name.to_owned(),
        login_at: session.login_at,
        expires_at: session.expires_at,
        ended_at: session.ended_at(now),
        state: session.state(now).to_owned(),
    }
}

/// A running sandbox. Dropping it ends it at once; [`Sandbox::stop`] ends it in order.
#[derive(Debug)]
pub struct Sandbox {
    shared: Arc<Shared>,
    addr: SocketAddr,
    tasks: JoinSet<anyhow::Result<()>>,
}

impl Sandbox {
    /// Binds the address and begins to answer.
    pub async fn start(config: SandboxConfig) -> anyhow::Result<Self> {
        let listen = config.listen;
        let listener =
            TcpListener::bind(listen).await.with_context(|| format!("the sandbox cannot listen on {listen}"))?;
        let addr = listener.local_addr().context("the sandbox's listener has no address")?;
        let secret = config.webhook_secret.clone().unwrap_or_else(|| config.api_secret.clone());
        let (webhooks, outgoing) = Webhooks::new(secret, config.webhook_queue_max);
        webhooks.set_target(config.webhook.as_deref())?;
        let shared = Arc::new(Shared {
            clock: Clock::new(config.starts_at),
            world: Mutex::new(World::new(config.clone())),
            dice: Mutex::new(Dice::new(config.faults.clone())),
            calls: Mutex::default(),
            webhooks: Arc::new(webhooks),
            stop: CancellationToken::new(),
            config,
        });
        let mut tasks = JoinSet::new();
        let (webhooks, stop) = (Arc::clone(&shared.webhooks), shared.stop.clone());
        let connections = shared.config.webhook_connections;
        tasks.spawn(async move {
            webhooks.run(outgoing, connections, stop).await;
            Ok(())
        });
        let app = router(Arc::clone(&shared)).into_make_service_with_connect_info::<Peer>();
        let stop = shared.stop.clone();
        tasks.spawn(async move {
            let server = axum::serve(line::Lines(listener), app);
            server.with_graceful_shutdown(stop.cancelled_owned()).await.context("the sandbox's server failed")
        });
        Ok(Self { shared, addr, tasks })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The same as a URL without a path, to be used as the vendor's API host.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// The present of this world.
    pub fn now(&self) -> Timestamp {
        self.shared.clock.now()
    }

    /// Moves this world's clock on.
    pub fn advance(&self, by: Duration) {
        self.shared.clock.advance(by);
    }

    /// Logs a user in, made if there is none, and queues the webhook. `None`: any device.
    pub fn login(&self, uid: &str, device: Option<&str>) -> Result<LoginMade, LoginError> {
        self.shared.login(uid, device, true, self.now())
    }

    /// Logs a user in so that no webhook tells of it, as some of the vendor's login flows do.
    pub fn login_in_silence(&self, uid: &str, device: Option<&str>) -> Result<LoginMade, LoginError> {
        self.shared.login(uid, device, false, self.now())
    }

    /// Logs a user in several times at the very same instant.
    pub fn login_at_once(&self, uid: &str, devices: &[&str]) -> Result<Vec<LoginMade>, LoginError> {
        let now = self.now();
        devices.iter().map(|device| self.shared.login(uid, Some(device), true, now)).collect()
    }

    /// The user ends a session of his. False: it was not alive.
    pub fn logout(&self, access_token: &str) -> bool {
        self.shared.world().logout(access_token, self.now())
    }

    /// Exchanges a token, as an app would. `None`: that is no longer possible.
    pub fn refresh(&self, access_token: &str) -> Option<LoginMade> {
        let refreshed = self.shared.world().refresh(access_token, self.now()).ok()?;
        Some(login_made(&refreshed, WebhookFate::NotSent))
    }

    /// Revokes a session the way the vendor's call does, past HTTP and faults. False: it was not alive.
    pub fn invalidate(&self, access_token: &str, prevent_refresh: bool) -> bool {
        let now = self.now();
        let mut world = self.shared.world();
        let live = world.live(access_token, now).is_ok();
        // A token that was dead before is refused or not, as configured; either way it was not alive.
        let _refused = world.invalidate(access_token, prevent_refresh, Credentials::InProcess, now).is_err();
        live
    }

    /// The live sessions of a user in the order they were made.
    pub fn sessions(&self, uid: &str) -> Vec<SessionView> {
        self.shared.sessions(uid, false, self.now())
    }

    /// All sessions the user ever had, in the order they were made.
    pub fn sessions_ever(&self, uid: &str) -> Vec<SessionView> {
        self.shared.sessions(uid, true, self.now())
    }

    /// Sets roles, custom fields and the like of a user, made if there is none.
    pub fn set_traits(&self, uid: &str, traits: Traits) -> Result<(), LoginError> {
        self.shared.world().set_traits(uid, traits, self.now())
    }

    /// The profile id of a user, which is not his uid.
    pub fn profile_id(&self, uid: &str) -> Option<String> {
        self.shared.world().users.get(uid).map(|user| user.profile_id.clone())
    }

    /// Replaces all faults.
    pub fn set_faults(&self, faults: Faults) {
        self.shared.set_faults(faults);
    }

    /// Sends webhooks there from now on; `None`: nowhere.
    pub fn set_webhook_url(&self, url: Option<&str>) -> anyhow::Result<()> {
        self.shared.webhooks.set_target(url)
    }

    /// Returns when every webhook so far has its outcome.
    pub async fn webhooks_settled(&self) {
        self.shared.webhooks.settled().await;
    }

    /// What happened so far, measured against a limit of newest sessions per user.
    pub fn report(&self, limit: usize) -> Report {
        self.shared.report(limit, Keep::Newest)
    }

    /// The same for a rule that keeps the newest or the oldest.
    pub fn report_keeping(&self, limit: usize, keep: Keep) -> Report {
        self.shared.report(limit, keep)
    }

    /// Forgets all users, sessions and counts, and goes back to the faults of the start.
    pub fn reset(&self) {
        self.shared.reset();
    }

    /// Returns when a part of it ends by itself, which is always a failure.
    pub async fn failed(&mut self) -> anyhow::Error {
        match self.tasks.join_next().await {
            Some(Ok(Ok(()))) | None => anyhow::anyhow!("a part of the sandbox ended by itself"),
            Some(Ok(Err(error))) => error,
            Some(Err(error)) => anyhow::Error::new(error).context("a part of the sandbox failed"),
        }
    }

    /// Ends it: hanging calls are cut, waiting webhooks are dropped.
    pub async fn stop(mut self) {
        self.shared.stop.cancel();
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_TIMEOUT, ended).await.is_err() {
            tracing::debug!("the sandbox was stopped with connections still open");
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // Ends the connections too, which outlive the server's own task.
        self.shared.stop.cancel();
    }
}

fn router(shared: Arc<Shared>) -> Router {
    control::router().fallback(http::answer).with_state(shared)
}

/// Runs a sandbox until `shutdown` completes. Fails if it cannot start or ends by itself.
pub async fn run(config: SandboxConfig, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    let mut sandbox = Sandbox::start(config).await?;
    tracing::info!(sandbox.url = sandbox.url(), "sandbox listens on {}", sandbox.url());
    tokio::select! {
        () = shutdown => {
            sandbox.stop().await;
            Ok(())
        }
        error = sandbox.failed() => Err(error),
    }
}
