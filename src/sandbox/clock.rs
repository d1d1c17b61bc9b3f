//! The world's clock: the present at the start, moved on by the runtime's clock (which tests can pause) and by hand.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use tokio::time::Instant;

use super::{session::cut, world::later};

/// See the top of this file.
#[derive(Debug)]
pub(super) struct Clock {
    began_at: Timestamp,
    began: Instant,
    advanced: Mutex<Duration>,
}

impl Clock {
    pub(super) fn new(starts_at: Option<Timestamp>) -> Self {
        #[expect(clippy::disallowed_methods, reason = "the one place where the sandbox reads the clock")]
        let began_at = starts_at.unwrap_or_else(Timestamp::now);
        Self { began_at, began: Instant::now(), advanced: Mutex::default() }
    }

    /// In steps of 100 nanoseconds, like the vendor's.
    pub(super) fn now(&self) -> Timestamp {
        let advanced = *self.advanced.lock().unwrap_or_else(PoisonError::into_inner);
        cut(later(self.began_at, self.began.elapsed().saturating_add(advanced)), 7)
    }

    pub(super) fn advance(&self, by: Duration) {
        let mut advanced = self.advanced.lock().unwrap_or_else(PoisonError::into_inner);
        *advanced = advanced.saturating_add(by);
    }
}
