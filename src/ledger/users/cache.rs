//! Who is on the disk as seen of late, so that most logins write nothing. It is bounded: whom it has forgotten is
//! written once more, and only a chance of one in 2⁶⁴ a pair takes one user for another.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::model::{TenantId, UserId};

/// Users that are remembered, twelve bytes each: 24 MiB, of which only what is used takes memory.
const USERS_MAX: usize = 1 << 21;
/// Places that a user may be in.
const WAYS: usize = 4;
const MS_PER_SECOND: i64 = 1_000;

pub(in crate::ledger) struct SeenCache {
    hasher: RandomState,
    places: Mutex<Places>,
}

/// A key of 0 is a free place.
struct Places {
    keys: Vec<u64>,
    /// The stored `seen_at` in whole seconds since 1970, rounded down.
    seconds: Vec<u32>,
}

impl SeenCache {
    pub(in crate::ledger) fn new() -> Self {
        Self::with_places(USERS_MAX)
    }

    fn with_places(places: usize) -> Self {
        let places = places.next_multiple_of(WAYS);
        Self {
            hasher: RandomState::new(),
            places: Mutex::new(Places { keys: vec![0; places], seconds: vec![0; places] }),
        }
    }

    /// When the user was seen as far as the disk is known to have it, in milliseconds since 1970.
    pub(in crate::ledger) fn stored_ms(&self, tenant: &TenantId, user: &UserId) -> Option<i64> {
        let key = self.key(tenant, user);
        let places = self.places();
        let (place, _) = places.ways(key).find(|(_, taken)| *taken == key)?;
        places.seconds.get(place).map(|seconds| i64::from(*seconds) * MS_PER_SECOND)
    }

    /// The disk has it from now on. Where all places are taken, the one that was seen longest ago is forgotten.
    pub(in crate::ledger) fn note(&self, tenant: &TenantId, user: &UserId, seen_at_ms: i64) {
        let key = self.key(tenant, user);
        let seconds = u32::try_from(seen_at_ms / MS_PER_SECOND).unwrap_or(0);
        let mut places = self.places();
        let own = places.ways(key).find(|(_, taken)| *taken == key);
        let free = || places.ways(key).find(|(_, taken)| *taken == 0);
        let oldest = || places.ways(key).min_by_key(|(place, _)| places.seconds.get(*place).copied());
        let Some((place, taken)) = own.or_else(free).or_else(oldest) else { return };
        let Places { keys, seconds: stored } = &mut *places;
        if let (Some(at), Some(stored)) = (keys.get_mut(place), stored.get_mut(place)) {
            *at = key;
            *stored = if taken == key { seconds.max(*stored) } else { seconds };
        }
    }

    /// The disk no longer has this user.
    pub(in crate::ledger) fn forget(&self, tenant: &TenantId, user: &UserId) {
        let key = self.key(tenant, user);
        let mut places = self.places();
        let own = places.ways(key).find(|(_, taken)| *taken == key);
        if let Some(place) = own.and_then(|(place, _)| places.keys.get_mut(place)) {
            *place = 0;
        }
    }

    /// The disk no longer has anybody.
    pub(in crate::ledger) fn clear(&self) {
        self.places().keys.fill(0);
    }

    fn key(&self, tenant: &TenantId, user: &UserId) -> u64 {
        self.hasher.hash_one((tenant, user)).max(1)
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Places {
    /// The places that a key may be in, and what is in them.
    fn ways(&self, key: u64) -> impl Iterator<Item = (usize, u64)> + '_ {
        let sets = (self.keys.len() / WAYS).max(1) as u64;
        let first = usize::try_from(key % sets).unwrap_or(0) * WAYS;
        (first..first + WAYS).filter_map(|place| Some((place, *self.keys.get(place)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(number: usize) -> UserId {
        UserId::parse(&format!("user-{number}")).unwrap()
    }

    #[test]
    fn what_was_noted_is_known_until_it_is_forgotten() {
        let (cache, tenant) = (SeenCache::with_places(64), TenantId::default_tenant());
        let other = TenantId::parse("acme").unwrap();
        cache.note(&tenant, &user(1), 7_900);
        cache.note(&tenant, &user(1), 5_000);
        assert_eq!(cache.stored_ms(&tenant, &user(1)), Some(7_000));
        assert_eq!((cache.stored_ms(&tenant, &user(2)), cache.stored_ms(&other, &user(1))), (None, None));
        cache.forget(&tenant, &user(1));
        assert_eq!(cache.stored_ms(&tenant, &user(1)), None);
        cache.note(&tenant, &user(1), 7_000);
        cache.clear();
        assert_eq!(cache.stored_ms(&tenant, &user(1)), None);
    }

    #[test]
    fn a_full_cache_forgets_those_seen_longest_ago_and_takes_nobody_for_another() {
        let (cache, tenant) = (SeenCache::with_places(256), TenantId::default_tenant());
        for number in 0..10_000 {
            cache.note(&tenant, &user(number), i64::try_from(number).unwrap() * MS_PER_SECOND);
        }
        let known: Vec<usize> =
            (0..10_000).filter(|number| cache.stored_ms(&tenant, &user(*number)).is_some()).collect();
        assert!((200..=256).contains(&known.len()), "{}", known.len());
        assert!(known.iter().sum::<usize>() / known.len() > 9_500, "the newest stay");
    }
}
