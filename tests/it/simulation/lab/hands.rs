//! The ports of one life of one worker: each effect on the world may be its last.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use soloist::directives::{Control, Directive, Directives, Stale};
use soloist::ledger::{Held, Intent, IntentId, Ledger, LedgerError, Outcome, Seen};
use soloist::model::{AccessToken, Lane, LoginEvent, Reason, Session, TenantId, UserId, UserTraits, View};
use soloist::provider::{ProviderError, Revoked, SessionProvider};
use soloist::queue::{Delivery, DeliveryTag, LaneStats, Next, Published, Queue, QueueError, Settlement, Subscription};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::brakes::directive;
use super::judge::Listing;
use super::paused::wait;
use super::plan::{Crash, Effect, FaultKind, Side, Standing};
use super::world::{End, World, owner, traits, uid, user_of};

/// One life of a worker.
#[derive(Clone)]
pub(crate) struct Life {
    pub(crate) world: Arc<World>,
    pub(crate) worker: usize,
    pub(crate) control: Option<Arc<Control>>,
    /// It is dead.
    pub(crate) over: CancellationToken,
}

impl Life {
    /// Counts an effect that is about to be.
    fn begins(&self, effect: Effect) -> u32 {
        let mut state = self.world.lock();
        let count = state.effects.entry((self.worker, effect)).or_default();
        *count += 1;
        *count
    }

    /// Goes on, or dies here as the plan wants it. The dead do nothing more.
    async fn pass(&self, effect: Effect, nth: u32, side: Side) {
        if !self.over.is_cancelled() && self.dies_at(effect, nth, side) {
            self.world.lock().counts.crashes += 1;
            self.over.cancel();
        }
        if self.over.is_cancelled() {
            std::future::pending::<()>().await;
        }
    }

    fn dies_at(&self, effect: Effect, nth: u32, side: Side) -> bool {
        let is_here = |crash: &Crash| {
            crash.worker == self.worker && crash.effect == effect && crash.nth == nth && crash.side == side
        };
        self.world.plan.crashes.iter().any(is_here)
    }

    async fn latency(&self) {
        let ms = self.world.lock().dice.between(0, self.world.plan.habits.latency_ms);
        wait(Duration::from_millis(ms)).await;
    }

    /// A call to the provider: on its way, done, and its answer on the way back.
    async fn call<T>(
        &self,
        effect: Effect,
        may_fail: &[FaultKind],
        user: usize,
        done: impl FnOnce(&World) -> T,
        fails: impl FnOnce(FaultKind, &World) -> Option<Result<T, ProviderError>>,
    ) -> Result<T, ProviderError> {
        let nth = self.begins(effect);
        self.pass(effect, nth, Side::Before).await;
        {
            let mut state = self.world.lock();
            state.counts.calls += 1;
            state.calls.push(Instant::now());
        }
        self.latency().await;
        self.pass(effect, nth, Side::Before).await;
        let fault = {
            let mut state = self.world.lock();
            self.world.fault(&mut state, user, may_fail)
        };
        if fault == Some(FaultKind::Timeout) {
            wait(Duration::from_secs(10)).await;
        }
        let answer = match fault.and_then(|kind| fails(kind, &self.world)) {
            Some(failed) => failed,
            None => Ok(done(&self.world)),
        };
        self.pass(effect, nth, Side::After).await;
        self.latency().await;
        self.pass(effect, nth, Side::After).await;
        answer
    }
}

fn failure(kind: FaultKind, retry_after: u64) -> ProviderError {
    let source = anyhow::anyhow!("{kind:?}");
    match kind {
        FaultKind::Throttled => {
            let retry_after = (retry_after > 0).then(|| Duration::from_secs(retry_after));
            ProviderError::Throttled { retry_after, source }
        }
        FaultKind::RefusedCredentials => ProviderError::Unauthorized(source),
        FaultKind::UserUnknown => ProviderError::UserUnknown(source),
        FaultKind::Refused => ProviderError::Refused(source),
        _ => ProviderError::Unavailable(source),
    }
}

#[async_trait]
impl SessionProvider for Life {
    async fn list(&self, user: &UserId) -> Result<View, ProviderError> {
        use FaultKind as F;
        let user = user_of(user);
        let list = |is_complete: bool| {
            let mut state = self.world.lock();
            let sessions = &state.users[user].sessions;
            let listed = sessions.iter().filter(|s| self.world.is_listed(s));
            let mut given: Vec<_> = listed.map(|s| (s.token.clone(), s.row.clone())).collect();
            let is_true = |s: &&super::world::Session| s.is_alive() || self.world.is_listed(s);
            let truth = sessions.iter().filter(is_true).map(|s| s.row.clone()).collect();
            let alive = sessions.iter().filter(|s| s.is_alive()).map(|s| s.row.digest).collect();
            let has_ghosts = sessions.iter().any(|s| !s.is_alive() && self.world.is_listed(s));
            state.dice.shuffle(&mut given);
            if !is_complete {
                let kept = state.dice.between(0, given.len() as u64);
                given.truncate(usize::try_from(kept).unwrap());
                state.users[user].excuses.push("an incomplete list");
            }
            let rows: Vec<_> = given.iter().map(|(_, row)| row.clone()).collect();
            let (at, intended) = (Instant::now(), std::collections::HashSet::new());
            let listing = Listing { at, given: rows, is_complete, truth, alive, has_ghosts, intended };
            state.listings.insert((self.worker, user), listing);
            let sessions = given.into_iter().map(|(token, row)| Session::new(&token, row.at, row.device)).collect();
            View { sessions, complete: is_complete }
        };
        let may_fail = [
            F::Timeout,
            F::Throttled,
            F::ServerError,
            F::Garbage,
            F::AnswerLost,
            F::RefusedCredentials,
            F::UserUnknown,
            F::Refused,
            F::IncompleteList,
        ];
        let fails = |kind: FaultKind, world: &World| {
            if kind == F::IncompleteList {
                return Some(Ok(list(false)));
            }
            let mut state = world.lock();
            if matches!(kind, F::UserUnknown | F::Refused) {
                state.users[user].excuses.push("an answer that ends the looking");
            }
            let retry_after = state.dice.between(0, 90);
            Some(Err(failure(kind, retry_after)))
        };
        self.call(Effect::List, &may_fail, user, |_| list(true), fails).await
    }

    async fn revoke(&self, token: &AccessToken) -> Result<Revoked, ProviderError> {
        use FaultKind as F;
        let user = owner(token);
        let may_fail =
            [F::Timeout, F::Throttled, F::ServerError, F::Garbage, F::AnswerLost, F::RefusedCredentials, F::Refused];
        let end = |world: &World| self.end(world, user, token.expose());
        let fails = |kind: FaultKind, world: &World| {
            // The answer is lost or cannot be read, but it is done.
            if matches!(kind, F::AnswerLost | F::Garbage) {
                self.end(world, user, token.expose());
            }
            let mut state = world.lock();
            if kind == F::Refused {
                state.users[user].excuses.push("an answer that ends the looking");
            }
            let retry_after = state.dice.between(0, 90);
            Some(Err(failure(kind, retry_after)))
        };
        self.call(Effect::Revoke, &may_fail, user, end, fails).await
    }

    async fn identify(&self, token: &AccessToken) -> Result<UserId, ProviderError> {
        let user = owner(token);
        Ok(uid(user))
    }

    async fn traits(&self, user: &UserId) -> Result<UserTraits, ProviderError> {
        use FaultKind as F;
        let user = user_of(user);
        let may_fail = [F::Timeout, F::Throttled, F::ServerError, F::Garbage, F::AnswerLost, F::RefusedCredentials];
        let fails = |kind: FaultKind, _: &World| Some(Err(failure(kind, 0)));
        self.call(Effect::Profile, &may_fail, user, |world| traits(world.plan.users[user]), fails).await
    }
}

impl Life {
    fn end(&self, world: &World, user: usize, token: &str) -> Revoked {
        let mut state = world.lock();
        let place = state.users[user].sessions.iter().position(|s| s.token == token && s.is_alive());
        let Some(place) = place else { return Revoked::AlreadyGone };
        if state.refreshes_at_revoke > 0 {
            state.refreshes_at_revoke -= 1;
            world.refresh(&mut state, user, token, 0);
            return Revoked::AlreadyGone;
        }
        state.users[user].sessions[place].ended = Some((Instant::now(), End::Revoked));
        state.counts.revocations += 1;
        state.revoked.push((Instant::now(), user));
        if world.plan.users[user] == Standing::Stubborn {
            let device = state.users[user].sessions[place].row.device.clone();
            state.kicked.push((user, device));
        }
        let session = state.users[user].sessions[place].clone();
        world.judge_revocation(&mut state, self.worker, user, &session);
        Revoked::Done
    }
}

impl Directives for Life {
    fn current(&self, _: &TenantId, user: &UserId) -> Result<Directive, Stale> {
        let mut state = self.world.lock();
        let fault = self.world.fault(&mut state, user_of(user), &[FaultKind::StaleDirectives]);
        let directive = directive(&self.world, self.control.as_deref(), user)?;
        if directive.is_contended || directive.is_braked {
            state.users[user_of(user)].excuses.push("a brake");
        }
        Ok(Directive { is_current: fault.is_none(), ..directive })
    }
}

/// Keeps what the judge asks for; it survives every crash, as the file does.
#[async_trait]
impl Ledger for Life {
    async fn intend(&self, intent: Intent) -> Result<IntentId, LedgerError> {
        let nth = self.begins(Effect::Intend);
        self.pass(Effect::Intend, nth, Side::Before).await;
        let user = user_of(&intent.user);
        let ends: Vec<_> = intent.decision.revocations().map(|verdict| verdict.digest).collect();
        {
            let mut state = self.world.lock();
            if intent.executed {
                if let Some(listing) = state.listings.get_mut(&(self.worker, user)) {
                    listing.intended.extend(ends);
                }
            } else {
                state.users[user].recorded = Some((Instant::now(), ends));
                if matches!(intent.held, Some(Held::Budget | Held::Contended)) {
                    state.users[user].excuses.push("a brake");
                }
            }
        }
        self.pass(Effect::Intend, nth, Side::After).await;
        Ok(IntentId::Row(0))
    }

    fn note(&self, _: Intent) {}

    async fn outcome(&self, _: IntentId, _: &[Outcome]) -> Result<(), LedgerError> {
        let nth = self.begins(Effect::Outcome);
        self.pass(Effect::Outcome, nth, Side::Before).await;
        self.pass(Effect::Outcome, nth, Side::After).await;
        Ok(())
    }

    async fn seen(&self, _: &TenantId, user: &UserId, _: Seen) -> Result<(), LedgerError> {
        let nth = self.begins(Effect::Seen);
        self.pass(Effect::Seen, nth, Side::Before).await;
        self.world.lock().users[user_of(user)].is_seen = true;
        self.pass(Effect::Seen, nth, Side::After).await;
        Ok(())
    }

    async fn ends_since(&self, _: &TenantId, _: Timestamp) -> Result<Vec<(UserId, serde_json::Value)>, LedgerError> {
        Ok(Vec::new())
    }

    async fn recent(&self, _: &TenantId, _: &UserId, _: usize) -> Result<Vec<serde_json::Value>, LedgerError> {
        Ok(Vec::new())
    }
}

/// The queue as this life of a worker uses it.
pub(crate) struct QueueInHand {
    pub(crate) queue: Arc<dyn Queue>,
    pub(crate) life: Life,
}

#[async_trait]
impl Queue for QueueInHand {
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
        Ok(Arc::new(SubscriptionInHand {
            inner,
            queue: Arc::clone(&self.queue),
            life: self.life.clone(),
            held: Mutex::default(),
        }))
    }

    async fn check(&self) -> Result<(), QueueError> {
        self.queue.check().await
    }

    async fn stats(&self) -> Result<Vec<LaneStats>, QueueError> {
        self.queue.stats().await
    }
}

struct SubscriptionInHand {
    inner: Arc<dyn Subscription>,
    queue: Arc<dyn Queue>,
    life: Life,
    held: Mutex<HashMap<DeliveryTag, LoginEvent>>,
}

impl SubscriptionInHand {
    /// A backend that writes successor and ack one after the other may die between them: then both messages are there.
    async fn successor(&self, settlements: &[(DeliveryTag, Settlement)]) -> Result<(), QueueError> {
        for (tag, settlement) in settlements {
            let Settlement::Again { next, .. } = settlement else { continue };
            let held = self.held.lock().unwrap().get(tag).cloned();
            let Some(mut event) = held else { continue };
            event.reason = match (next, event.reason) {
                (Next::Recheck { rung }, _) => Reason::Recheck { rung: *rung },
                // The twin of a login would be taken for a duplicate.
                (_, Reason::Login) => Reason::Enforce,
                (_, reason) => reason,
            };
            let nth = self.life.begins(Effect::Successor);
            if self.life.dies_at(Effect::Successor, nth, Side::After) {
                self.queue.publish(&[event]).await?;
            }
            self.life.pass(Effect::Successor, nth, Side::After).await;
        }
        Ok(())
    }
}

#[async_trait]
impl Subscription for SubscriptionInHand {
    async fn receive(&self) -> Result<Delivery, QueueError> {
        let delivery = self.inner.receive().await?;
        self.held.lock().unwrap().insert(delivery.tag, delivery.event.clone());
        let nth = self.life.begins(Effect::Receive);
        self.life.pass(Effect::Receive, nth, Side::After).await;
        Ok(delivery)
    }

    async fn settle(&self, settlements: &[(DeliveryTag, Settlement)]) -> Result<(), QueueError> {
        self.successor(settlements).await?;
        let nth = self.life.begins(Effect::Settle);
        self.life.pass(Effect::Settle, nth, Side::Before).await;
        self.inner.settle(settlements).await?;
        self.life.pass(Effect::Settle, nth, Side::After).await;
        Ok(())
    }

    async fn close(&self) -> Result<(), QueueError> {
        self.inner.close().await
    }
}
