//! The whole decision, from a view to verdicts.

use std::time::Duration;

use super::keys::{self, Keys};
use super::rows::{self, Row};
use super::walk::{self, Candidate, Cap, Caps};
use super::{
    Action, DecidedBy, Decision, Marks, Policy, ReasonCode, Refusal, ResolvedPolicy, Strategy, Verdict, Witnesses,
};
use crate::model::{TenantId, UserId, View};

/// When to look again after an incomplete view.
const RECHECK_AFTER: Duration = Duration::from_secs(30);

/// Whose sessions they are. It changes no verdict, only the id of the decision.
#[derive(Clone, Copy, Debug, Default)]
pub struct Subject<'a> {
    pub tenant: Option<&'a TenantId>,
    pub user: Option<&'a UserId>,
}

/// Which of the listed sessions stay. The same arguments give the same decision everywhere, in whatever order the
/// sessions are listed; nothing is ended unless that many others, listed and counted, stand against it.
pub fn decide(view: &View, policy: &ResolvedPolicy, marks: &Marks, subject: Subject<'_>) -> Decision {
    let rows = rows::in_order(view, marks);
    let keys = keys::of_rows(&rows, policy, subject, view.complete);
    let over = over_caps(&rows, &keys, &policy.policy);
    let refused = refusal(view, &rows, policy.policy.strategy);
    Decision {
        id: keys.id,
        policy: DecidedBy::of(policy),
        mode: policy.policy.mode,
        complete: view.complete,
        surplus_unresolved: surplus_unresolved(&rows, &keys, &over, &policy.policy, refused.is_some()),
        verdicts: rows
            .iter()
            .zip(over)
            .map(|(row, over)| verdict(row, over.filter(|_| refused.is_none()), policy.policy.strategy))
            .collect(),
        refused,
        recheck_after: (!view.complete).then_some(RECHECK_AFTER),
    }
}

fn refusal(view: &View, rows: &[Row<'_>], strategy: Strategy) -> Option<Refusal> {
    if strategy == Strategy::EvictOldest {
        return None;
    }
    if !view.complete {
        return Some(Refusal::IncompleteView);
    }
    rows.iter().any(Row::is_deferred).then_some(Refusal::UnknownLoginTime)
}

/// For each row the cap it is over, pinned or not.
fn over_caps(rows: &[Row<'_>], keys: &Keys, policy: &Policy) -> Vec<Option<(Cap, Witnesses)>> {
    let caps = Caps::new(policy, &keys.bucket_limits);
    let mut places = Vec::with_capacity(rows.len());
    let mut candidates = Vec::with_capacity(rows.len());
    for (place, (row, key)) in rows.iter().zip(&keys.of_rows).enumerate() {
        if let Some(at) = row.counted_at() {
            places.push(place);
            candidates.push(Candidate { digest: row.digest, at, device: key.device, bucket: key.bucket });
        }
    }
    if !caps.newest_first() {
        places.reverse();
        candidates.reverse();
    }
    let mut over: Vec<Option<(Cap, Witnesses)>> = Vec::new();
    over.resize_with(rows.len(), || None);
    for (place, found) in places.into_iter().zip(walk::over_caps(&candidates, &caps, keys.devices)) {
        if let Some(over) = over.get_mut(place) {
            *over = found;
        }
    }
    over
}

fn verdict(row: &Row<'_>, over: Option<(Cap, Witnesses)>, strategy: Strategy) -> Verdict {
    let of =
        |action, reason, witnesses| Verdict { digest: row.digest, login_at: row.login_at, action, reason, witnesses };
    let unmoved = |action| of(action, None, Witnesses::default());
    if row.ignored {
        return unmoved(Action::Exempt);
    }
    if row.login_at.is_none() {
        return unmoved(Action::Defer);
    }
    if row.pinned {
        return unmoved(Action::Pinned);
    }
    match over {
        None => unmoved(Action::Keep),
        Some((cap, witnesses)) => of(Action::Revoke, Some(reason(cap, strategy)), witnesses),
    }
}

fn reason(cap: Cap, strategy: Strategy) -> ReasonCode {
    match (strategy, cap) {
        (Strategy::RejectNewest, _) => ReasonCode::RejectedOverLimit,
        (Strategy::EvictOldest, Cap::Bucket(_)) => ReasonCode::BucketLimit,
        (Strategy::EvictOldest, Cap::Device) => ReasonCode::SameDeviceNewer,
        (Strategy::EvictOldest, Cap::Overall) => ReasonCode::DisplacedByNewerLogin,
    }
}

/// See [`Decision::surplus_unresolved`].
fn surplus_unresolved(
    rows: &[Row<'_>],
    keys: &Keys,
    over: &[Option<(Cap, Witnesses)>],
    policy: &Policy,
    refused: bool,
) -> usize {
    let mut devices_that_stay = vec![false; keys.devices];
    let mut surplus = 0;
    let mut deferred: usize = 0;
    for ((row, key), over) in rows.iter().zip(&keys.of_rows).zip(over) {
        if row.is_deferred() {
            deferred += 1;
        } else if over.is_some() {
            surplus += usize::from(row.pinned || refused);
        } else if row.counted_at().is_some()
            && let Some(stays) = devices_that_stay.get_mut(key.device)
        {
            *stays = true;
        }
    }
    let stay = devices_that_stay.iter().filter(|stays| **stays).count();
    surplus + deferred.min((stay + deferred).saturating_sub(policy.limit.number()))
}
