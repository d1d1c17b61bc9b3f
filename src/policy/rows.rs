//! One row a session, however often it was listed, in the order of the rule.

use std::cmp::Ordering;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

use jiff::Timestamp;

use super::layers::ExemptionEffect;
use crate::model::{Session, SessionDevice, SessionId, TokenDigest, View};

/// Sessions that people have marked. Who is in both sets is ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// Count, may displace older ones, are never ended.
    pub pinned: HashSet<SessionId>,
    /// Neither count nor are ended.
    pub ignored: HashSet<SessionId>,
}

impl Marks {
    /// Marks every session of an exempt user.
    pub fn exempt_all(&mut self, view: &View, effect: ExemptionEffect) {
        let marked = match effect {
            ExemptionEffect::Ignored => &mut self.ignored,
            ExemptionEffect::Counted => &mut self.pinned,
        };
        marked.extend(view.sessions.iter().map(Session::id));
    }
}

pub(super) struct Row<'a> {
    pub digest: TokenDigest,
    pub login_at: Option<Timestamp>,
    pub device: &'a SessionDevice,
    pub session: &'a Session,
    pub ignored: bool,
    pub pinned: bool,
}

impl<'a> Row<'a> {
    fn new(session: &'a Session, marks: &Marks) -> Self {
        let id = session.id();
        Self {
            digest: session.digest,
            login_at: session.login_at,
            device: &session.device,
            session,
            ignored: marks.ignored.contains(&id),
            pinned: marks.pinned.contains(&id),
        }
    }

    /// The login time of a session that the caps look at.
    pub(super) fn counted_at(&self) -> Option<Timestamp> {
        self.login_at.filter(|_| !self.ignored)
    }

    pub(super) fn is_deferred(&self) -> bool {
        self.login_at.is_none() && !self.ignored
    }

    /// Of two rows about one session, the smaller known login time wins. Equal times go by the device's fields,
    /// so that the order of the list never matters.
    fn wins_over(&self, other: &Self) -> bool {
        let key = |row: &Self| (row.login_at.is_none(), row.login_at);
        key(self).cmp(&key(other)).then_with(|| fields(self.device).cmp(&fields(other.device))).is_lt()
    }
}

/// Newest login first, equal times by greater digest; unknown times last, by digest.
pub(super) fn in_order<'a>(view: &'a View, marks: &Marks) -> Vec<Row<'a>> {
    let mut rows: Vec<Row<'a>> = Vec::with_capacity(view.sessions.len());
    let mut places: HashMap<TokenDigest, usize, BuildHasherDefault<DigestHasher>> =
        HashMap::with_capacity_and_hasher(view.sessions.len(), BuildHasherDefault::default());
    for session in &view.sessions {
        let row = Row::new(session, marks);
        match places.entry(row.digest) {
            Entry::Vacant(place) => {
                place.insert(rows.len());
                rows.push(row);
            }
            Entry::Occupied(place) => {
                if let Some(known) = rows.get_mut(*place.get()).filter(|known| row.wins_over(known)) {
                    *known = row;
                }
            }
        }
    }
    rows.sort_unstable_by(newest_first);
    rows
}

/// The view as the rule reads it: each session once, however often it was listed, newest login first.
pub fn distinct(view: &View) -> View {
    let sessions = in_order(view, &Marks::default()).into_iter().map(|row| row.session.clone()).collect();
    View { sessions, complete: view.complete }
}

fn newest_first(a: &Row<'_>, b: &Row<'_>) -> Ordering {
    match (a.login_at, b.login_at) {
        (Some(a_at), Some(b_at)) => (b_at, b.digest).cmp(&(a_at, a.digest)),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => a.digest.cmp(&b.digest),
    }
}

fn fields(device: &SessionDevice) -> [&Option<String>; 7] {
    let SessionDevice { browser, os, device, device_type, city, country, ip } = device;
    [browser, os, device, device_type, city, country, ip]
}

/// A digest is a hash already: its first bytes will do.
#[derive(Default)]
struct DigestHasher(u64);

impl Hasher for DigestHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0 ^= bytes.first_chunk().map_or(0, |first| u64::from_be_bytes(*first));
    }

    fn write_usize(&mut self, _length: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_that_is_listed_twice_is_one_with_the_smaller_known_time() {
        let row = |token: &str, at: Option<&str>| {
            Session::new(token, at.map(|at| at.parse().unwrap()), SessionDevice::default())
        };
        let (ten, eleven, twelve) = ("2026-01-01T10:00:00Z", "2026-01-01T11:00:00Z", "2026-01-01T12:00:00Z");
        let sessions = vec![row("x", Some(ten)), row("y", Some(eleven)), row("x", Some(twelve)), row("x", None)];
        let once = distinct(&View { sessions, complete: true });
        assert_eq!(once.sessions, [row("y", Some(eleven)), row("x", Some(ten))]);
    }
}
