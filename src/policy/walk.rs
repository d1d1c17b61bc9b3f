//! The caps, in one walk over the sessions: newest first for `evict_oldest`, oldest first for `reject_newest`.
//!
//! In the words of the rule, for a session `s` and the sessions `S` that the walk met before it:
//!
//! ```text
//! same(s,S)   = sessions in S on the device of s
//! others(s,S) = other devices in S
//! R1 = {s : same(s,S) ≥ M} ∪ {s : others(s, S∩bucket(s)) ≥ N of the bucket}
//! R2 = {s ∉ R1 : others(s, S∖R1) ≥ N}
//! ```
//!
//! Counting is enough. A bucket is a function of the device, and of a device the session met first is in R1 only if
//! its bucket was full before. So the devices in S∖R1 are, of each bucket, the first ones up to its cap; and a session
//! outside R1 has met fewer other devices than that in its own bucket, so that all of them are among those.
//!
//! With `reject_newest`, S is what the session's own lifetime reaches back to, R1 included: a session is judged as if
//! nothing older existed. Judging R1 on a longer past than R2 would not be monotone: one more old session could end
//! the witness and so save the session it stood against.

use jiff::Timestamp;

use super::witnesses::Lists;
use super::{Policy, Strategy, Witnesses};
use crate::model::TokenDigest;

/// A session that counts: listed, not ignored, its login time known.
pub(super) struct Candidate {
    pub digest: TokenDigest,
    pub at: Timestamp,
    pub device: usize,
    pub bucket: Option<usize>,
}

pub(super) struct Caps {
    pub overall: usize,
    pub per_device: usize,
    pub buckets: Vec<usize>,
    /// How far back, in nanoseconds, a session stands against another. Only when the oldest stay.
    pub reach: Option<i128>,
}

impl Caps {
    pub(super) fn new(policy: &Policy, bucket_limits: &[super::Limit]) -> Self {
        let lifetime = i128::try_from(policy.session_lifetime.as_nanos()).unwrap_or(i128::MAX);
        Self {
            overall: policy.limit.number(),
            per_device: policy.per_device.number(),
            buckets: bucket_limits.iter().map(|limit| limit.number()).collect(),
            reach: (policy.strategy == Strategy::RejectNewest).then_some(lifetime),
        }
    }

    pub(super) fn newest_first(&self) -> bool {
        self.reach.is_none()
    }

    pub(super) fn bucket_limit(&self, bucket: usize) -> usize {
        self.buckets.get(bucket).copied().unwrap_or(usize::MAX)
    }
}

/// The cap that a session is over.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Cap {
    Bucket(usize),
    Device,
    Overall,
}

/// For each candidate, the cap it is over and who displaced it, in the order of the walk.
pub(super) fn over_caps(walk: &[Candidate], caps: &Caps, devices: usize) -> Vec<Option<(Cap, Witnesses)>> {
    let mut met = Met::nothing(caps, devices);
    let mut lists = Lists::new(walk, caps, devices);
    let mut too_old = walk.iter().enumerate().peekable();
    let mut results = Vec::with_capacity(walk.len());
    for candidate in walk {
        while let Some((place, old)) = too_old.next_if(|(_, old)| is_out_of_reach(old, candidate, caps)) {
            met.forget(old);
            lists.start_at(place + 1);
        }
        results.push(met.cap_exceeded(candidate).map(|cap| {
            let witnesses = match cap {
                Cap::Bucket(bucket) => lists.of_bucket(bucket, candidate.device),
                Cap::Device => lists.of_device(candidate.device),
                Cap::Overall => lists.overall(candidate.device),
            };
            (cap, witnesses)
        }));
        met.add(candidate);
    }
    results
}

fn is_out_of_reach(old: &Candidate, candidate: &Candidate, caps: &Caps) -> bool {
    caps.reach.is_some_and(|reach| candidate.at.as_nanosecond() - old.at.as_nanosecond() > reach)
}

/// What the walk has met so far and still remembers.
struct Met<'a> {
    caps: &'a Caps,
    sessions_on_device: Vec<usize>,
    devices_in_bucket: Vec<usize>,
    /// Devices that the bucket caps leave.
    devices_left: usize,
}

impl<'a> Met<'a> {
    fn nothing(caps: &'a Caps, devices: usize) -> Self {
        Self {
            caps,
            sessions_on_device: vec![0; devices],
            devices_in_bucket: vec![0; caps.buckets.len()],
            devices_left: 0,
        }
    }

    fn cap_exceeded(&self, candidate: &Candidate) -> Option<Cap> {
        let same = self.sessions_on_device.get(candidate.device).copied().unwrap_or(0);
        let own = usize::from(same > 0);
        if let Some(bucket) = candidate.bucket {
            let in_bucket = self.devices_in_bucket.get(bucket).copied().unwrap_or(0);
            if in_bucket.saturating_sub(own) >= self.caps.bucket_limit(bucket) {
                return Some(Cap::Bucket(bucket));
            }
        }
        if same >= self.caps.per_device {
            return Some(Cap::Device);
        }
        (self.devices_left.saturating_sub(own) >= self.caps.overall).then_some(Cap::Overall)
    }

    fn add(&mut self, candidate: &Candidate) {
        let Some(sessions) = self.sessions_on_device.get_mut(candidate.device) else { return };
        *sessions += 1;
        if *sessions > 1 {
            return;
        }
        match candidate.bucket.and_then(|bucket| Some((bucket, self.devices_in_bucket.get_mut(bucket)?))) {
            Some((bucket, devices)) => {
                self.devices_left += usize::from(*devices < self.caps.bucket_limit(bucket));
                *devices += 1;
            }
            None => self.devices_left += 1,
        }
    }

    /// The reverse of `add`.
    fn forget(&mut self, candidate: &Candidate) {
        let Some(sessions) = self.sessions_on_device.get_mut(candidate.device) else { return };
        *sessions -= 1;
        if *sessions > 0 {
            return;
        }
        match candidate.bucket.and_then(|bucket| Some((bucket, self.devices_in_bucket.get_mut(bucket)?))) {
            Some((bucket, devices)) => {
                *devices -= 1;
                self.devices_left -= usize::from(*devices < self.caps.bucket_limit(bucket));
            }
            None => self.devices_left -= 1,
        }
    }
}
