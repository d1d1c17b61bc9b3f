//! The event ids of the last day, as 64-bit keys: thrift, not safety, since a repeated event is harmless.

use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

use sha2::{Digest as _, Sha256};

use crate::model::LoginEvent;

/// SHA-256 over tenant, user, event id and time, cut to 64 bits.
pub(in crate::queue) fn key(event: &LoginEvent) -> u64 {
    let mut hash = Sha256::new();
    for part in [event.tenant.as_str(), event.user.as_str(), event.id.as_str()] {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    if let Some(at) = event.at {
        hash.update(at.as_nanosecond().to_be_bytes());
    }
    hash.finalize().first_chunk::<8>().map_or(0, |first| u64::from_be_bytes(*first))
}

/// Keys are hash values already, so they are their own hash.
#[derive(Default)]
struct Itself(u64);

impl Hasher for Itself {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }
    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

/// Keys that were remembered together, as stored in one row of the `seen` table.
struct Group {
    row: i64,
    minute: i64,
    keys: u32,
}

/// At least so many groups make up a full set, so that forgetting one forgets little.
const GROUPS_AT_LIMIT: usize = 16;

/// The set in memory, about 27 bytes a key; the `seen` table has the same keys in the same order.
pub(in crate::queue) struct Dedupe {
    known: HashSet<u64, BuildHasherDefault<Itself>>,
    in_order: VecDeque<u64>,
    groups: VecDeque<Group>,
    keys_max: usize,
    window_minutes: i64,
}

impl Dedupe {
    pub(in crate::queue) fn new(keys_max: usize, window_minutes: i64) -> Self {
        Self { known: HashSet::default(), in_order: VecDeque::new(), groups: VecDeque::new(), keys_max, window_minutes }
    }

    /// Makes room at once, so that no half-full table is left behind on the way up.
    pub(in crate::queue) fn reserve(&mut self, keys: usize) {
        let keys = keys.min(self.keys_max);
        self.known.reserve(keys);
        self.in_order.reserve(keys);
    }

    pub(in crate::queue) fn contains(&self, key: u64) -> bool {
        self.known.contains(&key)
    }

    /// Remembers keys that were stored in row `row` at minute `minute`. Keys known already are passed over.
    pub(in crate::queue) fn insert(&mut self, row: i64, minute: i64, keys: impl Iterator<Item = u64>) {
        let mut added = 0;
        for key in keys {
            if self.known.insert(key) {
                self.in_order.push_back(key);
                added += 1;
            }
        }
        match self.groups.back_mut() {
            Some(last) if last.minute >= minute && (last.keys as usize) < self.keys_max / GROUPS_AT_LIMIT => {
                last.row = row;
                last.keys += added;
            }
            _ => self.groups.push_back(Group { row, minute, keys: added }),
        }
    }

    /// Forgets what is older than the window or over the limit; returns the last row that is no longer needed.
    pub(in crate::queue) fn expire(&mut self, now_minute: i64) -> Option<i64> {
        let mut last_row = None;
        while let Some(oldest) = self.groups.front() {
            let too_old = oldest.minute < now_minute - self.window_minutes;
            if !too_old && self.in_order.len() <= self.keys_max {
                break;
            }
            for _ in 0..oldest.keys {
                if let Some(key) = self.in_order.pop_front() {
                    self.known.remove(&key);
                }
            }
            last_row = Some(oldest.row);
            self.groups.pop_front();
        }
        last_row
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_forgotten_after_the_window_and_over_the_limit_oldest_first() {
        let mut dedupe = Dedupe::new(32, 10);
        for row in 0..40_i64 {
            dedupe.insert(row, row / 8, std::iter::once(row.unsigned_abs()));
        }
        let forgotten = dedupe.expire(5).expect("eight keys too many");
        assert_eq!(dedupe.in_order.len(), 32);
        assert!(!dedupe.contains(0) && dedupe.contains(39));
        assert_eq!(forgotten, 7);
        assert_eq!(dedupe.expire(14), Some(31), "minutes 0 to 3 are older than ten minutes");
        assert_eq!(dedupe.expire(15), Some(39));
        assert!(dedupe.known.is_empty());
    }
}
