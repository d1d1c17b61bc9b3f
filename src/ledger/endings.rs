//! The ends of the last day, in memory: what apps ask at each request, and what browsers wait for.
//!
//! It says less than the ledger, never more: what is not in it is unknown.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tokio::sync::oneshot;

use super::recorded::{Recorded, RecordedEnd, word};
use crate::model::{SessionId, TenantId, UserId};
use crate::policy::ReasonCode;

/// How long an end is known.
pub const KNOWN_FOR: SignedDuration = SignedDuration::from_hours(24);
/// Ends that are known at most, a few hundred bytes each; the oldest are forgotten first.
const ENDINGS_MAX: usize = 1_000_000;
/// Sessions of one generation that were kept at the last look, a few dozen bytes each.
const KEPT_GENERATION_MAX: usize = 500_000;

/// Who may wait for the end of one session at the same time: the tabs of a browser.
const WAITING_MAX: usize = 16;

/// One session that we have ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    pub tenant: TenantId,
    pub user: UserId,
    pub session: SessionId,
    pub reason: ReasonCode,
    /// By our clock.
    pub at: Timestamp,
    /// The newest session that stood against it, as far as it tells.
    pub by: Displacer,
}

/// The device that displaced another one: its kind, and coarsely where it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Displacer {
    pub device_type: Option<String>,
    pub city: Option<String>,
    pub country: Option<String>,
}

/// What is known of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    Ended(Arc<Ending>),
    /// It was kept when its user was looked at last.
    Kept {
        as_of: Timestamp,
    },
    Unknown,
}

/// All that is known.
#[derive(Default)]
pub struct Endings {
    inner: RwLock<Inner>,
    waiting: Mutex<HashMap<SessionId, Vec<oneshot::Sender<Arc<Ending>>>>>,
}

/// Hears of the end of one session, if it comes.
pub struct Waiting {
    endings: Arc<Endings>,
    session: SessionId,
    told: Option<oneshot::Receiver<Arc<Ending>>>,
}

impl Waiting {
    /// Returns when the session has been ended. Cancel-safe.
    pub async fn ended(&mut self) -> Arc<Ending> {
        if let Some(told) = &mut self.told
            && let Ok(ending) = told.await
        {
            self.told = None;
            return ending;
        }
        std::future::pending().await
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        drop(self.told.take());
        let mut waiting = self.endings.waiting();
        if let Some(all) = waiting.get_mut(&self.session) {
            all.retain(|sender| !sender.is_closed());
            if all.is_empty() {
                waiting.remove(&self.session);
            }
        }
    }
}

#[derive(Default)]
struct Inner {
    by_session: HashMap<SessionId, Arc<Ending>>,
    oldest_first: BTreeSet<(Timestamp, SessionId)>,
    kept: [HashMap<SessionId, (TenantId, Timestamp)>; 2],
}

impl Endings {
    /// Takes in an end. One that is known already stays as it is, and is told to nobody again.
    pub fn note(&self, ending: Ending, now: Timestamp) {
        let ending = Arc::new(ending);
        {
            let mut inner = self.write();
            if !is_fresh(ending.at, now) || inner.by_session.contains_key(&ending.session) {
                return;
            }
            inner.by_session.insert(ending.session, Arc::clone(&ending));
            inner.oldest_first.insert((ending.at, ending.session));
            for kept in &mut inner.kept {
                kept.remove(&ending.session);
            }
            inner.forget(now);
        }
        for sender in self.waiting().remove(&ending.session).into_iter().flatten() {
            // It may have gone away.
            sender.send(Arc::clone(&ending)).ok();
        }
    }

    /// Whether an end of this time would stay: the oldest give way.
    pub fn has_room_for(&self, at: Timestamp) -> bool {
        let inner = self.read();
        inner.oldest_first.len() < ENDINGS_MAX || inner.oldest_first.first().is_some_and(|(oldest, _)| *oldest < at)
    }

    /// Takes in which sessions a look has kept.
    pub fn note_kept(&self, tenant: &TenantId, sessions: impl IntoIterator<Item = SessionId>, at: Timestamp) {
        let mut inner = self.write();
        if inner.kept.first().is_some_and(|young| young.len() >= KEPT_GENERATION_MAX) {
            let [young, old] = &mut inner.kept;
            *old = std::mem::take(young);
        }
        let [young, _] = &mut inner.kept;
        young.extend(sessions.into_iter().map(|session| (session, (tenant.clone(), at))));
    }

    /// What is known of a tenant's session at this time.
    pub fn of(&self, tenant: &TenantId, session: SessionId, now: Timestamp) -> Known {
        let inner = self.read();
        let ended =
            inner.by_session.get(&session).filter(|ending| ending.tenant == *tenant && is_fresh(ending.at, now));
        if let Some(ending) = ended {
            return Known::Ended(Arc::clone(ending));
        }
        let kept = inner.kept.iter().find_map(|kept| kept.get(&session));
        let kept = kept.filter(|(of, as_of)| of == tenant && now.duration_since(*as_of) < KNOWN_FOR);
        kept.map_or(Known::Unknown, |(_, as_of)| Known::Kept { as_of: *as_of })
    }

    /// Whether we have ended this session within the last day.
    pub fn has_ended(&self, tenant: &TenantId, session: SessionId, now: Timestamp) -> bool {
        matches!(self.of(tenant, session, now), Known::Ended(_))
    }

    /// Waits for the end of a session from now on; `None` where 16 wait for it already.
    pub fn wait_for(self: &Arc<Self>, session: SessionId) -> Option<Waiting> {
        let (sender, told) = oneshot::channel();
        let mut waiting = self.waiting();
        let of_session = waiting.entry(session).or_default();
        if of_session.len() >= WAITING_MAX {
            return None;
        }
        of_session.push(sender);
        Some(Waiting { endings: Arc::clone(self), session, told: Some(told) })
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<SessionId, Vec<oneshot::Sender<Arc<Ending>>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Lets go of what is too old, and of the oldest where there are too many.
    fn forget(&mut self, now: Timestamp) {
        while let Some((at, session)) = self.oldest_first.first() {
            if is_fresh(*at, now) && self.oldest_first.len() <= ENDINGS_MAX {
                return;
            }
            self.by_session.remove(session);
            self.oldest_first.pop_first();
        }
    }
}

fn is_fresh(at: Timestamp, now: Timestamp) -> bool {
    now.duration_since(at) < KNOWN_FOR
}

/// The ends of one recorded decision, as [`super::Ledger::recent`] shows it.
pub fn endings_of(tenant: &TenantId, user: &UserId, decision: &Value) -> Vec<Ending> {
    let decision = Recorded::new(decision);
    let ending = |end: RecordedEnd<'_>| {
        Some(Ending {
            tenant: tenant.clone(),
            user: user.clone(),
            session: SessionId::parse(end.session()?).ok()?,
            reason: end.reason_code()?,
            at: decision.closed_at()?,
            by: end.displacer().map(displacer).unwrap_or_default(),
        })
    };
    decision.ends().filter(|end| end.ended() == Some("revoked")).filter_map(ending).collect()
}

fn displacer(session: &Value) -> Displacer {
    let word = |key| word(session, key);
    Displacer { device_type: word("device_type"), city: word("city"), country: word("country") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant() -> TenantId {
        TenantId::default_tenant()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn ending(session: u8, when: &str) -> Ending {
        Ending {
            tenant: tenant(),
            user: UserId::parse("ann").unwrap(),
            session: SessionId([session; 16]),
            reason: ReasonCode::DisplacedByNewerLogin,
            at: at(when),
            by: Displacer::default(),
        }
    }

    #[test]
    fn an_end_is_known_for_a_day_to_its_tenant_alone() {
        let endings = Endings::default();
        endings.note(ending(1, "2026-01-01T00:00:00Z"), at("2026-01-01T00:00:00Z"));
        let of = |tenant: &TenantId, now| endings.of(tenant, SessionId([1; 16]), at(now));
        assert!(matches!(of(&tenant(), "2026-01-01T23:59:59Z"), Known::Ended(_)));
        assert_eq!(of(&tenant(), "2026-01-02T00:00:00Z"), Known::Unknown);
        assert_eq!(of(&TenantId::parse("other").unwrap(), "2026-01-01T00:00:01Z"), Known::Unknown);
    }

    #[test]
    fn a_kept_session_is_known_until_it_is_ended() {
        let endings = Endings::default();
        let (session, now) = (SessionId([1; 16]), at("2026-01-01T00:00:02Z"));
        endings.note_kept(&tenant(), [session], at("2026-01-01T00:00:00Z"));
        assert_eq!(endings.of(&tenant(), session, now), Known::Kept { as_of: at("2026-01-01T00:00:00Z") });
        endings.note(ending(1, "2026-01-01T00:00:01Z"), now);
        assert!(endings.has_ended(&tenant(), session, now));
    }

    #[tokio::test]
    async fn all_who_wait_for_a_session_are_told_and_who_left_is_forgotten() {
        let endings = Arc::new(Endings::default());
        let mut two = [(); 2].map(|()| endings.wait_for(SessionId([1; 16])).unwrap());
        drop(endings.wait_for(SessionId([2; 16])));
        assert_eq!(endings.waiting().len(), 1);
        endings.note(ending(1, "2026-01-01T00:00:00Z"), at("2026-01-01T00:00:00Z"));
        for waiting in &mut two {
            assert_eq!(waiting.ended().await.session, SessionId([1; 16]));
        }
        assert!(endings.waiting().is_empty());
    }

    #[test]
    fn what_is_older_than_a_day_leaves_when_something_new_comes() {
        let endings = Endings::default();
        endings.note(ending(1, "2026-01-01T00:00:00Z"), at("2026-01-01T00:00:00Z"));
        endings.note(ending(2, "2026-01-03T00:00:00Z"), at("2026-01-03T00:00:00Z"));
        assert_eq!(endings.read().by_session.len(), 1);
    }

    #[test]
    fn a_recorded_decision_tells_who_displaced_whom() {
        let (old, new) = (SessionId([1; 16]).to_string(), SessionId([2; 16]).to_string());
        let decision = serde_json::json!({
            "decided_at": "2026-01-01T00:00:00Z",
            "closed_at": "2026-01-01T00:00:01Z",
            "sessions": [{"session": new, "device_type": "mobile", "city": "Oslo"}, {"session": old}],
            "decision": {"verdicts": [{"session": new}, {"session": old, "witnesses": [new]}]},
            "outcomes": [
                {"session": old, "ended": "revoked", "reason": "displaced_by_newer_login"},
                {"session": new, "ended": "already_gone", "reason": "displaced_by_newer_login"},
            ],
        });
        let ended = endings_of(&tenant(), &UserId::parse("ann").unwrap(), &decision);
        let by = Displacer { device_type: Some("mobile".into()), city: Some("Oslo".into()), country: None };
        assert_eq!(ended, [Ending { by, ..ending(1, "2026-01-01T00:00:01Z") }]);
    }
}
