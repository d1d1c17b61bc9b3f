//! The brakes of a worker: its purse, and the guard that notices users whose devices end each other for ever.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::config::{GuardAction, GuardConfig};
use crate::directives::{Control, Eviction, PingPong, Purse};
use crate::model::{TenantId, UserId};

/// How long a worker holds a user whom the control process does not speak of.
const HOLD_ALONE_MAX: Duration = Duration::from_mins(2);

/// What holds enforcement back when something goes wrong.
#[derive(Clone)]
pub struct Brakes {
    pub purse: Arc<Purse>,
    pub guard: GuardConfig,
    /// Where contended users are made known, if it is in this process. The control process of others finds them itself.
    pub control: Option<Arc<Control>>,
}

impl Brakes {
    /// No budget, and nobody to make contended users known to.
    pub fn alone(guard: GuardConfig) -> Self {
        Self { purse: Arc::new(Purse::unlimited()), guard, control: None }
    }
}

/// Watches the evictions of one tenant.
pub(super) struct Guard {
    config: GuardConfig,
    control: Option<Arc<Control>>,
    evictions: Mutex<PingPong>,
    /// Until when evictions of a user pause here, before the control process says so to all.
    holds: Mutex<HashMap<UserId, Instant>>,
}

impl Guard {
    pub(super) fn new(brakes: &Brakes) -> Self {
        Self {
            config: brakes.guard,
            control: brakes.control.clone(),
            evictions: Mutex::new(PingPong::new(brakes.guard.evictions, brakes.guard.window)),
            holds: Mutex::default(),
        }
    }

    /// Whether evictions of this user pause; `is_contended` is what the directives say.
    pub(super) fn holds(&self, user: &UserId, is_contended: bool) -> bool {
        if is_contended {
            // From now on the directives say how long.
            self.release(user);
        }
        self.config.action == GuardAction::Hold && (is_contended || self.holds_here(user))
    }

    fn holds_here(&self, user: &UserId) -> bool {
        let mut holds = lock(&self.holds);
        let Some(until) = holds.get(user) else { return false };
        let holds_still = Instant::now() < *until;
        if !holds_still {
            holds.remove(user);
        }
        holds_still
    }

    /// Takes note of an eviction, and stops further ones where they have become a game of ping-pong.
    pub(super) async fn note(&self, tenant: &TenantId, user: &UserId, eviction: Eviction) {
        let is_contended = {
            let mut known = lock(&self.evictions);
            let at_ms = eviction.at_ms;
            known.note(user, eviction);
            let is_contended = known.is_contended(user, at_ms);
            if is_contended {
                known.release(user);
            }
            is_contended
        };
        if is_contended {
            self.contend(tenant, user).await;
        }
    }

    async fn contend(&self, tenant: &TenantId, user: &UserId) {
        let GuardConfig { evictions, window, action, hold_for } = self.config;
        let done = match action {
            GuardAction::Hold => "their evictions pause",
            GuardAction::Notify => "their evictions go on",
            GuardAction::Continue => {
                tracing::debug!(user.id = %user, "{evictions} evictions within {window:?} that alternate between devices");
                return;
            }
        };
        tracing::error!(
            alarm = "contended",
            tenant = %tenant,
            user.id = %user,
            "the devices of user `{user}` end each other for ever ({evictions} evictions within {window:?}): {done}. \
             An account that two people share shows so; see `soloist why {user}`"
        );
        if action == GuardAction::Hold {
            // Where another process decides, it says so within moments, and from then on it is the one that lets go.
            let here = if self.control.is_some() { hold_for } else { hold_for.min(HOLD_ALONE_MAX) };
            let mut holds = lock(&self.holds);
            holds.retain(|_, until| Instant::now() < *until);
            holds.insert(user.clone(), Instant::now() + here);
        }
        if let Some(control) = &self.control
            && let Err(error) = control.contend(tenant, user, hold_for).await
        {
            tracing::error!("the contended user is held here alone: {:#}", anyhow::Error::new(error));
        }
    }

    /// Since when evictions count at this moment.
    pub(super) fn window(&self) -> Duration {
        self.config.window
    }

    /// Takes note of an eviction from before this process began.
    pub(super) fn remember(&self, user: &UserId, eviction: Eviction) {
        lock(&self.evictions).note(user, eviction);
    }

    /// Lets a user go on at once.
    pub(super) fn release(&self, user: &UserId) {
        lock(&self.holds).remove(user);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
