//! The revocation budget: who may end how many sessions, so that all together never end more than it allows.
//!
//! The process that decides counts grants in a window of an hour; whoever ends sessions takes a grant first, spends it
//! one session at a time, and gives back what it did not need. A grant that is lost counts as spent.

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use crate::model::{TenantId, TokenDigest};

/// How long a grant may be spent.
pub(super) const GRANT_LIFE: Duration = Duration::from_mins(1);
/// How long one that was heard of may be spent: less, by the time that its way may have taken.
pub(super) const HEARD_GRANT_LIFE: Duration = Duration::from_secs(50);
/// A grant is one part in so many of the budget, at least one session.
const GRANTS_PER_WINDOW: u32 = 20;
/// Minutes that a grant counts: an hour, the minute that has begun, the life of a grant, and the longest step in which
/// what was paid for may still be done.
const MINUTES_KEPT: i64 = 60 + 1 + 1 + 10;
/// Sessions that may or may not have been ended. Further ones are paid for twice, which ends fewer.
const UNSURE_MAX: usize = 10_000;
/// How long nobody asks again after nobody has answered.
const UNREACHABLE_PAUSE: Duration = Duration::from_secs(2);

/// What was granted in the last hour, by the minute.
pub(super) struct Window {
    limit: NonZeroU32,
    minutes: VecDeque<(i64, u32)>,
}

impl Window {
    /// `granted` are minutes with their amounts, in order; one that lies in the future is taken for this one.
    pub(super) fn new(limit: NonZeroU32, granted: impl IntoIterator<Item = (i64, u32)>, this_minute: i64) -> Self {
        let clamped = granted.into_iter().map(|(minute, amount)| (minute.min(this_minute), amount));
        Self { limit, minutes: clamped.collect() }
    }

    /// Grants one part of the budget, or what is left of it; nothing when it is used up.
    pub(super) fn grant(&mut self, minute: i64) -> u32 {
        let amount = part_of(self.limit).min(self.limit.get().saturating_sub(self.used(minute)));
        if amount > 0 {
            match self.minutes.back_mut().filter(|(last, _)| *last == minute) {
                Some((_, granted)) => *granted = granted.saturating_add(amount),
                None => self.minutes.push_back((minute, amount)),
            }
        }
        amount
    }

    /// Takes back what was not spent of a grant: no more than one is, and from the minute in which it was given. The
    /// minute with what counts in it now; `None` where nothing does.
    pub(super) fn take_back(&mut self, unspent: Unspent) -> Option<(i64, u32)> {
        let (_, granted) = self.minutes.iter_mut().find(|(at, _)| *at == unspent.of_minute)?;
        *granted = granted.saturating_sub(unspent.amount.min(part_of(self.limit)));
        Some((unspent.of_minute, *granted))
    }

    pub(super) fn used(&mut self, minute: i64) -> u32 {
        while self.minutes.front().is_some_and(|(first, _)| *first <= minute - MINUTES_KEPT) {
            self.minutes.pop_front();
        }
        self.minutes.iter().fold(0, |sum, (_, amount)| sum.saturating_add(*amount))
    }

    /// What counts in this minute, for the disk.
    pub(super) fn at(&self, minute: i64) -> u32 {
        self.minutes.iter().filter(|(at, _)| *at == minute).map(|(_, amount)| amount).sum()
    }
}

/// How much one grant is.
fn part_of(budget: NonZeroU32) -> u32 {
    (budget.get() / GRANTS_PER_WINDOW).max(1)
}

/// Leave to end so many sessions of a tenant within some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    pub amount: u32,
    /// The minute that it counts in, by the clock of who granted it.
    pub minute: i64,
    pub valid_for: Duration,
}

/// What is left of a grant that is not needed any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unspent {
    pub amount: u32,
    pub of_minute: i64,
}

/// Why no session may be ended now.
#[derive(Debug, thiserror::Error)]
pub enum NoLeave {
    #[error("the tenant's revocation budget is used up")]
    Exhausted,
    #[error("nobody grants a part of the tenant's revocation budget")]
    Unreachable(#[source] anyhow::Error),
}

/// Who hands out the budget.
#[async_trait]
pub trait Granter: Send + Sync {
    /// A new grant; what is unspent of an older one is given back with the question.
    async fn grant(&self, tenant: &TenantId, unspent: Unspent) -> Result<Granted, NoLeave>;
}

/// The grants of this process, for all its tenants.
pub struct Purse {
    /// `None`: there is no budget.
    granter: Option<Arc<dyn Granter>>,
    pockets: Mutex<HashMap<TenantId, Pocket>>,
}

#[derive(Default)]
struct Pocket {
    left: u32,
    of_minute: i64,
    until: Option<Instant>,
    /// Sessions that were paid for, may or may not have been ended, and until when ending them again costs nothing.
    unsure: HashMap<TokenDigest, Instant>,
    /// One asks at a time, the others then find what it got.
    asking: Arc<tokio::sync::Mutex<()>>,
    unreachable_until: Option<Instant>,
}

impl Purse {
    pub fn unlimited() -> Self {
        Self { granter: None, pockets: Mutex::default() }
    }

    pub fn of(granter: Arc<dyn Granter>) -> Self {
        Self { granter: Some(granter), ..Self::unlimited() }
    }

    /// Leave to end this session now. Cancel-safe: what was granted meanwhile counts as spent.
    ///
    /// # Errors
    /// When there is none: then the session must be left alone.
    pub async fn take<'a>(&'a self, tenant: &'a TenantId, session: TokenDigest) -> Result<Leave<'a>, NoLeave> {
        let leave = |paid_until| Leave { purse: self, tenant, session, paid_until };
        let Some(granter) = &self.granter else { return Ok(leave(None)) };
        if self.with(tenant, |pocket| pocket.is_paid(&session)) {
            return Ok(leave(None));
        }
        if let Some(until) = self.with(tenant, Pocket::take) {
            return Ok(leave(Some(until)));
        }
        let asking = self.with(tenant, |pocket| Arc::clone(&pocket.asking));
        let _asking = asking.lock().await;
        if let Some(until) = self.with(tenant, Pocket::take) {
            return Ok(leave(Some(until)));
        }
        if self.with(tenant, |pocket| pocket.unreachable_until.is_some_and(|until| Instant::now() < until)) {
            return Err(NoLeave::Unreachable(anyhow::anyhow!("nobody answered a moment ago")));
        }
        let unspent = self.with(tenant, Pocket::empty);
        let asked_at = Instant::now();
        match granter.grant(tenant, unspent).await {
            Ok(granted) => self.with(tenant, |pocket| pocket.fill(granted, asked_at)),
            Err(error) => {
                if matches!(error, NoLeave::Unreachable(_)) {
                    self.with(tenant, |pocket| pocket.unreachable_until = Some(Instant::now() + UNREACHABLE_PAUSE));
                }
                return Err(error);
            }
        }
        let late = || NoLeave::Unreachable(anyhow::anyhow!("the grant came too late to be used"));
        self.with(tenant, Pocket::take).map(|until| leave(Some(until))).ok_or_else(late)
    }

    fn with<T>(&self, tenant: &TenantId, look: impl FnOnce(&mut Pocket) -> T) -> T {
        let mut pockets = self.pockets.lock().unwrap_or_else(PoisonError::into_inner);
        look(pockets.entry(tenant.clone()).or_default())
    }
}

impl Pocket {
    /// Takes one out of a grant that is still good; until when it is.
    fn take(&mut self) -> Option<Instant> {
        let until = self.until.filter(|until| self.left > 0 && Instant::now() < *until)?;
        self.left -= 1;
        Some(until)
    }

    fn is_paid(&self, session: &TokenDigest) -> bool {
        self.unsure.get(session).is_some_and(|until| Instant::now() < *until)
    }

    fn empty(&mut self) -> Unspent {
        Unspent { amount: std::mem::take(&mut self.left), of_minute: self.of_minute }
    }

    /// A grant is good from when it was asked for: nobody knows how long its way was.
    fn fill(&mut self, granted: Granted, asked_at: Instant) {
        (self.left, self.of_minute) = (granted.amount, granted.minute);
        self.until = asked_at.checked_add(granted.valid_for);
    }
}

/// Leave to end one session; what is made of it must be said.
#[must_use]
pub struct Leave<'a> {
    purse: &'a Purse,
    tenant: &'a TenantId,
    session: TokenDigest,
    /// Until when the grant is good that it was taken out of; `None` where it cost nothing.
    paid_until: Option<Instant>,
}

impl Leave<'_> {
    /// The session was ended.
    pub fn spent(self) {
        self.settle(|pocket, session, _| {
            pocket.unsure.remove(&session);
        });
    }

    /// The session was not ended: somebody else has, or the call was refused.
    pub fn unspent(self) {
        self.settle(|pocket, session, paid_until| {
            // Where an earlier try was paid for and its end unknown, that was the one which ended it.
            let was_unsure = pocket.unsure.remove(&session).is_some();
            if !was_unsure && paid_until.is_some() && paid_until == pocket.until {
                pocket.left = pocket.left.saturating_add(1);
            }
        });
    }

    /// The session may or may not have been ended: it stays paid for, and ending it again soon costs nothing.
    pub fn unsure(self) {
        self.settle(|pocket, session, paid_until| {
            let Some(until) = paid_until else { return };
            if pocket.unsure.len() >= UNSURE_MAX {
                pocket.unsure.retain(|_, until| Instant::now() < *until);
            }
            if pocket.unsure.len() < UNSURE_MAX {
                pocket.unsure.insert(session, until);
            }
        });
    }

    fn settle(self, how: impl FnOnce(&mut Pocket, TokenDigest, Option<Instant>)) {
        if self.purse.granter.is_some() {
            self.purse.with(self.tenant, |pocket| how(pocket, self.session, self.paid_until));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use proptest::prelude::*;

    use super::*;

    fn limit(number: u32) -> NonZeroU32 {
        NonZeroU32::new(number).unwrap()
    }

    proptest! {
        #[test]
        fn no_hour_holds_more_than_the_budget(
            budget in 1_u32..200,
            steps in proptest::collection::vec((0_i64..20, 1_usize..8, 0_usize..400), 1..200),
        ) {
            let mut window = Window::new(limit(budget), [], 0);
            let (mut minute, mut given): (i64, Vec<(i64, u32)>) = (0, Vec::new());
            for (pause, asks, back) in steps {
                minute += pause;
                for _ in 0..asks {
                    given.push((minute, window.grant(minute)));
                }
                // One that was given at any time before may come back, whole: it was not spent then.
                if let Some((of_minute, amount)) = given.get_mut(back) {
                    window.take_back(Unspent { amount: std::mem::take(amount), of_minute: *of_minute });
                }
            }
            for (from, _) in &given {
                // A grant may be spent until a minute after it was given.
                let spent: u32 =
                    given.iter().filter(|(at, _)| (*from..=from + 60).contains(at)).map(|(_, amount)| amount).sum();
                prop_assert!(spent <= budget, "{spent} from minute {from}");
            }
        }
    }

    #[test]
    fn what_was_granted_before_a_restart_counts_and_a_clock_that_jumped_back_strands_nothing() {
        let mut window = Window::new(limit(40), [(100, 10), (999_999, 20)], 120);
        assert_eq!(window.used(120), 30);
        assert_eq!([window.grant(120), window.grant(120), window.grant(120), window.grant(120)], [2, 2, 2, 2]);
        assert_eq!(window.used(171), 38);
        assert_eq!(window.used(172), 28);
        assert_eq!(window.used(192), 0);
    }

    /// Grants five, then one, then nothing.
    struct Bank(AtomicU32);

    #[async_trait]
    impl Granter for Bank {
        async fn grant(&self, _tenant: &TenantId, unspent: Unspent) -> Result<Granted, NoLeave> {
            self.0.fetch_add(unspent.amount, Ordering::Relaxed);
            let amount = self.0.load(Ordering::Relaxed).min(5);
            self.0.fetch_sub(amount, Ordering::Relaxed);
            if amount == 0 {
                return Err(NoLeave::Exhausted);
            }
            Ok(Granted { amount, minute: 0, valid_for: GRANT_LIFE })
        }
    }

    fn session(number: u8) -> TokenDigest {
        TokenDigest([number; 32])
    }

    #[tokio::test(start_paused = true)]
    async fn a_purse_spends_what_it_was_granted_and_no_more() {
        let purse = Purse::of(Arc::new(Bank(AtomicU32::new(6))));
        let tenant = TenantId::default_tenant();
        for number in 0..6 {
            purse.take(&tenant, session(number)).await.unwrap().spent();
        }
        assert!(matches!(purse.take(&tenant, session(9)).await, Err(NoLeave::Exhausted)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_gone_already_costs_nothing_and_what_is_unsure_is_paid_once() {
        let purse = Purse::of(Arc::new(Bank(AtomicU32::new(2))));
        let tenant = TenantId::default_tenant();
        for _ in 0..10 {
            purse.take(&tenant, session(1)).await.unwrap().unspent();
        }
        for _ in 0..10 {
            purse.take(&tenant, session(1)).await.unwrap().unsure();
        }
        purse.take(&tenant, session(1)).await.unwrap().unspent();
        purse.take(&tenant, session(2)).await.unwrap().spent();
        assert!(purse.take(&tenant, session(3)).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_grant_that_is_too_old_is_given_back() {
        let purse = Purse::of(Arc::new(Bank(AtomicU32::new(5))));
        let tenant = TenantId::default_tenant();
        purse.take(&tenant, session(1)).await.unwrap().spent();
        tokio::time::advance(GRANT_LIFE).await;
        for number in 2..6 {
            purse.take(&tenant, session(number)).await.unwrap().spent();
        }
        assert!(purse.take(&tenant, session(6)).await.is_err());
    }
}
