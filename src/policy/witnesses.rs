//! The sessions that displaced another one. Verdicts with the same witnesses share them.

use std::collections::HashMap;
use std::sync::Arc;

use serde::ser::{Serialize, Serializer};

use super::walk::{Candidate, Caps};
use crate::model::TokenDigest;

/// Exactly as many sessions as the cap needs, newest login first.
///
/// The list is shared by all sessions that one cap ended, and is one longer than the cap where the sessions of a
/// listed device are among them: a device is no witness against itself, so each verdict leaves one out.
#[derive(Clone, Default)]
pub struct Witnesses {
    shared: Arc<[TokenDigest]>,
    left_out: Option<usize>,
}

impl Witnesses {
    pub fn iter(&self) -> impl Iterator<Item = &TokenDigest> {
        let left_out = self.left_out;
        self.shared.iter().enumerate().filter(move |(n, _)| Some(*n) != left_out).map(|(_, digest)| digest)
    }

    pub fn len(&self) -> usize {
        self.shared.len() - usize::from(self.left_out.is_some())
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl PartialEq for Witnesses {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Witnesses {}

impl std::fmt::Debug for Witnesses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl Serialize for Witnesses {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter().map(|digest| digest.session_id().to_string()))
    }
}

/// Makes the shared lists when the first verdict asks for one.
///
/// All lists look at the walk from `start` on. The sessions a walk meets first are the ones that stay, so they are
/// the witnesses: the first session of each of the first devices, or the first sessions of one device.
pub(super) struct Lists<'a> {
    walk: &'a [Candidate],
    caps: &'a Caps,
    devices: usize,
    start: usize,
    overall: Option<DeviceList>,
    of_buckets: HashMap<usize, DeviceList>,
    /// By device, each with the start it was made for.
    of_devices: Vec<Option<(usize, Arc<[TokenDigest]>)>>,
    /// Device and place of each candidate, sorted.
    by_device: Vec<(u32, u32)>,
}

/// The first session of each of the first devices of a walk, one device more than needed where there is one.
struct DeviceList {
    needed: usize,
    digests: Arc<[TokenDigest]>,
    /// By device.
    places: Vec<Option<usize>>,
    last_met: usize,
}

impl<'a> Lists<'a> {
    pub(super) fn new(walk: &'a [Candidate], caps: &'a Caps, devices: usize) -> Self {
        let (overall, of_buckets) = (None, HashMap::new());
        Self {
            walk,
            caps,
            devices,
            start: 0,
            overall,
            of_buckets,
            of_devices: vec![None; devices],
            by_device: Vec::new(),
        }
    }

    /// Leaves out what the walk met before `start`.
    pub(super) fn start_at(&mut self, start: usize) {
        if start != self.start {
            self.start = start;
            self.overall = None;
            self.of_buckets.clear();
        }
    }

    /// Other devices than this one, among all that the bucket caps leave.
    pub(super) fn overall(&mut self, device: usize) -> Witnesses {
        let (walk, caps, devices, start) = (self.walk, self.caps, self.devices, self.start);
        let list = self.overall.get_or_insert_with(|| {
            let mut in_bucket = vec![0; caps.buckets.len()];
            let mut fits = |candidate: &Candidate| {
                let Some(bucket) = candidate.bucket else { return true };
                let limit = caps.bucket_limit(bucket);
                in_bucket.get_mut(bucket).is_none_or(|count| {
                    *count += 1;
                    *count <= limit
                })
            };
            DeviceList::new(walk.iter().skip(start), devices, caps.overall, caps.newest_first(), &mut fits)
        });
        list.without(device)
    }

    /// Other devices than this one in its bucket.
    pub(super) fn of_bucket(&mut self, bucket: usize, device: usize) -> Witnesses {
        let (walk, caps, devices, start) = (self.walk, self.caps, self.devices, self.start);
        let list = self.of_buckets.entry(bucket).or_insert_with(|| {
            let inside = walk.iter().skip(start).filter(|candidate| candidate.bucket == Some(bucket));
            DeviceList::new(inside, devices, caps.bucket_limit(bucket), caps.newest_first(), &mut |_| true)
        });
        list.without(device)
    }

    /// Other sessions on the same device.
    pub(super) fn of_device(&mut self, device: usize) -> Witnesses {
        let start = self.start;
        let made = self.of_devices.get(device).and_then(Option::as_ref).filter(|(made_for, _)| *made_for == start);
        if let Some((_, shared)) = made {
            return Witnesses { shared: Arc::clone(shared), left_out: None };
        }
        let shared = self.first_of_device(device);
        if let Some(place) = self.of_devices.get_mut(device) {
            *place = Some((start, Arc::clone(&shared)));
        }
        Witnesses { shared, left_out: None }
    }

    fn first_of_device(&mut self, device: usize) -> Arc<[TokenDigest]> {
        let short = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        if self.by_device.is_empty() {
            self.by_device = self.walk.iter().zip(0..).map(|(met, place)| (short(met.device), place)).collect();
            self.by_device.sort_unstable();
        }
        let from = (short(device), short(self.start));
        let first = self.by_device.partition_point(|entry| *entry < from);
        let places = self.by_device.iter().skip(first).take(self.caps.per_device);
        let met = places.filter_map(|(_, place)| self.walk.get(usize::try_from(*place).ok()?));
        let mut digests: Vec<TokenDigest> = met.map(|met| met.digest).collect();
        if !self.caps.newest_first() {
            digests.reverse();
        }
        digests.into()
    }
}

impl DeviceList {
    /// `fits` is asked once for each device, at its first session.
    fn new<'a>(
        walk: impl Iterator<Item = &'a Candidate>,
        devices: usize,
        needed: usize,
        newest_first: bool,
        fits: &mut dyn FnMut(&Candidate) -> bool,
    ) -> Self {
        let mut met = vec![false; devices];
        let is_first = |met: Option<&mut bool>| met.is_some_and(|met| !std::mem::replace(met, true));
        let firsts = walk.filter(|candidate| is_first(met.get_mut(candidate.device)) && fits(candidate));
        let mut firsts: Vec<&Candidate> = firsts.take(needed.saturating_add(1)).collect();
        if !newest_first {
            firsts.reverse();
        }
        let mut places = vec![None; devices];
        for (n, first) in firsts.iter().enumerate() {
            if let Some(place) = places.get_mut(first.device) {
                *place = Some(n);
            }
        }
        Self {
            needed,
            digests: firsts.iter().map(|first| first.digest).collect(),
            places,
            last_met: if newest_first { firsts.len().saturating_sub(1) } else { 0 },
        }
    }

    fn without(&self, device: usize) -> Witnesses {
        let own = self.places.get(device).copied().flatten();
        let left_out = (self.digests.len() > self.needed).then_some(own.unwrap_or(self.last_met));
        Witnesses { shared: Arc::clone(&self.digests), left_out }
    }
}
