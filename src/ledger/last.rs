//! What was last recorded about each user, in memory: a look that finds nothing new is not recorded again.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Mutex, PoisonError};

use super::Intent;

/// Users in one of the two generations; a few dozen bytes each.
const GENERATION_USERS_MAX: usize = 65_536;

/// Bounded: the users of whom nothing was recorded for longest are forgotten, and recorded once more.
pub(super) struct LastRecorded {
    hasher: RandomState,
    generations: Mutex<Generations>,
}

#[derive(Default)]
struct Generations {
    young: HashMap<u64, u64>,
    old: HashMap<u64, u64>,
}

impl LastRecorded {
    pub(super) fn new() -> Self {
        Self { hasher: RandomState::new(), generations: Mutex::default() }
    }

    /// Whether this is the decision that was recorded last about its user. From now on it is.
    pub(super) fn is_repeated(&self, intent: &Intent) -> bool {
        let user = self.hasher.hash_one((intent.tenant.as_str(), intent.user.as_str()));
        let decision = u64::from_be_bytes(intent.decision.id.0.first_chunk().copied().unwrap_or_default());
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        let known = generations.young.get(&user).or_else(|| generations.old.get(&user)).copied();
        if generations.young.len() >= GENERATION_USERS_MAX {
            generations.old = std::mem::take(&mut generations.young);
        }
        generations.young.insert(user, decision);
        known == Some(decision)
    }
}
