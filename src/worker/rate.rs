//! The gate before every provider call of a tenant: a rate, and who goes first.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use governor::clock::Clock as GovernorClock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use tokio::sync::{Notify, futures::Notified};
use tokio::time::Instant;

use crate::config::Rate;
use crate::model::Lane;

/// What a call is for. Revocations of a started step go before new listings, logins before background.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CallClass {
    Revocation,
    Logins,
    Background,
}

impl CallClass {
    pub(super) fn of(lane: Lane) -> Self {
        match lane {
            Lane::Logins => Self::Logins,
            Lane::Background => Self::Background,
        }
    }

    fn index(self) -> usize {
        match self {
            Self::Revocation => 0,
            Self::Logins => 1,
            Self::Background => 2,
        }
    }
}

/// Background gets every tenth call while it waits, and what the others leave.
const BACKGROUND_EVERY: u32 = 10;
/// The burst that the rate allows: what it gives in this part of a second.
const BURST_PART_OF_SECOND: u32 = 10;

/// Only the head of each class competes; behind it the class queues in order of arrival.
pub(super) struct RateGate {
    limiter: Option<RateLimiter<NotKeyed, InMemoryState, TokioClock, NoOpMiddleware<Nanos>>>,
    heads: [tokio::sync::Mutex<()>; 3],
    waiting: [AtomicUsize; 3],
    since_background: AtomicU32,
    closed_until: Mutex<Option<Instant>>,
    changed: Notify,
}

impl RateGate {
    pub(super) fn new(rate: Rate) -> Self {
        let limiter = match rate {
            Rate::Unlimited => None,
            Rate::PerSecond(rate) => {
                let burst = rate.get().div_euclid(BURST_PART_OF_SECOND).max(1);
                let quota = Quota::per_second(rate).allow_burst(burst.try_into().unwrap_or(rate));
                Some(RateLimiter::direct_with_clock(quota, TokioClock { start: Instant::now() }))
            }
        };
        Self {
            limiter,
            heads: Default::default(),
            waiting: Default::default(),
            since_background: AtomicU32::new(0),
            closed_until: Mutex::new(None),
            changed: Notify::new(),
        }
    }

    /// Lets nobody through for this long: the provider asked for it.
    pub(super) fn close_for(&self, wait: Duration) {
        let until = Instant::now() + wait;
        let mut closed = self.closed_until.lock().unwrap_or_else(PoisonError::into_inner);
        *closed = Some(closed.map_or(until, |before| before.max(until)));
    }

    /// Waits for this call's turn. Cancel-safe: a wait that is dropped spends nothing.
    pub(super) async fn pass(&self, class: CallClass) {
        let _waiting = Waiting::new(self, class);
        let Some(head) = self.heads.get(class.index()) else { return };
        let _head = head.lock().await;
        loop {
            let changed = self.changed.notified();
            if let Some(until) = self.closed() {
                tokio::time::sleep_until(until).await;
            } else if !self.is_first(class) {
                changed.await;
            } else if let Some(wait) = self.take(class) {
                Self::wait_or_change(wait, changed).await;
            } else {
                return;
            }
        }
    }

    async fn wait_or_change(wait: Duration, changed: Notified<'_>) {
        // Whichever comes first: the order is looked at again either way.
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = changed => {}
        }
    }

    /// Takes a call out of the rate, or says how long there is none.
    fn take(&self, class: CallClass) -> Option<Duration> {
        if let Some(limiter) = &self.limiter
            && let Err(not_until) = limiter.check()
        {
            return Some(not_until.wait_time_from(limiter.clock().now()));
        }
        match class {
            CallClass::Background => self.since_background.store(0, Ordering::Relaxed),
            _ => drop(self.since_background.fetch_add(1, Ordering::Relaxed)),
        }
        None
    }

    fn closed(&self) -> Option<Instant> {
        let closed = *self.closed_until.lock().unwrap_or_else(PoisonError::into_inner);
        closed.filter(|until| *until > Instant::now())
    }

    fn is_first(&self, class: CallClass) -> bool {
        let nobody = |class: CallClass| self.waiting.get(class.index()).is_none_or(|w| w.load(Ordering::SeqCst) == 0);
        let background_is_due = self.since_background.load(Ordering::Relaxed) + 1 >= BACKGROUND_EVERY;
        match class {
            CallClass::Background => background_is_due || (nobody(CallClass::Revocation) && nobody(CallClass::Logins)),
            _ if background_is_due && !nobody(CallClass::Background) => false,
            CallClass::Logins => nobody(CallClass::Revocation),
            CallClass::Revocation => true,
        }
    }
}

/// Counts a waiting call for as long as it waits; whoever leaves wakes the heads of the others.
struct Waiting<'a> {
    gate: &'a RateGate,
    class: CallClass,
}

impl<'a> Waiting<'a> {
    fn new(gate: &'a RateGate, class: CallClass) -> Self {
        if let Some(waiting) = gate.waiting.get(class.index()) {
            waiting.fetch_add(1, Ordering::SeqCst);
        }
        gate.changed.notify_waiters();
        Self { gate, class }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(waiting) = self.gate.waiting.get(self.class.index()) {
            waiting.fetch_sub(1, Ordering::SeqCst);
        }
        self.gate.changed.notify_waiters();
    }
}

/// Follows tokio's clock, so that a paused test clock moves the rate too.
#[derive(Clone)]
struct TokioClock {
    start: Instant,
}

impl GovernorClock for TokioClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::from(self.start.elapsed()).saturating_sub(Nanos::default())
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::sync::Arc;

    use tokio::task::JoinSet;

    use super::*;

    fn gate(per_second: u32) -> Arc<RateGate> {
        Arc::new(RateGate::new(Rate::PerSecond(NonZeroU32::new(per_second).unwrap())))
    }

    /// Lets `calls` through and returns who passed in which order and when.
    async fn passes(gate: &Arc<RateGate>, calls: Vec<CallClass>) -> Vec<(CallClass, Duration)> {
        let start = Instant::now();
        let mut tasks = JoinSet::new();
        for class in calls {
            let gate = Arc::clone(gate);
            tasks.spawn(async move {
                gate.pass(class).await;
                (class, start.elapsed())
            });
        }
        let mut passed = Vec::new();
        while let Some(done) = tasks.join_next().await {
            passed.push(done.unwrap());
        }
        passed
    }

    #[tokio::test(start_paused = true)]
    async fn a_tenfold_burst_stays_under_the_rate() {
        let gate = gate(20);
        let passed = passes(&gate, vec![CallClass::Logins; 200]).await;
        for window in 0..9 {
            let (from, to) = (Duration::from_secs(window), Duration::from_secs(window + 1));
            let count = passed.iter().filter(|(_, at)| (from..to).contains(at)).count();
            assert!(count <= 22, "{count} calls in second {window}");
        }
        assert!(passed.last().unwrap().1 >= Duration::from_millis(9_800));
    }

    #[tokio::test(start_paused = true)]
    async fn logins_go_first_and_background_gets_its_tenth() {
        let gate = gate(10);
        let mut calls = vec![CallClass::Background; 100];
        calls.extend(vec![CallClass::Logins; 100]);
        let passed = passes(&gate, calls).await;
        let background = passed.iter().take(100).filter(|(class, _)| *class == CallClass::Background).count();
        assert!((9..=13).contains(&background), "{background} of the first 100");
    }

    #[tokio::test(start_paused = true)]
    async fn background_has_the_whole_rate_when_nobody_else_waits() {
        let passed = passes(&gate(10), vec![CallClass::Background; 50]).await;
        assert!(passed.last().unwrap().1 < Duration::from_millis(5_100));
    }

    #[tokio::test(start_paused = true)]
    async fn revocations_go_before_new_listings() {
        let gate = gate(10);
        let mut calls = vec![CallClass::Logins; 50];
        calls.extend(vec![CallClass::Revocation; 20]);
        let passed = passes(&gate, calls).await;
        let early = passed.iter().take(22).filter(|(class, _)| *class == CallClass::Revocation).count();
        assert!(early >= 20, "{early} of 20 revocations among the first 22 calls");
    }

    #[tokio::test(start_paused = true)]
    async fn a_closed_gate_lets_nobody_through() {
        let gate = gate(10);
        gate.close_for(Duration::from_mins(1));
        let passed = passes(&gate, vec![CallClass::Revocation, CallClass::Logins]).await;
        assert!(passed.iter().all(|(_, at)| *at >= Duration::from_mins(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_is_dropped_blocks_nobody() {
        let gate = gate(1);
        gate.pass(CallClass::Logins).await;
        for _ in 0..5 {
            let wait = tokio::time::timeout(Duration::from_millis(10), gate.pass(CallClass::Revocation)).await;
            assert!(wait.is_err());
        }
        let passed = passes(&gate, vec![CallClass::Logins]).await;
        assert!(passed.last().unwrap().1 <= Duration::from_secs(1));
    }
}
