//! How long to wait after a failure. Pure arithmetic: chance and the attempt's number are arguments.

use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff as _;

/// Tries of one provider call inside a step, the first included.
pub const STEP_TRIES_MAX: u32 = 3;

const STEP: Ladder = Ladder { first: Duration::from_millis(50), factor: 5.0, longest: Duration::from_secs(1) };
const RECONNECT: Ladder = Ladder { first: Duration::from_millis(200), factor: 2.0, longest: Duration::from_secs(5) };
const PROBE: Ladder = Ladder { first: Duration::from_secs(1), factor: 2.0, longest: Duration::from_secs(30) };

/// Between attempts of a delivery; after the last its delay goes on. A broker has one queue a rung.
pub const DELIVERIES: [Duration; 6] = [
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_mins(2),
    Duration::from_mins(10),
    Duration::from_hours(1),
];

/// Between a second look and the next: 1, 5, 30, 120 s; after the last the sweep looks again.
const RECHECKS: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(30), Duration::from_mins(2)];

/// The rung at which a login whose time is known to the second only gets its one second look, after 5 s.
pub const RECHECK_ONCE: u8 = 1;

struct Ladder {
    first: Duration,
    factor: f64,
    longest: Duration,
}

impl Ladder {
    /// The delay after failure number `failures` (1-based), times `jitter` (0 to 1).
    fn delay(&self, failures: u32, jitter: f64) -> Duration {
        let mut backoff = ExponentialBackoff {
            current_interval: self.first,
            initial_interval: self.first,
            multiplier: self.factor,
            max_interval: self.longest,
            randomization_factor: 0.0,
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        };
        // Enough to reach any ladder's longest delay; the loop must not be as long as a caller's counter.
        let steps = failures.clamp(1, 32);
        let delay = (0..steps).filter_map(|_| backoff.next_backoff()).last().unwrap_or(self.longest);
        delay.mul_f64(jitter.clamp(0.0, 1.0))
    }
}

/// The delay before the next try of a provider call inside a step, or `None` when `tries` were enough.
pub fn step_delay(tries: u32, jitter: f64) -> Option<Duration> {
    (tries < STEP_TRIES_MAX).then(|| STEP.delay(tries, jitter))
}

/// The delay before the next attempt of a delivery whose attempt number `attempt` (1-based) failed.
pub fn delivery_delay(attempt: u32, jitter: f64) -> Duration {
    let [.., longest] = DELIVERIES;
    let rung = usize::try_from(attempt.saturating_sub(1)).unwrap_or(usize::MAX);
    DELIVERIES.get(rung).copied().unwrap_or(longest).mul_f64(jitter.clamp(0.0, 1.0))
}

/// The delay before probe number `probe` (1-based) of a provider that is out.
pub fn probe_delay(probe: u32) -> Duration {
    PROBE.delay(probe, 1.0)
}

/// The delay before the next attempt to reach a broker after failure number `failures` (1-based).
pub fn reconnect_delay(failures: u32) -> Duration {
    RECONNECT.delay(failures, 1.0)
}

/// How long after a look the re-check of this rung comes, or `None` above the last rung.
pub fn recheck_delay(rung: u8) -> Option<Duration> {
    RECHECKS.get(usize::from(rung)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(ladder: impl Fn(u32) -> Duration) -> Vec<f64> {
        (1..=7).map(|failures| ladder(failures).as_secs_f64()).collect()
    }

    #[test]
    fn the_ladders_without_jitter() {
        assert_eq!(seconds(|n| delivery_delay(n, 1.0)), [1.0, 5.0, 30.0, 120.0, 600.0, 3600.0, 3600.0]);
        assert_eq!(seconds(reconnect_delay), [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]);
        assert_eq!(seconds(probe_delay), [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]);
        assert_eq!(step_delay(1, 1.0), Some(Duration::from_millis(50)));
        assert_eq!(step_delay(2, 1.0), Some(Duration::from_millis(250)));
        assert_eq!(step_delay(3, 1.0), None);
        assert_eq!((0..6).map_while(recheck_delay).map(|d| d.as_secs()).collect::<Vec<_>>(), [1, 5, 30, 120]);
    }

    #[test]
    fn jitter_only_shortens_and_no_number_overflows() {
        assert_eq!(delivery_delay(2, 0.5), Duration::from_millis(2500));
        assert_eq!(delivery_delay(2, 0.0), Duration::ZERO);
        assert_eq!(delivery_delay(u32::MAX, 7.0), Duration::from_hours(1));
        assert_eq!(delivery_delay(0, 1.0), Duration::from_secs(1));
    }
}
