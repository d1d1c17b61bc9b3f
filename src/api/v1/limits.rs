//! How often somebody may ask.

use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use http::StatusCode;

use crate::http::Problem;

/// Limiters forget who has not asked lately after so many requests.
const TIDY_EVERY: u32 = 10_000;

/// Counts requests by whoever makes them.
pub(super) struct Limit<K: Hash + Eq + Clone> {
    limiter: DefaultKeyedRateLimiter<K>,
    since_tidy: AtomicU32,
}

impl<K: Hash + Eq + Clone> Limit<K> {
    pub(super) fn new(per_second: u32) -> Self {
        let quota = Quota::per_second(NonZeroU32::new(per_second).unwrap_or(NonZeroU32::MIN));
        Self { limiter: RateLimiter::keyed(quota), since_tidy: AtomicU32::new(0) }
    }

    pub(super) fn admit(&self, key: &K) -> Result<(), Problem> {
        if self.since_tidy.fetch_add(1, Ordering::Relaxed) >= TIDY_EVERY {
            self.since_tidy.store(0, Ordering::Relaxed);
            self.limiter.retain_recent();
        }
        let now = DefaultClock::default().now();
        self.limiter.check_key(key).map_err(|not_until| too_many(not_until.wait_time_from(now)))
    }
}

/// To come again after so long.
pub(super) fn too_many(wait: Duration) -> Problem {
    Problem {
        retry_after: u32::try_from(wait.as_secs()).unwrap_or(u32::MAX).saturating_add(1),
        ..Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", "too many requests: come again later")
    }
}

/// One household has a whole /64.
pub(super) fn network(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_too_often_is_told_when_to_come_again() {
        let limit = Limit::new(2);
        assert!(limit.admit(&1).is_ok() && limit.admit(&1).is_ok() && limit.admit(&2).is_ok());
        let problem = limit.admit(&1).unwrap_err();
        assert_eq!((problem.status.as_u16(), problem.retry_after), (429, 1));
    }
}
