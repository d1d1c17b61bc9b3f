//! The revocation budget: who may end how many sessions, so that all together never end more than it allows.
//!
//! The process that decides counts grants in a window of an hour; whoever ends sessions takes a grant first, spends it
//! one session at a time, and gives back what it did not need. A grant that is lost counts as spent.

use std::collections::{HashMap, HashSet, VecDeque};
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
/// Minutes that a grant counts: an hour, the minute that has begun, and the life of a grant.
const MINUTES_KEPT: i64 = 62;
/// Sessions that may or may not have been ended. Further ones are paid for twice, which ends fewer.
const UNSURE_MAX: usize = 10_000;

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
        let part = (self.limit.get() / GRANTS_PER_WINDOW).max(1);
        let amount = part.min(self.limit.get().saturating_sub(self.used(minute)));
        if amount > 0 {
            match self.minutes.back_mut().filter(|(last, _)| *last == minute) {
                Some((_, granted)) => *granted = granted.saturating_add(amount),
                None => self.minutes.push_back((minute, amount)),
            }
        }
        amount
    }

    /// Takes back what was not spent of a grant that was given lately.
    pub(super) fn take_back(&mut self, mut unspent: u32) {
        for (_, granted) in self.minutes.iter_mut().rev() {
            let back = unspent.min(*granted);
            *granted -= back;
            unspent -= back;
        }
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

/// Leave to end so many sessions of a tenant within some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    pub amount: u32,
    pub valid_for: Duration,
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
    /// A new grant; `unspent` of an older one is given back with the question.
    async fn grant(&self, tenant: &TenantId, unspent: u32) -> Result<Granted, NoLeave>;
}

/// The grants of this process, for all its tenants.
pub struct Purse {
    /// `None`: there is no budget.
    granter: Option<Arc<dyn Granter>>,
    pockets: Mutex<HashMap<TenantId, Pocket>>,
    /// One asks at a time, the others then find what it got.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Pocket {
    left: u32,
    until: Option<Instant>,
    /// Sessions that were paid for, and may or may not have been ended.
    unsure: HashSet<TokenDigest>,
}

impl Purse {
    pub fn unlimited() -> Self {
        Self { granter: None, pockets: Mutex::default(), asking: tokio::sync::Mutex::default() }
    }

    pub fn of(granter: Arc<dyn Granter>) -> Self {
        Self { granter: Some(granter), ..Self::unlimited() }
    }

    /// Leave to end this session now.
    ///
    /// # Errors
    /// When there is none: then the session must be left alone.
    pub async fn take<'a>(&'a self, tenant: &'a TenantId, session: TokenDigest) -> Result<Leave<'a>, NoLeave> {
        let leave = Leave { purse: self, tenant, session };
        let Some(granter) = &self.granter else { return Ok(leave) };
        if self.with(tenant, |pocket| pocket.unsure.contains(&session) || pocket.take()) {
            return Ok(leave);
        }
        let _asking = self.asking.lock().await;
        if self.with(tenant, Pocket::take) {
            return Ok(leave);
        }
        let unspent = self.with(tenant, |pocket| std::mem::take(&mut pocket.left));
        let granted = granter.grant(tenant, unspent).await?;
        let taken = self.with(tenant, |pocket| {
            pocket.left = granted.amount;
            pocket.until = Instant::now().checked_add(granted.valid_for);
            pocket.take()
        });
        if taken { Ok(leave) } else { Err(NoLeave::Exhausted) }
    }

    fn with<T>(&self, tenant: &TenantId, look: impl FnOnce(&mut Pocket) -> T) -> T {
        let mut pockets = self.pockets.lock().unwrap_or_else(PoisonError::into_inner);
        look(pockets.entry(tenant.clone()).or_default())
    }
}

impl Pocket {
    fn take(&mut self) -> bool {
        let is_good = self.left > 0 && self.until.is_some_and(|until| Instant::now() < until);
        if is_good {
            self.left -= 1;
        }
        is_good
    }
}

/// Leave to end one session; what is made of it must be said.
#[must_use]
pub struct Leave<'a> {
    purse: &'a Purse,
    tenant: &'a TenantId,
    session: TokenDigest,
}

impl Leave<'_> {
    /// The session was ended.
    pub fn spent(self) {
        self.settle(|pocket, session| {
            pocket.unsure.remove(&session);
        });
    }

    /// The session was not ended: somebody else has, or the call was refused.
    pub fn unspent(self) {
        self.settle(|pocket, session| {
            // Where an earlier try was paid for and its end unknown, that was the one which ended it.
            if !pocket.unsure.remove(&session) {
                pocket.left = pocket.left.saturating_add(1);
            }
        });
    }

    /// The session may or may not have been ended: it stays paid for, and ending it again costs nothing.
    pub fn unsure(self) {
        self.settle(|pocket, session| {
            if pocket.unsure.len() < UNSURE_MAX {
                pocket.unsure.insert(session);
            }
        });
    }

    fn settle(self, how: impl FnOnce(&mut Pocket, TokenDigest)) {
        if self.purse.granter.is_some() {
            self.purse.with(self.tenant, |pocket| how(pocket, self.session));
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
            steps in proptest::collection::vec((0_i64..20, 1_usize..8), 1..200),
        ) {
            let mut window = Window::new(limit(budget), [], 0);
            let (mut minute, mut given) = (0, Vec::new());
            for (pause, asks) in steps {
                minute += pause;
                for _ in 0..asks {
                    given.push((minute, window.grant(minute)));
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
        assert_eq!(window.used(161), 38);
        assert_eq!(window.used(162), 28);
        assert_eq!(window.used(182), 0);
    }

    /// Grants five, then one, then nothing.
    struct Bank(AtomicU32);

    #[async_trait]
    impl Granter for Bank {
        async fn grant(&self, _tenant: &TenantId, unspent: u32) -> Result<Granted, NoLeave> {
            self.0.fetch_add(unspent, Ordering::Relaxed);
            let amount = self.0.load(Ordering::Relaxed).min(5);
            self.0.fetch_sub(amount, Ordering::Relaxed);
            if amount == 0 {
                return Err(NoLeave::Exhausted);
            }
            Ok(Granted { amount, valid_for: GRANT_LIFE })
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
