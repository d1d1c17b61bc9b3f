//! Users seen: of whom an event was ever accepted, or who were imported. The sweep looks at them again and again.
//!
//! Unlike decisions they are not only evidence: a user whose events were lost is found by this list alone. So an event
//! is settled only when its user is in it, and a damaged file gives up its users to the one that replaces it.

mod cache;
mod store;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::Connection;
use tokio::time::timeout;

pub(super) use self::cache::SeenCache;
pub(super) use self::store::{SCHEMA, adjust_times, carry_over};
use super::writer::{Answer, Reply, after_commit};
use super::{LedgerError, SqliteLedger};
use crate::clock::Clock;
use crate::model::{TenantId, UserId};
use crate::sqlite;

/// A user who is seen again this soon after the disk was told is not written again.
pub(super) const SEEN_PRECISION_MS: i64 = 20 * 60_000;

/// How long a reader of all users may take. A million of them take less than a second.
const READ_TIMEOUT: Duration = Duration::from_mins(1);

/// How a user came to be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// An event of theirs is worked on: they are there now, and looked at now.
    Event,
    /// A look found that they logged in at this time, whether or not an event told of it.
    Listed(Timestamp),
}

/// Where a user is known from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Event,
    Import,
}

impl Source {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Import => "import",
        }
    }
}

/// A user as the ledger knows them; times in milliseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownUser {
    pub user: UserId,
    /// To within 20 minutes.
    pub seen_at_ms: i64,
    /// When they were last looked at, or put into the queue for a look; 0: never.
    pub asked_at_ms: i64,
    pub source: Source,
}

/// What became of an import.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    pub new: u64,
    pub known: u64,
}

/// How many users of a tenant are known, and since when one waits for a look at the longest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UserCount {
    pub users: u64,
    pub oldest_asked_at_ms: Option<i64>,
}

/// What the handles of a ledger and its thread share about users.
pub(super) struct Users {
    pub(super) cache: SeenCache,
    path: PathBuf,
}

impl Users {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { cache: SeenCache::new(), path }
    }
}

/// Whether the disk must be told: it is not known to have this, to within the precision.
pub(super) fn is_due(cache: &SeenCache, seen: &SeenUser) -> bool {
    let stored = cache.stored_ms(&seen.tenant, &seen.user);
    stored.is_none_or(|stored| seen.at_ms >= stored.saturating_add(SEEN_PRECISION_MS))
}

/// A user seen here or, as a record, elsewhere.
pub(super) struct SeenUser {
    pub(super) tenant: TenantId,
    pub(super) user: UserId,
    pub(super) at_ms: i64,
    /// Found in a list, not told of by an event.
    pub(super) listed: bool,
}

impl SeenUser {
    pub(super) fn of(tenant: &TenantId, user: &UserId, seen: Seen, clock: Clock) -> Self {
        let now_ms = clock.now_ms();
        let (at_ms, listed) = match seen {
            Seen::Event => (now_ms, false),
            Seen::Listed(at) => (at.as_millisecond().min(now_ms), true),
        };
        Self { tenant: tenant.clone(), user: user.clone(), at_ms, listed }
    }

    /// No time that another machine's clock tells is in our future.
    pub(super) fn store(&self, db: &Connection, now_ms: i64) -> rusqlite::Result<()> {
        let at_ms = self.at_ms.min(now_ms);
        if self.listed {
            store::listed(db, &self.tenant, &self.user, at_ms)
        } else {
            store::seen(db, &self.tenant, &self.user, at_ms)
        }
    }
}

/// What the ledger's thread does with users.
pub(super) enum Request {
    Seen {
        seen: SeenUser,
        reply: Reply<()>,
    },
    Import {
        tenant: TenantId,
        users: Vec<UserId>,
        reply: Reply<Imported>,
    },
    Due {
        tenant: TenantId,
        asked_before_ms: i64,
        limit: usize,
        reply: Reply<Vec<KnownUser>>,
    },
    Page {
        tenant: TenantId,
        after: String,
        limit: usize,
        reply: Reply<Vec<KnownUser>>,
    },
    Asked {
        tenant: TenantId,
        asked: Vec<UserId>,
        forget: Vec<UserId>,
        reply: Reply<()>,
    },
    /// Reads them all, so that damage is found by the one who repairs it.
    Scan {
        reply: Reply<()>,
    },
}

impl Request {
    pub(super) fn apply(
        self,
        db: &Connection,
        now_ms: i64,
        users: &Arc<Users>,
        failed: &mut Option<rusqlite::Error>,
    ) -> Answer {
        match self {
            Self::Seen { seen, reply } => {
                let stored = seen.store(db, now_ms);
                let is_stored = stored.is_ok();
                let answer = after_commit(stored, reply, failed);
                let users = Arc::clone(users);
                // Here and not where it was asked, so that it cannot come after a new file has made it untrue.
                Box::new(move |failure| {
                    if is_stored && failure.is_none() {
                        users.cache.note(&seen.tenant, &seen.user, seen.at_ms.min(now_ms));
                    }
                    answer(failure);
                })
            }
            Self::Import { tenant, users, reply } => {
                let count = users.len() as u64;
                let new = store::import(db, &tenant, &users, now_ms);
                let imported = new.map(|new| Imported { new, known: count.saturating_sub(new) });
                after_commit(imported, reply, failed)
            }
            Self::Due { tenant, asked_before_ms, limit, reply } => {
                after_commit(store::due(db, &tenant, asked_before_ms, limit), reply, failed)
            }
            Self::Page { tenant, after, limit, reply } => {
                after_commit(store::page(db, &tenant, &after, limit), reply, failed)
            }
            Self::Asked { tenant, asked, forget, reply } => {
                let marked = store::asked(db, &tenant, &asked, now_ms)
                    .and_then(|()| forget.iter().try_for_each(|user| store::forget(db, &tenant, user).map(drop)));
                for user in &forget {
                    users.cache.forget(&tenant, user);
                }
                after_commit(marked, reply, failed)
            }
            Self::Scan { reply } => after_commit(adjust_times(db, now_ms), reply, failed),
        }
    }
}

impl SqliteLedger {
    /// Returns only when the disk has it, which as a rule it has from a login not long ago.
    pub(super) async fn store_seen(&self, tenant: &TenantId, user: &UserId, seen: Seen) -> Result<(), LedgerError> {
        let seen = SeenUser::of(tenant, user, seen, self.clock);
        if !is_due(&self.users.cache, &seen) {
            return Ok(());
        }
        self.ask_users(|reply| Request::Seen { seen, reply }).await
    }

    /// Takes in users who were there before us, as seen now. They are looked at before all others.
    pub async fn import_users(&self, tenant: &TenantId, users: Vec<UserId>) -> Result<Imported, LedgerError> {
        let tenant = tenant.clone();
        self.ask_users(|reply| Request::Import { tenant, users, reply }).await
    }

    /// Users last asked about before this time, longest ago first.
    pub async fn users_due(
        &self,
        tenant: &TenantId,
        asked_before_ms: i64,
        limit: usize,
    ) -> Result<Vec<KnownUser>, LedgerError> {
        let tenant = tenant.clone();
        self.ask_users(|reply| Request::Due { tenant, asked_before_ms, limit, reply }).await
    }

    /// A page of all users in the order of their ids, from the first id above `after`.
    pub async fn users_page(
        &self,
        tenant: &TenantId,
        after: &str,
        limit: usize,
    ) -> Result<Vec<KnownUser>, LedgerError> {
        let (tenant, after) = (tenant.clone(), after.to_owned());
        self.ask_users(|reply| Request::Page { tenant, after, limit, reply }).await
    }

    /// Some were put into the queue for a look now, others are forgotten.
    pub async fn users_asked(
        &self,
        tenant: &TenantId,
        asked: Vec<UserId>,
        forget: Vec<UserId>,
    ) -> Result<(), LedgerError> {
        let tenant = tenant.clone();
        self.ask_users(|reply| Request::Asked { tenant, asked, forget, reply }).await
    }

    /// What is known of one user.
    pub async fn known_user(&self, tenant: &TenantId, user: &UserId) -> Result<Option<KnownUser>, LedgerError> {
        let (tenant, user) = (tenant.clone(), user.clone());
        self.read_beside(move |db| store::known(db, &tenant, &user)).await
    }

    pub async fn users_count(&self, tenant: &TenantId) -> Result<UserCount, LedgerError> {
        let tenant = tenant.clone();
        self.read_beside(move |db| count(db, &tenant)).await
    }

    /// The same, and each time up to `up_to_ms` at which a user was last asked about, in order, taken up by `add`.
    pub async fn users_asked_up_to<A: Send + 'static>(
        &self,
        tenant: &TenantId,
        up_to_ms: i64,
        mut all: A,
        add: fn(&mut A, i64),
    ) -> Result<(UserCount, A), LedgerError> {
        let tenant = tenant.clone();
        self.read_beside(move |db| {
            let count = count(db, &tenant)?;
            store::each_asked(db, &tenant, up_to_ms, |asked_at_ms| add(&mut all, asked_at_ms))?;
            Ok((count, all))
        })
        .await
    }

    /// Reads with a connection of its own, so that nobody waits for what takes long.
    pub(in crate::ledger) async fn read_beside<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let path = self.users.path.clone();
        let reading = tokio::task::spawn_blocking(move || store::read_only(&path).and_then(|db| read(&db)));
        let Ok(read) = timeout(READ_TIMEOUT, reading).await else {
            return Err(LedgerError(anyhow::anyhow!("the disk did not answer within {READ_TIMEOUT:?}")));
        };
        match read {
            Ok(Ok(read)) => Ok(read),
            Ok(Err(error)) => {
                let error = anyhow::Error::new(error);
                if sqlite::is_damage(&error) {
                    self.ask_users(|reply| Request::Scan { reply }).await?;
                }
                Err(LedgerError(error))
            }
            Err(ended) => Err(LedgerError(ended.into())),
        }
    }
}

fn count(db: &Connection, tenant: &TenantId) -> rusqlite::Result<UserCount> {
    Ok(UserCount { users: store::count(db, tenant)?, oldest_asked_at_ms: store::oldest(db, tenant)? })
}
