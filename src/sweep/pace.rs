//! How fast the sweep must go. Pure arithmetic: time is an argument.

use std::time::Duration;

/// Nobody is looked at again before this part of the interval has passed: who logs in every hour needs no sweep.
const REST_PART: u32 = 2;
/// What is late, or about to be, is caught up with in this part of the interval, and not at once.
const CATCH_UP_PART: u32 = 3;
/// So much faster than just enough, since a message waits in the queue, too.
const HEADROOM: f64 = 1.1;

/// The pace at which every user whose turn comes is looked at before the interval has passed, as far as known so far.
#[derive(Clone, Copy, Debug)]
pub(super) struct Need {
    now_ms: i64,
    interval: Duration,
    users: u32,
    per_second: f64,
}

impl Need {
    pub(super) fn new(now_ms: i64, interval: Duration) -> Self {
        Self { now_ms, interval, users: 0, per_second: 0.0 }
    }

    /// Takes up the next user, in the order of when they were asked about last.
    pub(super) fn add(&mut self, asked_at_ms: i64) {
        self.users = self.users.saturating_add(1);
        let passed = self.now_ms.saturating_sub(asked_at_ms);
        let passed = Duration::from_millis(u64::try_from(passed).unwrap_or(0));
        let left = self.interval.saturating_sub(passed).max(self.interval / CATCH_UP_PART);
        self.per_second = self.per_second.max(f64::from(self.users) / left.as_secs_f64());
    }

    pub(super) fn per_second(&self) -> f64 {
        self.per_second * HEADROOM
    }
}

/// Who was asked about after this time is left in peace now.
pub(super) fn due_before_ms(now_ms: i64, interval: Duration) -> i64 {
    let rest = i64::try_from((interval / REST_PART).as_millis()).unwrap_or(i64::MAX);
    now_ms.saturating_sub(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: i64 = 3_600_000;
    const INTERVAL: Duration = Duration::from_hours(6);
    const NOW_MS: i64 = 1_000 * HOUR_MS;

    /// Users an hour, for users who were asked about so many hours ago.
    fn per_hour(hours_ago: impl Iterator<Item = f64>) -> f64 {
        let mut need = Need::new(NOW_MS, INTERVAL);
        #[expect(clippy::cast_possible_truncation, reason = "milliseconds of some hours")]
        let mut asked: Vec<i64> = hours_ago.map(|hours| NOW_MS - (hours * 3_600_000.0) as i64).collect();
        asked.sort_unstable();
        asked.into_iter().filter(|at| *at <= due_before_ms(NOW_MS, INTERVAL)).for_each(|at| need.add(at));
        need.per_second() * 3_600.0 / HEADROOM
    }

    #[test]
    fn users_spread_over_the_interval_need_an_even_pace() {
        let pace = per_hour((0..6_000).map(|n| f64::from(n) / 1_000.0));
        assert!((990.0..1_010.0).contains(&pace), "{pace}");
    }

    #[test]
    fn users_asked_about_all_at_once_are_spread_before_they_are_late() {
        assert!(per_hour((0..600).map(|_| 2.9)) < 1e-9, "they are left in peace for half of it");
        let pace = per_hour((0..600).map(|_| 3.0));
        assert!((199.0..201.0).contains(&pace), "{pace}");
    }

    #[test]
    fn what_is_late_by_years_is_caught_up_with_evenly() {
        let pace = per_hour((0..600).map(|_| 50_000.0));
        assert!((299.0..301.0).contains(&pace), "in a third of the interval: {pace}");
    }

    #[test]
    fn a_time_in_the_future_counts_as_now() {
        let mut need = Need::new(NOW_MS, INTERVAL);
        need.add(NOW_MS + 10_000 * HOUR_MS);
        assert!((need.per_second() * 21_600.0 - HEADROOM).abs() < 1e-9);
    }
}
