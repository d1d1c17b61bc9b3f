//! The ports of a worker with a fault.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use soloist::directives::{Directive, Directives, Granted, Granter, NoLeave, Stale, Unspent};
use soloist::ledger::{Intent, IntentId, Ledger, LedgerError, Outcome, Seen};
use soloist::model::{AccessToken, Lane, LoginEvent, Reason, TenantId, TokenDigest, UserId, UserTraits, View};
use soloist::policy::written;
use soloist::provider::{ProviderError, Revoked, SessionProvider};
use soloist::queue::{Delivery, DeliveryTag, LaneStats, Next, Published, Queue, QueueError, Settlement, Subscription};
use tokio::task::JoinSet;

use super::hands::Life;
use super::mutants::Mutant;
use super::paused::wait;
use super::world::{owner, table, uid, user_of};

/// What a worker with a fault keeps and should not; it dies with the worker.
#[derive(Default)]
pub(crate) struct Memory {
    of: Mutex<HashMap<UserId, Kept>>,
    successors: Mutex<JoinSet<()>>,
}

#[derive(Default)]
struct Kept {
    event: Option<LoginEvent>,
    is_retry: bool,
    view: Option<View>,
    revoked: Vec<TokenDigest>,
    held: Vec<(DeliveryTag, Arc<dyn Subscription>)>,
}

impl Memory {
    fn with<T>(&self, user: &UserId, change: impl FnOnce(&mut Kept) -> T) -> T {
        change(self.of.lock().unwrap().entry(user.clone()).or_default())
    }
}

/// Provider, directives and ledger.
pub(crate) struct Liar {
    pub(crate) mutant: Mutant,
    pub(crate) life: Life,
    pub(crate) provider: Arc<dyn SessionProvider>,
    pub(crate) directives: Arc<dyn Directives>,
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) memory: Arc<Memory>,
}

impl Liar {
    /// The list as a program with the fault would take it.
    fn distorted(&self, user: &UserId, mut view: View) -> View {
        let far = "2100-01-01T00:00:00Z".parse::<Timestamp>().unwrap();
        let long_ago = "2000-01-01T00:00:00Z".parse::<Timestamp>().unwrap();
        let event = self.memory.with(user, |kept| kept.event.clone());
        let told = event.and_then(|event| event.login_at.or(event.at));
        for (place, session) in view.sessions.iter_mut().enumerate() {
            let second = |at: Option<Timestamp>| at.map(Timestamp::as_second);
            match self.mutant {
                Mutant::VictimsFromEvent if told.is_some() && second(session.login_at) == second(told) => {
                    session.login_at = Some(far);
                }
                Mutant::OrderByActivity if session.login_at.is_some() => {
                    let state = self.life.world.lock();
                    let same = state.users[user_of(user)].sessions.iter().find(|s| s.row.digest == session.digest);
                    session.login_at = same.map(|s| s.last_used);
                }
                Mutant::OrderByListing if session.login_at.is_some() => {
                    let seconds = SignedDuration::from_secs(i64::try_from(place).unwrap());
                    session.login_at = Some(long_ago + seconds);
                }
                Mutant::UnknownTimeIsOldest => session.login_at = session.login_at.or(Some(long_ago)),
                Mutant::UnknownDevicesAreOne => {
                    let device = &mut session.device;
                    for field in [&mut device.device_type, &mut device.os, &mut device.browser] {
                        *field = field.take().map(|word| word.replace("unknown", "none"));
                    }
                }
                _ => {}
            }
        }
        view.complete |= self.mutant == Mutant::IncompleteIsComplete;
        view
    }

    /// A list that was not asked for, if this program would use one.
    fn remembered(&self, user: &UserId) -> Option<View> {
        self.memory.with(user, |kept| match self.mutant {
            Mutant::ReplayedDecision if kept.is_retry => kept.view.clone(),
            Mutant::NoSecondListing if !kept.revoked.is_empty() => {
                let mut view = kept.view.clone()?;
                view.sessions.retain(|session| !kept.revoked.contains(&session.digest));
                Some(view)
            }
            _ => None,
        })
    }

    /// Ends those, too, that logged in at the same instant.
    async fn revoke_ties(&self, token: &AccessToken) -> Result<(), ProviderError> {
        let ties: Vec<String> = {
            let state = self.life.world.lock();
            let sessions = &state.users[owner(token)].sessions;
            let at = sessions.iter().find(|s| s.token == token.expose()).and_then(|s| s.row.at);
            let is_tie = |s: &&super::world::Session| s.row.at == at && s.token != token.expose();
            sessions.iter().filter(is_tie).map(|s| s.token.clone()).collect()
        };
        for tie in ties {
            self.provider.revoke(&AccessToken::new(&tie)).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl SessionProvider for Liar {
    async fn list(&self, user: &UserId) -> Result<View, ProviderError> {
        if let Some(view) = self.remembered(user) {
            return Ok(view);
        }
        let view = match self.provider.list(user).await {
            Err(ProviderError::Unavailable(_)) if self.mutant == Mutant::FailureIsEmptyList => {
                return Ok(View { sessions: Vec::new(), complete: true });
            }
            view => self.distorted(user, view?),
        };
        self.memory.with(user, |kept| kept.view = Some(view.clone()));
        Ok(view)
    }

    async fn revoke(&self, token: &AccessToken) -> Result<Revoked, ProviderError> {
        let user = uid(owner(token));
        if self.mutant == Mutant::AckBeforeRevoke {
            let held = self.memory.with(&user, |kept| std::mem::take(&mut kept.held));
            for (tag, subscription) in held {
                // One that was given back is not ours any more.
                subscription.settle(&[(tag, Settlement::Ack)]).await.ok();
            }
        }
        if self.mutant == Mutant::TiesByTimeOnly {
            self.revoke_ties(token).await?;
        }
        let revoked = self.provider.revoke(token).await?;
        self.memory.with(&user, |kept| kept.revoked.push(token.digest()));
        if self.mutant == Mutant::GoneIsFailure && revoked == Revoked::AlreadyGone {
            return Err(ProviderError::Refused(anyhow::anyhow!("it is gone")));
        }
        Ok(revoked)
    }

    async fn identify(&self, token: &AccessToken) -> Result<UserId, ProviderError> {
        self.provider.identify(token).await
    }

    async fn traits(&self, user: &UserId) -> Result<UserTraits, ProviderError> {
        match self.provider.traits(user).await {
            Err(_) if self.mutant == Mutant::GuessedProfile => Ok(UserTraits::default()),
            traits => traits,
        }
    }
}

impl Directives for Liar {
    fn current(&self, tenant: &TenantId, user: &UserId) -> Result<Directive, Stale> {
        let guess = |told: Directive, table| {
            let policies = Arc::new(written::tenant_policies(&table, "policy", None).unwrap());
            Directive { policies, is_current: true, ..told }
        };
        match self.directives.current(tenant, user) {
            Ok(told) if self.mutant == Mutant::GuessedDirectives && !told.is_current => Ok(guess(told, json!({}))),
            Ok(told) if self.mutant == Mutant::ObserveEnds => {
                let mut plan = self.life.world.plan.clone();
                plan.rules.mode = "enforce";
                Ok(guess(told, table(&plan)))
            }
            directive => directive,
        }
    }
}

#[async_trait]
impl Ledger for Liar {
    async fn intend(&self, intent: Intent) -> Result<IntentId, LedgerError> {
        if self.mutant == Mutant::NoIntent { Ok(IntentId::Row(0)) } else { self.ledger.intend(intent).await }
    }

    fn note(&self, intent: Intent) {
        self.ledger.note(intent);
    }

    async fn outcome(&self, intent: IntentId, outcomes: &[Outcome]) -> Result<(), LedgerError> {
        self.ledger.outcome(intent, outcomes).await
    }

    async fn seen(&self, tenant: &TenantId, user: &UserId, seen: Seen) -> Result<(), LedgerError> {
        if self.mutant == Mutant::NotSeen { Ok(()) } else { self.ledger.seen(tenant, user, seen).await }
    }

    async fn ends_since(&self, t: &TenantId, since: Timestamp) -> Result<Vec<(UserId, Value)>, LedgerError> {
        self.ledger.ends_since(t, since).await
    }

    async fn recent(&self, t: &TenantId, u: &UserId, limit: usize) -> Result<Vec<Value>, LedgerError> {
        self.ledger.recent(t, u, limit).await
    }
}

/// A budget that nobody else knows of.
pub(crate) struct OwnBudget(pub(crate) AtomicU32);

#[async_trait]
impl Granter for OwnBudget {
    async fn grant(&self, _: &TenantId, unspent: Unspent) -> Result<Granted, NoLeave> {
        self.0.fetch_add(unspent.amount, Ordering::Relaxed);
        let left = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        left.map_err(|_none| NoLeave::Exhausted)?;
        Ok(Granted { amount: 1, minute: 0, valid_for: Duration::from_mins(1) })
    }
}

pub(crate) struct QueueWithFault {
    pub(crate) mutant: Mutant,
    pub(crate) queue: Arc<dyn Queue>,
    pub(crate) memory: Arc<Memory>,
}

#[async_trait]
impl Queue for QueueWithFault {
    async fn publish(&self, events: &[LoginEvent]) -> Result<Published, QueueError> {
        self.queue.publish(events).await
    }

    async fn subscribe(
        &self,
        tenant: &TenantId,
        lane: Lane,
        prefetch: usize,
    ) -> Result<Arc<dyn Subscription>, QueueError> {
        let inner = self.queue.subscribe(tenant, lane, prefetch).await?;
        let (queue, memory, mutant) = (Arc::clone(&self.queue), Arc::clone(&self.memory), self.mutant);
        Ok(Arc::new(SubscriptionWithFault { mutant, inner, queue, memory, delivered: Mutex::default() }))
    }

    async fn check(&self) -> Result<(), QueueError> {
        self.queue.check().await
    }

    async fn stats(&self) -> Result<Vec<LaneStats>, QueueError> {
        self.queue.stats().await
    }
}

struct SubscriptionWithFault {
    mutant: Mutant,
    inner: Arc<dyn Subscription>,
    queue: Arc<dyn Queue>,
    memory: Arc<Memory>,
    delivered: Mutex<HashMap<DeliveryTag, LoginEvent>>,
}

impl SubscriptionWithFault {
    fn distorted(&self, tag: DeliveryTag, settlement: Settlement) -> Settlement {
        match (self.mutant, settlement) {
            (Mutant::NoRecheck, Settlement::Again { next: Next::Recheck { .. }, .. }) => Settlement::Ack,
            (Mutant::GivesUpInOutage, Settlement::Again { next: Next::Defer, why, .. }) => {
                Settlement::DeadLetter { why }
            }
            (Mutant::SuccessorInMemory, Settlement::Again { after, next, .. }) => {
                if let Some(mut event) = self.delivered.lock().unwrap().get(&tag).cloned() {
                    event.reason = match next {
                        Next::Recheck { rung } => Reason::Recheck { rung },
                        _ => Reason::Enforce,
                    };
                    let queue = Arc::clone(&self.queue);
                    self.memory.successors.lock().unwrap().spawn(async move {
                        wait(after).await;
                        queue.publish(&[event]).await.ok();
                    });
                }
                Settlement::Ack
            }
            (_, settlement) => settlement,
        }
    }
}

#[async_trait]
impl Subscription for SubscriptionWithFault {
    async fn receive(&self) -> Result<Delivery, QueueError> {
        let delivery = self.inner.receive().await?;
        self.delivered.lock().unwrap().insert(delivery.tag, delivery.event.clone());
        self.memory.with(&delivery.event.user, |kept| {
            kept.is_retry = delivery.attempt > 1;
            kept.event = Some(delivery.event.clone());
            kept.held.push((delivery.tag, Arc::clone(&self.inner)));
        });
        Ok(delivery)
    }

    async fn settle(&self, settlements: &[(DeliveryTag, Settlement)]) -> Result<(), QueueError> {
        let distorted: Vec<_> = settlements.iter().map(|(tag, how)| (*tag, self.distorted(*tag, *how))).collect();
        let users: Vec<UserId> = {
            let delivered = self.delivered.lock().unwrap();
            settlements.iter().filter_map(|(tag, _)| Some(delivered.get(tag)?.user.clone())).collect()
        };
        for user in users {
            self.memory.with(&user, |kept| kept.revoked.clear());
        }
        self.inner.settle(&distorted).await
    }

    async fn close(&self) -> Result<(), QueueError> {
        self.inner.close().await
    }
}
