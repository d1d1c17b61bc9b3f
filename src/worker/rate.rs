//! The gate before every provider call of a tenant: a rate, and who goes first.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, futures::Notified};
use tokio::time::Instant;

use super::allowance::{Allowance, Turn};
use super::class::CallClass;
use super::fleet::Share;
use crate::config::Rate;

/// Background gets every tenth call while it waits, and what the others leave.
const BACKGROUND_EVERY: u32 = 10;
/// What apps ask gets every fifth, unless it is set otherwise.
const ASKED_EVERY: u32 = 5;

/// Only the head of each class competes; behind it the class queues in order of arrival.
pub(super) struct RateGate {
    /// `None`: calls are not limited.
    allowance: Option<Mutex<Allowance>>,
    heads: [tokio::sync::Mutex<()>; CallClass::COUNT],
    waiting: [AtomicUsize; CallClass::COUNT],
    since_background: AtomicU32,
    since_asked: AtomicU32,
    asked_every: AtomicU32,
    closed_until: Mutex<Option<Instant>>,
    changed: Notify,
}

impl RateGate {
    pub(super) fn new(rate: Rate) -> Self {
        let allowance = match rate {
            Rate::Unlimited => None,
            Rate::PerSecond(rate) => Some(Mutex::new(Allowance::new(rate, Instant::now()))),
        };
        Self {
            allowance,
            heads: Default::default(),
            waiting: Default::default(),
            since_background: AtomicU32::new(0),
            since_asked: AtomicU32::new(0),
            asked_every: AtomicU32::new(ASKED_EVERY),
            closed_until: Mutex::new(None),
            changed: Notify::new(),
        }
    }

    /// From now on only this much of the rate is ours; those who wait are told at once. Without a rate it means nothing.
    pub(super) fn set_share(&self, share: Share) {
        if let Some(allowance) = &self.allowance {
            allowance.lock().unwrap_or_else(PoisonError::into_inner).set_share(share, Instant::now());
            self.changed.notify_waiters();
        }
    }

    /// What apps ask gets this much of the calls while others wait, in percent, 1 to 100.
    pub(super) fn set_asked_percent(&self, percent: u32) {
        self.asked_every.store((100 / percent.max(1)).max(1), Ordering::Relaxed);
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
            } else {
                match self.take(class) {
                    Turn::Now => return,
                    Turn::After(wait) => Self::wait_or_change(wait, changed).await,
                    Turn::Closed => changed.await,
                }
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
    fn take(&self, class: CallClass) -> Turn {
        if let Some(allowance) = &self.allowance {
            let turn = allowance.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now());
            if turn != Turn::Now {
                return turn;
            }
        }
        for (since, is_it) in
            [(&self.since_background, class.is_background()), (&self.since_asked, class == CallClass::Asked)]
        {
            if is_it {
                since.store(0, Ordering::Relaxed);
            } else {
                since.fetch_add(1, Ordering::Relaxed);
            }
        }
        Turn::Now
    }

    fn closed(&self) -> Option<Instant> {
        let closed = *self.closed_until.lock().unwrap_or_else(PoisonError::into_inner);
        closed.filter(|until| *until > Instant::now())
    }

    /// Whether no call of another class goes before the head of this one. Who has waited for its part goes first.
    fn is_first(&self, class: CallClass) -> bool {
        use CallClass::{Asked, Background, Logins, Revocation, StartedBackground, StartedLogins};
        let nobody = |of: &[CallClass]| {
            of.iter().all(|class| self.waiting.get(class.index()).is_none_or(|w| w.load(Ordering::SeqCst) == 0))
        };
        let is_due =
            |since: &AtomicU32, every: u32, of: &[CallClass]| since.load(Ordering::Relaxed) + 1 >= every && !nobody(of);
        let asked_is_due = is_due(&self.since_asked, self.asked_every.load(Ordering::Relaxed), &[Asked]);
        let background_is_due =
            is_due(&self.since_background, BACKGROUND_EVERY, &[StartedBackground, Background]) && !asked_is_due;
        match class {
            Asked => asked_is_due || (!background_is_due && nobody(&[Revocation, StartedLogins, Logins])),
            StartedBackground | Background => {
                let may_be = background_is_due || nobody(&[Revocation, StartedLogins, Logins, Asked]);
                may_be && (class == StartedBackground || nobody(&[StartedBackground]))
            }
            _ if background_is_due || (asked_is_due && class != Revocation) => false,
            Logins => nobody(&[Revocation, StartedLogins]),
            StartedLogins => nobody(&[Revocation]),
            Revocation => true,
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

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::sync::Arc;

    use tokio::task::JoinSet;

    use super::*;
    use crate::model::Lane;

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
    async fn what_apps_ask_gets_its_part_and_no_more_while_logins_wait() {
        let gate = gate(10);
        gate.set_asked_percent(25);
        let mut calls = vec![CallClass::Asked; 100];
        calls.extend(vec![CallClass::Logins; 100]);
        calls.extend(vec![CallClass::Background; 100]);
        let passed = passes(&gate, calls).await;
        let early = |of: CallClass| passed.iter().take(100).filter(|(class, _)| *class == of).count();
        assert!((23..=28).contains(&early(CallClass::Asked)), "{} of the first 100", early(CallClass::Asked));
        assert!((8..=13).contains(&early(CallClass::Background)), "{} of the first 100", early(CallClass::Background));
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
    async fn what_is_begun_goes_before_what_begins_in_both_lanes() {
        for lane in Lane::ALL {
            let gate = gate(10);
            let mut calls = vec![CallClass::of(lane); 50];
            calls.extend(vec![CallClass::of(lane).started(); 20]);
            let passed = passes(&gate, calls).await;
            let early = passed.iter().take(22).filter(|(class, _)| *class == CallClass::of(lane).started()).count();
            assert!(early >= 20, "{early} of 20 among the first 22 calls of {lane:?}");
        }
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

    fn share(numerator: u32, denominator: u32) -> Share {
        Share::of(numerator, NonZeroU32::new(denominator).unwrap())
    }

    /// When each of `calls` passed, while the share changed as it is said: after so many seconds.
    async fn passes_while(gate: &Arc<RateGate>, calls: usize, changes: &[(u64, Share)]) -> Vec<Duration> {
        let start = Instant::now();
        let change = async {
            for (second, share) in changes {
                let at = start + Duration::from_secs(*second);
                tokio::time::timeout_at(at, std::future::pending::<()>()).await.unwrap_err();
                gate.set_share(*share);
            }
        };
        let (passed, ()) = tokio::join!(passes(gate, vec![CallClass::Logins; calls]), change);
        passed.into_iter().map(|(_, at)| at).collect()
    }

    fn count(passed: &[Duration], seconds: std::ops::Range<u64>) -> usize {
        passed.iter().filter(|at| seconds.contains(&at.as_secs())).count()
    }

    #[tokio::test(start_paused = true)]
    async fn a_share_falls_and_rises_at_once_for_those_who_wait_too() {
        let changes = [(10, share(1, 10)), (20, share(1, 2))];
        let passed = passes_while(&gate(10), 200, &changes).await;
        assert!((99..=101).contains(&count(&passed, 0..10)), "{passed:?}");
        assert!((9..=11).contains(&count(&passed, 10..20)), "{passed:?}");
        assert!((49..=51).contains(&count(&passed, 20..30)), "{passed:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_share_of_less_than_a_call_a_second_is_kept_to() {
        let gate = gate(5);
        gate.set_share(share(9, 100));
        let passed = passes_while(&gate, 46, &[]).await;
        // One was saved; the others come at 0.45 a second.
        assert!((99..=101).contains(&passed.last().unwrap().as_secs()), "{passed:?}");
        assert!(passed.windows(2).all(|pair| pair[1] > pair[0] + Duration::from_millis(2_200)), "{passed:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_share_nobody_passes_until_there_is_one() {
        let gate = gate(10);
        gate.set_share(Share::NONE);
        let passed = passes_while(&gate, 10, &[(60, Share::NONE), (600, Share::WHOLE)]).await;
        assert!(passed.iter().all(|at| *at >= Duration::from_mins(10)), "{passed:?}");
        assert!(passed.last().unwrap() <= &Duration::from_millis(601_100), "{passed:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_share_that_changes_all_the_time_gives_no_call_more() {
        let gate = gate(10);
        let changes: Vec<_> = (1..100).map(|second| (second, share(1 + (second % 2) as u32, 10))).collect();
        let passed = passes_while(&gate, 160, &changes).await;
        // Ten in the first second, then one and two by turns.
        let expected = 10 + 99 + 50;
        assert!((expected - 2..=expected + 2).contains(&count(&passed, 0..100)), "{}", count(&passed, 0..100));
    }

    #[tokio::test(start_paused = true)]
    async fn an_unlimited_rate_has_no_shares() {
        let gate = Arc::new(RateGate::new(Rate::Unlimited));
        gate.set_share(Share::NONE);
        assert_eq!(passes_while(&gate, 100, &[]).await, vec![Duration::ZERO; 100]);
    }
}
