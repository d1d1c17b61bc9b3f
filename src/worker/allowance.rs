//! How many calls may be made now: saved up at a rate that may change, as far as a short burst. Time is an argument.

use std::num::NonZeroU32;
use std::time::Duration;

use tokio::time::Instant;

use super::fleet::Share;

/// The burst that the rate allows: what it gives in this part of a second, and one call at least.
const BURST_PART_OF_SECOND: f64 = 10.0;
/// So much may be missing from a call, since fractions are summed up inexactly. It is owed afterwards.
const TOLERANCE: f64 = 1e-6;

/// Whether a call may be made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Turn {
    Now,
    After(Duration),
    /// Not before the share is another one.
    Closed,
}

pub(super) struct Allowance {
    /// Calls a second, of which we have a share.
    whole_rate: f64,
    share: Share,
    /// Calls, and fractions of one.
    saved: f64,
    counted_at: Instant,
}

impl Allowance {
    pub(super) fn new(per_second: NonZeroU32, now: Instant) -> Self {
        let whole_rate = f64::from(per_second.get());
        Self { whole_rate, share: Share::WHOLE, saved: burst(whole_rate), counted_at: now }
    }

    /// From now on this much of the rate is ours. What was saved stays, within the new burst; with no share nothing is.
    pub(super) fn set_share(&mut self, share: Share, now: Instant) {
        self.count(now);
        self.share = share;
        self.saved = if share.is_none() { 0.0 } else { self.saved.min(burst(self.rate())) };
    }

    /// Takes one call, or says how long there is none.
    pub(super) fn take(&mut self, now: Instant) -> Turn {
        if self.share.is_none() {
            return Turn::Closed;
        }
        self.count(now);
        let missing = 1.0 - self.saved;
        if missing > TOLERANCE {
            return Turn::After(Duration::try_from_secs_f64(missing / self.rate()).unwrap_or(Duration::MAX));
        }
        self.saved -= 1.0;
        Turn::Now
    }

    fn rate(&self) -> f64 {
        self.whole_rate * self.share.as_f64()
    }

    fn count(&mut self, now: Instant) {
        let seconds = now.saturating_duration_since(self.counted_at).as_secs_f64();
        self.saved = (self.saved + seconds * self.rate()).min(burst(self.rate()));
        self.counted_at = now;
    }
}

fn burst(rate: f64) -> f64 {
    (rate / BURST_PART_OF_SECOND).floor().max(1.0)
}
