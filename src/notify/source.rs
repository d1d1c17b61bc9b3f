//! What there is to tell: sessions that were ended, from the ledger; contended users and budgets that are used up, from
//! the directives. How far each was read is noted with the notices, so none is lost between two starts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::store::Mark;
use super::task::NOTICE_AGE_MAX;
use super::{Device, Displacer, Notice, Outbox, texts};
use crate::config::NotifyEvent;
use crate::directives::{Control, Entry, What};
use crate::ledger::{ClosedDecision, Recorded, RecordedEnd, SqliteLedger, word};
use crate::model::{TenantId, UserId};
use crate::policy::ReasonCode;

/// The ledger is read again at the soonest after this.
const READ_EVERY: Duration = Duration::from_millis(250);
/// How long it is waited when a file cannot be read or written.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// What came of a session that was to be ended, where that is its end. One that was already gone is among them: mostly
/// its end was answered, and the answer lost.
const ENDED: [&str; 3] = ["revoked", "already_gone", "gone_at_next_listing"];
/// The reason of an end of which nobody wrote down why.
const UNKNOWN: &str = "unknown";

/// The notices about a recorded decision, as [`Ledger::recent`](crate::ledger::Ledger::recent) shows it: one for each
/// session that it ended.
pub fn notices_of(tenant: &TenantId, user: &UserId, decision: &Value) -> Vec<Notice> {
    let decision = Recorded::new(decision);
    let ended = decision.ends().filter(|end| end.ended().is_some_and(|ended| ENDED.contains(&ended)));
    ended.filter_map(|end| notice_of(tenant, user, decision, end)).collect()
}

fn notice_of(tenant: &TenantId, user: &UserId, decision: Recorded<'_>, end: RecordedEnd<'_>) -> Option<Notice> {
    let session = end.session()?;
    let reason = end.reason().or_else(|| end.decided_reason()).unwrap_or(UNKNOWN);
    let is_rejected = reason == ReasonCode::RejectedOverLimit.as_str();
    Some(Notice {
        key: format!("session/{tenant}/{session}"),
        event: if is_rejected { NotifyEvent::SessionRejected } else { NotifyEvent::SessionRevoked },
        at: decision.closed_at()?,
        tenant: tenant.clone(),
        user: Some(user.clone()),
        session: Some(session.to_owned()),
        reason: reason.to_owned(),
        device: end.listed().map(|seen| Device {
            device_type: word(seen, "device_type"),
            os: word(seen, "os"),
            browser: word(seen, "browser"),
        }),
        displaced_by: end.displacer().map(|seen| Displacer { device_type: word(seen, "device_type") }),
    })
}

/// The notice about what a brake has decided.
fn notice_of_brake(entry: &Entry) -> Option<Notice> {
    let (event, user, reason) = match &entry.what {
        What::Contended { user } => (NotifyEvent::UserContended, Some(user.clone()), texts::CONTENDED),
        What::Brake => (NotifyEvent::BudgetExceeded, None, texts::BUDGET_EXCEEDED),
        _ => return None,
    };
    Some(Notice {
        // One that is made again later is told again.
        key: format!("{}@{}", entry.key(), entry.made_at),
        event,
        at: entry.made_at,
        tenant: entry.tenant.clone(),
        user,
        session: None,
        reason: reason.to_owned(),
        device: None,
        displaced_by: None,
    })
}

/// What a brake's decision is remembered by while it stands: a user who is found contended once more meanwhile is not told
/// again, while a budget is only used up again after somebody has renewed it.
fn standing(entry: &Entry, notice: &Notice) -> String {
    match entry.what {
        What::Contended { .. } => entry.key(),
        _ => notice.key.clone(),
    }
}

/// Reads what there is to tell and posts it.
pub struct Source {
    outbox: Outbox,
    ledger: SqliteLedger,
    control: Arc<Control>,
    /// Where the ledger ended before anything could be added.
    start: i64,
}

/// How far the sources were read.
struct Read {
    place: i64,
    /// The number of the last change of directives; `None`: they were not looked at yet.
    version: Option<i64>,
    standing: BTreeSet<String>,
}

impl Source {
    /// To be made before anything is added to the ledger.
    pub fn new(outbox: Outbox, ledger: SqliteLedger, control: Arc<Control>) -> Self {
        let start = *ledger.ends().borrow();
        Self { outbox, ledger, control, start }
    }

    /// Runs until `stop`. A file that cannot be read or written is tried again: enforcement does not depend on it.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let (mut ends, mut changes) = (self.ledger.ends(), self.control.versions());
        let (mut read, mut is_failing) = (None, false);
        loop {
            ends.mark_unchanged();
            changes.mark_unchanged();
            let pause = match self.take_in(&mut read).await {
                Ok(more) => {
                    is_failing = false;
                    if !more {
                        tokio::select! {
                            () = stop.cancelled() => return Ok(()),
                            _ = ends.changed() => {}
                            _ = changes.changed() => {}
                        }
                    }
                    READ_EVERY
                }
                Err(error) => {
                    if !std::mem::replace(&mut is_failing, true) {
                        tracing::warn!("notices cannot be taken in now; it is tried again until they can: {error:#}");
                    }
                    TRY_AGAIN_AFTER
                }
            };
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = sleep(pause) => {}
            }
        }
    }

    /// Takes in what is new. Whether there is more.
    async fn take_in(&self, read: &mut Option<Read>) -> anyhow::Result<bool> {
        let known = match read {
            Some(known) => known,
            None => read.insert(self.begin().await?),
        };
        let closed = self.ledger.closed_since(known.place).await?;
        let now = self.outbox.clock().now();
        let mut notices: Vec<Notice> = closed.closed.iter().flat_map(of_closed).collect();
        // After a long time without [[notify]] nobody wants to hear of all that.
        notices.retain(|notice| is_young(notice.at, now));
        let version = *self.control.versions().borrow();
        let mut stands = known.standing.clone();
        if known.version != Some(version) {
            let told = |entry: Entry| notice_of_brake(&entry).map(|notice| (standing(&entry, &notice), notice));
            let brakes: BTreeMap<String, Notice> = self.control.entries().into_iter().filter_map(told).collect();
            stands = brakes.keys().cloned().collect();
            notices.extend(brakes.into_iter().filter(|(key, _)| !known.standing.contains(key)).map(|(_, new)| new));
        }
        if !notices.is_empty() || stands != known.standing {
            let mark = Mark { place: Some(closed.next), standing: Some(stands.iter().cloned().collect()) };
            self.outbox.post_with(notices, mark).await?;
        }
        // Without notices nothing is lost when it is read again after a restart.
        *known = Read { place: closed.next, version: Some(version), standing: stands };
        Ok(closed.more)
    }

    /// Where the last run has stopped. At the first time: where this one began, so that no history is told.
    async fn begin(&self) -> anyhow::Result<Read> {
        let store = self.outbox.store();
        let standing = store.standing().await?.into_iter().collect();
        if let Some(place) = store.place().await? {
            return Ok(Read { place, version: None, standing });
        }
        let place = self.start;
        self.outbox.post_with(Vec::new(), Mark { place: Some(place), standing: None }).await?;
        Ok(Read { place, version: None, standing })
    }
}

fn of_closed(closed: &ClosedDecision) -> Vec<Notice> {
    notices_of(&closed.tenant, &closed.user, &closed.decision)
}

fn is_young(at: Timestamp, now: Timestamp) -> bool {
    now.duration_since(at) < SignedDuration::try_from(NOTICE_AGE_MAX).unwrap_or(SignedDuration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn decision() -> Value {
        json!({
            "decided_at": "2026-01-01T00:00:00Z", "closed_at": "2026-01-01T00:00:01Z", "executed": true,
            "decision": { "verdicts": [
                { "session": "new", "action": "keep", "reason": null, "witnesses": [] },
                { "session": "old", "action": "revoke", "reason": "bucket_limit", "witnesses": ["new", "gone"] },
                { "session": "slow", "action": "revoke", "reason": "rejected_over_limit", "witnesses": [] },
            ] },
            "sessions": [
                { "session": "new", "device_type": "mobile", "os": "iOS", "ip": "203.0.113.7", "city": "Oslo" },
                { "session": "old", "device_type": "desktop", "os": "Linux", "browser": "Firefox", "ip": "203.0.113.8" },
            ],
            "outcomes": [
                { "session": "old", "ended": "revoked", "reason": "bucket_limit" },
                { "session": "slow", "ended": "gone_at_next_listing", "reason": null },
                { "session": "other", "ended": "failed", "reason": "bucket_limit" },
            ],
        })
    }

    fn notices(decision: &Value) -> Vec<Notice> {
        notices_of(&TenantId::default_tenant(), &UserId::parse("ann").unwrap(), decision)
    }

    #[test]
    fn each_session_that_was_ended_is_told_with_its_device_and_what_took_its_place() {
        let [old, slow] = notices(&decision()).try_into().unwrap();
        assert_eq!((old.event, old.reason.as_str()), (NotifyEvent::SessionRevoked, "bucket_limit"));
        assert_eq!(old.at.to_string(), "2026-01-01T00:00:01Z");
        let words = [old.device.unwrap().browser, old.displaced_by.unwrap().device_type].map(Option::unwrap);
        assert_eq!(words, ["Firefox", "mobile"]);
        assert_eq!((slow.event, slow.device), (NotifyEvent::SessionRejected, None));
        assert_ne!(old.key, slow.key);
    }

    #[test]
    fn what_cannot_be_read_tells_nothing_and_stops_nothing() {
        for broken in [json!(null), json!({}), json!({ "outcomes": [1, {}, { "ended": "revoked" }] }), json!([])] {
            assert_eq!(notices(&broken), []);
        }
        let mut without_intent = decision();
        without_intent["decision"] = json!(null);
        without_intent["sessions"] = json!(null);
        let told = notices(&without_intent);
        assert_eq!(told.iter().map(|notice| notice.reason.as_str()).collect::<Vec<_>>(), ["bucket_limit", "unknown"]);
    }

    #[test]
    fn a_spent_budget_is_told_again_and_a_contended_user_only_after_it_was_let_go() {
        let entry = |what: What, seconds| Entry {
            tenant: TenantId::default_tenant(),
            what,
            owner: "soloist".to_owned(),
            reason: "a test".to_owned(),
            made_at: Timestamp::from_second(seconds).unwrap(),
            expires: None,
        };
        let stands = |what: &What, seconds| {
            let entry = entry(what.clone(), seconds);
            let notice = notice_of_brake(&entry).unwrap();
            (standing(&entry, &notice), notice)
        };
        let contended = What::Contended { user: UserId::parse("ann").unwrap() };
        for (what, event, is_again) in
            [(What::Brake, NotifyEvent::BudgetExceeded, true), (contended, NotifyEvent::UserContended, false)]
        {
            let [first, second] = [1, 2].map(|seconds| stands(&what, seconds));
            assert_eq!((first.1.event, first.0 != second.0), (event, is_again));
            assert_ne!(first.1.key, second.1.key);
        }
        assert_eq!(notice_of_brake(&entry(What::Mode(crate::policy::Mode::Off), 1)), None);
    }
}
