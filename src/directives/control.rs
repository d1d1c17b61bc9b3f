//! The process that decides: it makes changes durable, puts them in force, grants the budget, and tells the others.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use super::budget::{GRANT_LIFE, Window};
use super::entry::{BadEntry, Entry, What};
use super::live::LiveDirectives;
use super::store::{Change, Kept, Store};
use super::told::{Asked, Told};
use super::{Granted, Granter, NoLeave, Unspent};
use crate::clock::Clock;
use crate::config::{Revocations, WrittenPolicies};
use crate::model::{TenantId, UserId};
use crate::telemetry::{Metrics, labels};

/// Who makes the changes that no person makes.
pub const OURSELVES: &str = "soloist";
/// After how long every worker that can be told of a change has been.
const ALL_HAVE_HEARD: Duration = Duration::from_secs(35);
/// Entries that there may be: a snapshot of them is one message.
const ENTRIES_MAX: usize = 20_000;
/// Minutes of grants that are kept on disk, more than a window counts.
const MINUTES_ON_DISK: i64 = 120;

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    #[error("{0}")]
    Bad(BadEntry),
    #[error("the directives cannot be written")]
    Unavailable(#[source] anyhow::Error),
}

/// Users of a tenant, and when they are to be looked at.
struct LookLater {
    at: Instant,
    tenant: TenantId,
    users: Vec<UserId>,
}

/// Decides what all workers must obey.
pub struct Control {
    live: Arc<LiveDirectives>,
    store: Store,
    budget: Revocations,
    windows: Mutex<HashMap<TenantId, Window>>,
    /// Users who are to be looked at once all workers know what has changed.
    looks: std::sync::Mutex<Vec<LookLater>>,
    /// The number of the last change.
    version: watch::Sender<i64>,
    clock: Clock,
    metrics: Metrics,
}

impl Control {
    /// Opens or makes `directives.db` in a folder.
    ///
    /// # Errors
    /// When it cannot be read: without its exemptions nobody may be ended.
    pub fn open(
        data_dir: &Path,
        written: WrittenPolicies,
        budget: Revocations,
        clock: Clock,
        metrics: Metrics,
    ) -> anyhow::Result<Self> {
        let (store, entries) = Store::open(data_dir)?;
        let mut granted: HashMap<TenantId, Vec<(i64, u32)>> = HashMap::new();
        for (tenant, minute, amount) in store.grants()? {
            granted.entry(tenant).or_default().push((minute, amount));
        }
        let mut windows = HashMap::new();
        if let Revocations::AtMost(limit) = budget {
            for (tenant, granted) in granted {
                windows.insert(tenant, Window::new(limit, granted, minute(clock)));
            }
        }
        let version = watch::Sender::new(store.last_change()?);
        let live = Arc::new(LiveDirectives::own(written, entries, clock)?);
        let control = Self {
            live,
            store,
            budget,
            windows: Mutex::new(windows),
            looks: std::sync::Mutex::default(),
            version,
            clock,
            metrics,
        };
        control.show();
        Ok(control)
    }

    pub fn live(&self) -> Arc<LiveDirectives> {
        Arc::clone(&self.live)
    }

    pub fn entries(&self) -> Vec<Entry> {
        self.live.entries()
    }

    /// The number of the last change, and the next ones as they come.
    pub fn versions(&self) -> watch::Receiver<i64> {
        self.version.subscribe()
    }

    /// Makes an entry durable and puts it in force.
    ///
    /// # Errors
    /// When something is wrong with it, or it cannot be written; then nothing has changed.
    pub async fn put(&self, entry: Entry) -> Result<(), ChangeError> {
        let (live, checked) = (Arc::clone(&self.live), entry.clone());
        let is_due = move || {
            if live.len() >= ENTRIES_MAX && live.entry(&checked.key()).is_none() {
                return Err(BadEntry(format!("there are {ENTRIES_MAX} directives, and there may be no more")));
            }
            live.check(&checked).map(|()| true)
        };
        let (key, owner, reason) = (entry.key(), entry.owner.clone(), entry.reason.clone());
        let change = Change { key, at: self.clock.now(), owner, reason, entry: Some(entry) };
        self.change(change, is_due).await.map(drop)
    }

    /// Takes an entry out of force, durably; `None` where there was none of that name.
    ///
    /// # Errors
    /// When it cannot be written; then it stays.
    pub async fn remove(&self, key: &str, owner: &str, reason: &str) -> Result<Option<Entry>, ChangeError> {
        let Some(entry) = self.live.entry(key) else { return Ok(None) };
        let removed = self.remove_this(&entry, owner, reason).await?;
        Ok(removed.then_some(entry))
    }

    /// The same for an entry as it was seen: one that took its place meanwhile stays.
    async fn remove_this(&self, entry: &Entry, owner: &str, reason: &str) -> Result<bool, ChangeError> {
        let (live, seen) = (Arc::clone(&self.live), entry.clone());
        let is_due = move || Ok(live.entry(&seen.key()).as_ref() == Some(&seen));
        let (owner, reason) = (owner.to_owned(), reason.to_owned());
        let change = Change { key: entry.key(), at: self.clock.now(), owner, reason, entry: None };
        self.change(change, is_due).await
    }

    async fn change(
        &self,
        change: Change,
        is_due: impl FnOnce() -> Result<bool, BadEntry> + Send + 'static,
    ) -> Result<bool, ChangeError> {
        let (live, version) = (Arc::clone(&self.live), self.version.clone());
        let apply = move |change: Change, number| {
            let Change { key, owner, reason, entry, .. } = change;
            let done = if entry.is_some() { "holds" } else { "holds no longer" };
            tracing::info!(directive = key, owner, "directive `{key}` {done}, by {owner}: {reason}");
            match entry {
                Some(entry) => live.put(entry),
                None => drop(live.remove(&key)),
            }
            version.send_replace(number);
        };
        let changed = self.store.change(change, is_due, apply).await.map_err(ChangeError::Unavailable)?;
        self.show();
        changed.map_err(ChangeError::Bad)
    }

    /// Puts on record, durably, who does something that changes no directive, and why.
    ///
    /// # Errors
    /// When it cannot be kept; then it is not to be done.
    pub async fn note(&self, act: String, owner: String, reason: String) -> Result<(), ChangeError> {
        Entry::check_word(&owner, &reason).map_err(ChangeError::Bad)?;
        let change = Change { key: act, at: self.clock.now(), owner, reason, entry: None };
        self.store.note(change).await.map_err(ChangeError::Unavailable)
    }

    /// Who changed what, newest first, from the one before `before`.
    ///
    /// # Errors
    /// When the disk does not answer.
    pub async fn changes(&self, before: Option<i64>, limit: usize) -> anyhow::Result<Vec<Kept>> {
        self.store.changes(before.unwrap_or(i64::MAX), limit).await
    }

    /// Lets a tenant whose budget was used up go on, with a new window. `None` where it was not stopped.
    ///
    /// # Errors
    /// When it cannot be written; then it stays stopped.
    pub async fn resume(&self, tenant: &TenantId, owner: &str, reason: &str) -> Result<Option<Entry>, ChangeError> {
        let mut windows = self.windows.lock().await;
        let brake = self.remove(&What::Brake.key(tenant), owner, reason).await?;
        // Of two who resume it at once the second finds a new window, which is not to begin anew.
        if brake.is_some() {
            self.store.forget_grants(tenant).await.map_err(ChangeError::Unavailable)?;
            windows.remove(tenant);
        }
        Ok(brake)
    }

    /// Marks a user whose devices end each other for ever; for how long.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn contend(&self, tenant: &TenantId, user: &UserId, for_: Duration) -> Result<(), ChangeError> {
        let now = self.clock.now();
        let until = SignedDuration::try_from(for_).ok().and_then(|for_| now.checked_add(for_).ok());
        self.put(Entry {
            tenant: tenant.clone(),
            what: What::Contended { user: user.clone() },
            owner: OURSELVES.to_owned(),
            reason: "the user's devices log in again whenever they are ended".to_owned(),
            made_at: now,
            expires: Some(until.unwrap_or(Timestamp::MAX)),
        })
        .await
    }

    /// Has users looked at once more when every worker has heard what holds now. A restart forgets it: then the sweep
    /// finds them.
    pub fn look_later(&self, tenant: &TenantId, users: Vec<UserId>) {
        if !users.is_empty() {
            let at = Instant::now() + ALL_HAVE_HEARD;
            self.looks().push(LookLater { at, tenant: tenant.clone(), users });
        }
    }

    /// The users whose time to be looked at has come.
    pub fn due_looks(&self) -> Vec<(TenantId, Vec<UserId>)> {
        let mut looks = self.looks();
        let (due, later) = std::mem::take(&mut *looks).into_iter().partition(|look| look.at <= Instant::now());
        *looks = later;
        let due: Vec<LookLater> = due;
        due.into_iter().map(|look| (look.tenant, look.users)).collect()
    }

    fn looks(&self) -> std::sync::MutexGuard<'_, Vec<LookLater>> {
        self.looks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes what has expired, and returns it. What cannot be removed now is tried again.
    pub async fn remove_expired(&self) -> Vec<Entry> {
        let now = self.clock.now();
        let mut removed = Vec::new();
        for entry in self.live.expired(now) {
            match self.remove_this(&entry, OURSELVES, "it has expired").await {
                Ok(true) => removed.push(entry),
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!("an expired directive stays on disk: {:#}", anyhow::Error::new(error));
                    break;
                }
            }
        }
        removed
    }

    /// All entries in force, for those who obey them.
    pub fn snapshot(&self) -> Vec<u8> {
        let entries = self.live.entries().iter().map(Entry::to_json).collect();
        Told::Snapshot { version: *self.version.borrow(), entries }.to_bytes()
    }

    /// The answer to what a worker asks; `None` for what is no question.
    pub async fn answer(&self, asked: &[u8]) -> Option<Vec<u8>> {
        let Asked::Grant { from, ask, tenant, unspent, of_minute } = Asked::read(asked)? else {
            return Some(self.snapshot());
        };
        let tenant = TenantId::parse(&tenant).ok().filter(|tenant| self.live.tenants().contains(tenant))?;
        let granted = self.grant(&tenant, Unspent { amount: unspent, of_minute }).await;
        let (amount, minute) = match granted {
            Ok(granted) => (Some(granted.amount), granted.minute),
            Err(NoLeave::Exhausted) => (None, 0),
            // Whoever waits asks again.
            Err(NoLeave::Unreachable(_)) => return None,
        };
        Some(Told::Granted { to: from, ask, amount, minute }.to_bytes())
    }

    /// How many sessions of a tenant were granted to be ended within the hour.
    pub async fn granted(&self, tenant: &TenantId) -> u32 {
        let minute = minute(self.clock);
        self.windows.lock().await.get_mut(tenant).map_or(0, |window| window.used(minute))
    }

    /// When a tenant was stopped because its budget was used up, if it is.
    pub fn stopped_at(&self, tenant: &TenantId) -> Option<Timestamp> {
        self.live.entry(&What::Brake.key(tenant)).map(|entry| entry.made_at)
    }

    /// Whether a tenant is only observed because its budget is used up.
    pub fn is_stopped(&self, tenant: &TenantId) -> bool {
        self.stopped_at(tenant).is_some()
    }

    /// Whether the guard has found this user.
    pub fn is_contended(&self, tenant: &TenantId, user: &UserId) -> bool {
        self.live.entry(&What::Contended { user: user.clone() }.key(tenant)).is_some()
    }

    /// How many sessions of each tenant may be ended within an hour; `None`: as many as there are.
    pub fn limit(&self) -> Option<u32> {
        match self.budget {
            Revocations::AtMost(limit) => Some(limit.get()),
            Revocations::Unlimited => None,
        }
    }

    fn show(&self) {
        let mut contended: HashMap<TenantId, i64> = HashMap::new();
        let mut braked: HashMap<TenantId, i64> = HashMap::new();
        for entry in self.live.entries() {
            let counts = match entry.what {
                What::Contended { .. } => &mut contended,
                What::Brake => &mut braked,
                _ => continue,
            };
            *counts.entry(entry.tenant).or_default() += 1;
        }
        for tenant in self.live.tenants() {
            let of = labels([("tenant", tenant.as_str())]);
            let count = |counts: &HashMap<TenantId, i64>| counts.get(&tenant).copied().unwrap_or(0);
            self.metrics.contended_users.get_or_create(&of).set(count(&contended));
            self.metrics.budget_breached.get_or_create(&of).set(count(&braked));
        }
    }

    /// The budget is used up: from now on the tenant is only observed, until a person resumes it.
    async fn stop(&self, tenant: &TenantId) -> Result<(), NoLeave> {
        if self.is_stopped(tenant) {
            return Ok(());
        }
        self.put(brake(tenant, self.clock.now())).await.map_err(|error| NoLeave::Unreachable(error.into()))?;
        tracing::error!(
            alarm = "budget",
            tenant = %tenant,
            "the revocation budget of tenant `{tenant}` is used up: it is only observed from now on. See `soloist why` \
             and soloist_sessions_revoked_total whether that was right, then run `soloist resume`"
        );
        Ok(())
    }
}

#[async_trait]
impl Granter for Control {
    async fn grant(&self, tenant: &TenantId, unspent: Unspent) -> Result<Granted, NoLeave> {
        let Revocations::AtMost(limit) = self.budget else {
            return Ok(Granted { amount: u32::MAX, minute: 0, valid_for: GRANT_LIFE });
        };
        let minute = minute(self.clock);
        let mut windows = self.windows.lock().await;
        let window = windows.entry(tenant.clone()).or_insert_with(|| Window::new(limit, [], minute));
        let returned = window.take_back(unspent).filter(|_| unspent.amount > 0);
        let amount = if self.is_stopped(tenant) { 0 } else { window.grant(minute) };
        if amount == 0 {
            self.stop(tenant).await?;
            return Err(NoLeave::Exhausted);
        }
        let counts: Vec<(i64, u32)> = returned.into_iter().chain([(minute, window.at(minute))]).collect();
        let used = window.used(minute);
        let durable = self.store.grant(tenant, counts, minute - MINUTES_ON_DISK).await;
        if let Err(error) = durable {
            // It may be on disk all the same, so it stays granted.
            return Err(NoLeave::Unreachable(error));
        }
        self.metrics.budget_granted.get_or_create(&labels([("tenant", tenant.as_str())])).set(i64::from(used));
        Ok(Granted { amount, minute, valid_for: GRANT_LIFE })
    }
}

fn brake(tenant: &TenantId, made_at: Timestamp) -> Entry {
    Entry {
        tenant: tenant.clone(),
        what: What::Brake,
        owner: OURSELVES.to_owned(),
        reason: "the revocation budget is used up".to_owned(),
        made_at,
        expires: None,
    }
}

fn minute(clock: Clock) -> i64 {
    clock.now_ms().div_euclid(60_000)
}
