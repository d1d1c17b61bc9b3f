//! The only place that reads the clock: wall time anchored at start, monotonic from then on.

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// Tells the time as the wall clock showed it at start plus the monotonic time since.
///
/// So a wall clock that jumps while we run moves no due time and no window. It also follows tokio's paused test clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started_at: Timestamp,
    started: Instant,
}

impl Clock {
    /// Reads the wall clock, once.
    #[expect(clippy::disallowed_methods, reason = "this is the edge at which the clock is read")]
    pub fn start() -> Self {
        Self { started_at: Timestamp::now(), started: Instant::now() }
    }

    /// A clock that shows `at` now.
    pub fn starting_at(at: Timestamp) -> Self {
        Self { started_at: at, started: Instant::now() }
    }

    pub fn now(&self) -> Timestamp {
        let elapsed = SignedDuration::try_from(self.started.elapsed()).unwrap_or(SignedDuration::MAX);
        self.started_at.checked_add(elapsed).unwrap_or(Timestamp::MAX)
    }

    /// Milliseconds since 1970, for storing.
    pub fn now_ms(&self) -> i64 {
        self.now().as_millisecond()
    }
}
