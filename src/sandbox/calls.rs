//! Counts the vendor calls, and refuses those beyond the rate limit.

use std::collections::{BTreeMap, VecDeque};

use tokio::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);

/// The calls so far.
#[derive(Debug, Default)]
pub(super) struct Calls {
    pub(super) by_operation: BTreeMap<&'static str, u64>,
    pub(super) by_answer: BTreeMap<String, u64>,
    /// The largest number of calls within any one second, refused ones included.
    pub(super) most_in_a_second: usize,
    arrived: VecDeque<Instant>,
    admitted: VecDeque<Instant>,
}

fn forget(window: &mut VecDeque<Instant>, now: Instant) {
    while window.front().is_some_and(|&at| now.duration_since(at) >= SECOND) {
        window.pop_front();
    }
}

impl Calls {
    /// Counts a call. False: it is one too many within the last second.
    pub(super) fn arrive(&mut self, operation: &'static str, limit: Option<u32>, now: Instant) -> bool {
        let count = self.by_operation.entry(operation).or_default();
        *count = count.saturating_add(1);
        forget(&mut self.arrived, now);
        self.arrived.push_back(now);
        self.most_in_a_second = self.most_in_a_second.max(self.arrived.len());
        let Some(limit) = limit else { return true };
        forget(&mut self.admitted, now);
        let admitted = self.admitted.len() < usize::try_from(limit).unwrap_or(usize::MAX);
        if admitted {
            self.admitted.push_back(now);
        }
        admitted
    }

    /// Counts an answer, `lost` if it was never given.
    pub(super) fn answered(&mut self, operation: &str, answer: &str) {
        let count = self.by_answer.entry(format!("{operation} {answer}")).or_default();
        *count = count.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_second_admits_more_than_the_limit() {
        let mut calls = Calls::default();
        let start = Instant::now();

        let admitted: Vec<bool> = [0, 100, 200, 999, 1_000, 1_050, 1_100]
            .map(|ms| calls.arrive("list", Some(2), start + Duration::from_millis(ms)))
            .into();

        assert_eq!(admitted, [true, true, false, false, true, false, true]);
        assert_eq!((calls.most_in_a_second, calls.by_operation["list"]), (5, 7));
    }
}
