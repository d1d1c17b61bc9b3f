//! Whether the devices of a user end each other for ever: two clients that log in again on every kick, say.
//!
//! Pure: what happened and what time it is are arguments. It knows devices by hashes of their words, in memory only.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use crate::model::{SessionId, UserId};

/// Users whose evictions are remembered; further ones are not guarded until others are forgotten.
const USERS_MAX: usize = 100_000;
/// Evictions of one user that are remembered.
const EVICTIONS_MAX: usize = 1_000;

/// A device as its session tells it: by its words, and by the network it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeviceKey {
    words: u64,
    network: u64,
}

impl DeviceKey {
    /// Words are compared trimmed and in lower case. `network` may be left out where it is not known.
    pub fn of<'a>(words: impl IntoIterator<Item = Option<&'a str>>, network: Option<&str>) -> Self {
        let hash = |parts: &[String]| {
            let mut hasher = DefaultHasher::new();
            parts.hash(&mut hasher);
            hasher.finish()
        };
        let plain = |word: Option<&str>| word.unwrap_or_default().trim().to_lowercase();
        let words: Vec<String> = words.into_iter().map(plain).collect();
        Self { words: hash(&words), network: hash(&[plain(network)]) }
    }
}

/// A session was ended because others are newer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eviction {
    /// Milliseconds since 1970, by our clock.
    pub at_ms: i64,
    pub evicted: DeviceKey,
    /// The newest session that displaced it.
    pub by: Option<DeviceKey>,
    pub session: SessionId,
    /// All that were to end with it. However many looks that takes, it counts once: a pile of sessions is nobody's game.
    pub pile: Vec<SessionId>,
}

/// The evictions of the last while, by user.
#[derive(Debug)]
pub struct PingPong {
    evictions: usize,
    window_ms: i64,
    users: HashMap<UserId, OfUser>,
}

#[derive(Debug, Default)]
struct OfUser {
    evictions: VecDeque<Swing>,
    /// The pile of the last eviction that counted.
    pile: Vec<SessionId>,
}

#[derive(Debug)]
struct Swing {
    at_ms: i64,
    evicted: DeviceKey,
    by: Option<DeviceKey>,
}

impl PingPong {
    /// `evictions` of one user within `window` make them contended, when they alternate between the same devices.
    pub fn new(evictions: u32, window: Duration) -> Self {
        let evictions = usize::try_from(evictions).unwrap_or(usize::MAX);
        let window_ms = i64::try_from(window.as_millis()).unwrap_or(i64::MAX);
        Self { evictions, window_ms, users: HashMap::new() }
    }

    pub fn knows(&self, user: &UserId) -> bool {
        self.users.contains_key(user)
    }

    pub fn note(&mut self, user: &UserId, eviction: Eviction) {
        if self.users.len() >= USERS_MAX && !self.knows(user) {
            self.forget(eviction.at_ms);
            if self.users.len() >= USERS_MAX {
                return;
            }
        }
        let Eviction { at_ms, evicted, by, session, pile } = eviction;
        let of_user = self.users.entry(user.clone()).or_default();
        if of_user.pile.contains(&session) {
            return;
        }
        of_user.pile = pile;
        of_user.evictions.push_back(Swing { at_ms, evicted, by });
        if of_user.evictions.len() > EVICTIONS_MAX {
            of_user.evictions.pop_front();
        }
    }

    /// Whether the user's devices alternate: another one was ended nearly every time, and each of at most half as many
    /// devices as there were evictions came again. Devices with the same words are told apart by their networks.
    pub fn is_contended(&self, user: &UserId, now_ms: i64) -> bool {
        let Some(OfUser { evictions, .. }) = self.users.get(user) else { return false };
        let since = now_ms.saturating_sub(self.window_ms);
        let recent: Vec<&Swing> = evictions.iter().filter(|eviction| eviction.at_ms > since).collect();
        let by_words = |key: DeviceKey| DeviceKey { network: 0, ..key };
        alternate(&recent, by_words, self.evictions) || alternate(&recent, |key| key, self.evictions)
    }

    /// Forgets a user: whatever was done about them, they begin anew.
    pub fn release(&mut self, user: &UserId) {
        self.users.remove(user);
    }

    fn forget(&mut self, now_ms: i64) {
        let since = now_ms.saturating_sub(self.window_ms);
        self.users.retain(|_, of_user| of_user.evictions.back().is_some_and(|last| last.at_ms > since));
    }
}

/// Several ends of one device in a row are one turn of the game: a client may refresh while it is ended, and where the
/// answer is lost its old token counts as one more end.
fn alternate(evictions: &[&Swing], name: impl Fn(DeviceKey) -> DeviceKey, least: usize) -> bool {
    let ended: Vec<DeviceKey> = evictions.iter().map(|eviction| name(eviction.evicted)).collect();
    let all: BTreeSet<DeviceKey> =
        ended.iter().copied().chain(evictions.iter().filter_map(|eviction| eviction.by).map(name)).collect();
    let swings = ended.windows(2).filter(|pair| pair.first() != pair.last()).count();
    let is_game = |turns: usize| turns >= least && turns >= all.len().saturating_mul(2);
    (is_game(ended.len()) && swings.saturating_mul(2) >= ended.len()) || is_game(swings.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(name: &str) -> DeviceKey {
        DeviceKey::of([Some(name)], None)
    }

    /// Each of another session, which alone was to end.
    fn eviction(n: usize, at_ms: i64, evicted: DeviceKey, by: DeviceKey) -> Eviction {
        let session = SessionId([u8::try_from(n).unwrap(); 16]);
        Eviction { at_ms, evicted, by: Some(by), session, pile: vec![session] }
    }

    /// When the guard fires for evictions one second apart, counted from 1.
    fn fires_at(evictions: impl IntoIterator<Item = (DeviceKey, DeviceKey)>, seconds_apart: i64) -> Option<usize> {
        let mut guard = PingPong::new(6, Duration::from_mins(10));
        let ann = UserId::parse("ann").unwrap();
        for (n, (evicted, by)) in (1..).zip(evictions) {
            let at_ms = i64::try_from(n).unwrap() * seconds_apart * 1_000;
            guard.note(&ann, eviction(n, at_ms, evicted, by));
            if guard.is_contended(&ann, at_ms) {
                return Some(n);
            }
        }
        None
    }

    fn round_robin(devices: usize, evictions: usize) -> Vec<(DeviceKey, DeviceKey)> {
        let name = |n: usize| device(&format!("device {}", n % devices));
        (0..evictions).map(|n| (name(n), name(n + 1))).collect()
    }

    #[test]
    fn two_devices_that_end_each_other_are_contended_at_the_sixth_eviction() {
        assert_eq!(fires_at(round_robin(2, 100), 1), Some(6));
        assert_eq!(fires_at(round_robin(2, 100), 100), Some(6));
        assert_eq!(fires_at(round_robin(2, 100), 121), None);
    }

    #[test]
    fn more_devices_take_two_rounds() {
        assert_eq!(fires_at(round_robin(3, 100), 1), Some(6));
        assert_eq!(fires_at(round_robin(5, 100), 1), Some(10));
    }

    #[test]
    fn somebody_who_comes_with_ever_new_devices_is_not_contended() {
        assert_eq!(fires_at(round_robin(1_000, 100), 1), None);
    }

    #[test]
    fn one_device_that_logs_in_again_and_again_kicks_nobody_but_itself() {
        assert_eq!(fires_at(vec![(device("phone"), device("phone")); 100], 1), None);
    }

    #[test]
    fn a_phone_that_took_over_once_and_then_only_logs_in_again_does_not_alternate() {
        let mut evictions = vec![(device("laptop"), device("phone"))];
        evictions.extend(vec![(device("phone"), device("phone")); 100]);
        assert_eq!(fires_at(evictions, 1), None);
    }

    #[test]
    fn a_pile_counts_once_however_many_looks_it_takes_and_what_comes_after_it_counts() {
        let mut guard = PingPong::new(6, Duration::from_mins(10));
        let ann = UserId::parse("ann").unwrap();
        let name = |n: usize| device(if n.is_multiple_of(2) { "phone" } else { "laptop" });
        let all = |n: usize, pile: Vec<SessionId>| Eviction { pile, ..eviction(n, 1_000, name(n), name(n + 1)) };
        let pile: Vec<SessionId> = (1..=20).map(|n| eviction(n, 0, name(n), name(n)).session).collect();
        for n in 1..=20 {
            guard.note(&ann, all(n, pile[n - 1..].to_vec()));
        }
        assert!(!guard.is_contended(&ann, 1_000));
        for n in 21..=25 {
            assert!(!guard.is_contended(&ann, 1_000), "after {n}");
            guard.note(&ann, eviction(n, 1_000, name(n), name(n + 1)));
        }
        assert!(guard.is_contended(&ann, 1_000));
    }

    #[test]
    fn ends_of_one_device_in_a_row_do_not_delay_the_guard() {
        let (phone, laptop) = (device("phone"), device("laptop"));
        let mut evictions = vec![(phone, laptop); 9];
        evictions.extend(
            round_robin(2, 100)
                .into_iter()
                .map(|(ended, _)| if ended == device("device 0") { (laptop, phone) } else { (phone, laptop) }),
        );
        assert_eq!(fires_at(evictions, 1), Some(14), "nine times the phone are one turn");
    }

    #[test]
    fn devices_with_the_same_words_are_told_apart_by_their_networks() {
        let at = |network| DeviceKey::of([Some("Chrome")], Some(network));
        let (home, office) = (at("192.0.2.1"), at("192.0.2.2"));
        let swings = (0..100).map(|n| if n % 2 == 0 { (home, office) } else { (office, home) });
        assert_eq!(fires_at(swings, 1), Some(6));
    }
}
