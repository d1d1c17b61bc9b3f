//! How deliveries end: the one place that turns a look's result into settlements.

use std::time::Duration;

use super::calls::THROTTLED_WAIT_MAX;
use super::health::TenantState;
use super::step::{Evaluation, LookAgain, StepError};
use crate::model::Reason;
use crate::provider::ProviderError;
use crate::queue::{Delivery, DeliveryTag, Next, Settlement, Why};
use crate::retry;

/// How long a delivery waits for directives or the ledger to come back.
const OWN_TROUBLE_WAIT: Duration = Duration::from_secs(30);
/// How long a delivery is put off whose tenant pauses: it is ready again when the pause ends, behind the others.
const PAUSED_WAIT: Duration = Duration::from_secs(1);
/// How long a delivery waits whose turn did not come within the step's deadline.
const DEADLINE_WAIT: Duration = Duration::from_secs(1);
/// How long a throttled delivery waits when the provider gave no time.
const THROTTLED_WAIT: Duration = Duration::from_secs(5);

/// What is known besides the error.
#[derive(Clone, Copy, Debug)]
pub(super) struct Circumstances {
    pub(super) state: TenantState,
    /// A call for another user succeeded in the last minute.
    pub(super) others_succeed: bool,
    pub(super) attempts_max: u32,
    /// 0 to 1.
    pub(super) jitter: f64,
}

/// All are acked, or one of them, that of the newest login, comes again as a re-check.
pub(super) fn after_look(evaluation: &Evaluation, deliveries: &[Delivery]) -> Vec<(DeliveryTag, Settlement)> {
    let successor = evaluation.again.and_then(|again| Some((newest(deliveries)?, again)));
    deliveries
        .iter()
        .map(|delivery| match successor {
            Some((tag, LookAgain { after, rung, why })) if tag == delivery.tag => {
                (delivery.tag, Settlement::Again { after, next: Next::Recheck { rung }, why })
            }
            _ => (delivery.tag, Settlement::Ack),
        })
        .collect()
}

/// The delivery of the newest login among those that a look was for.
pub(super) fn newest(deliveries: &[Delivery]) -> Option<DeliveryTag> {
    deliveries
        .iter()
        .max_by_key(|delivery| (delivery.event.login_at.is_some(), delivery.event.login_at, delivery.event.at))
        .map(|delivery| delivery.tag)
}

/// Each delivery ends by its own attempt; a user who does not exist (yet) is looked at once more for all of them.
pub(super) fn after_failure(
    error: &StepError,
    deliveries: &[Delivery],
    now: Circumstances,
) -> Vec<(DeliveryTag, Settlement)> {
    let first = newest(deliveries);
    let ends = |delivery: &Delivery| match error {
        StepError::Provider(ProviderError::UserUnknown(_)) if first != Some(delivery.tag) => Settlement::Ack,
        error => settlement(error, delivery, now),
    };
    deliveries.iter().map(|delivery| (delivery.tag, ends(delivery))).collect()
}

fn settlement(error: &StepError, delivery: &Delivery, now: Circumstances) -> Settlement {
    let defer = |after, why| Settlement::Again { after, next: Next::Defer, why };
    let paused = now.state != TenantState::Running;
    match error {
        StepError::Provider(ProviderError::Unavailable(_)) if paused => defer(PAUSED_WAIT, Why::Unavailable),
        StepError::Provider(ProviderError::Refused(_)) if paused => defer(PAUSED_WAIT, Why::Refused),
        StepError::Provider(ProviderError::Unauthorized(_)) if paused => defer(PAUSED_WAIT, Why::Unauthorized),
        StepError::Provider(ProviderError::Unavailable(_)) => spend(Why::Unavailable, delivery, now),
        // Only this user's session may not be ended: the tenant's credentials are accepted.
        StepError::Provider(ProviderError::Unauthorized(_)) => spend(Why::Unauthorized, delivery, now),
        StepError::Provider(ProviderError::Throttled { retry_after, .. }) => {
            defer(retry_after.unwrap_or(THROTTLED_WAIT).min(THROTTLED_WAIT_MAX), Why::Throttled)
        }
        StepError::Provider(ProviderError::UserUnknown(_)) => {
            let rung = match delivery.event.reason {
                Reason::Recheck { rung } => rung.saturating_add(1),
                _ => 0,
            };
            match retry::recheck_delay(rung) {
                Some(after) => Settlement::Again { after, next: Next::Recheck { rung }, why: Why::UserUnknown },
                None => Settlement::Ack,
            }
        }
        StepError::Provider(ProviderError::Refused(_)) => Settlement::DeadLetter { why: Why::Refused },
        StepError::Directives(_) => defer(OWN_TROUBLE_WAIT, Why::DirectivesStale),
        StepError::Budget(_) => defer(OWN_TROUBLE_WAIT, Why::NoGrant),
        StepError::Ledger(_) => defer(OWN_TROUBLE_WAIT, Why::LedgerUnavailable),
        // Its turn did not come: that is our rate, not its fault, so it spends nothing.
        StepError::Deadline => defer(DEADLINE_WAIT, Why::StepDeadline),
    }
}

/// The next attempt, later; when all are spent it is given up only if the provider answers for others.
fn spend(why: Why, delivery: &Delivery, now: Circumstances) -> Settlement {
    let after = retry::delivery_delay(delivery.attempt, now.jitter);
    if delivery.attempt < now.attempts_max {
        Settlement::Again { after, next: Next::Retry, why }
    } else if now.others_succeed {
        Settlement::DeadLetter { why: Why::AttemptsExhausted }
    } else {
        Settlement::Again { after, next: Next::Defer, why }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directives::Stale;
    use crate::model::{EventId, LoginEvent, TenantId, UserId, View};

    fn delivery(number: u64, attempt: u32, login_at: Option<&str>, reason: Reason) -> Delivery {
        let event = LoginEvent {
            tenant: TenantId::default_tenant(),
            user: UserId::parse("ann").unwrap(),
            id: EventId::parse("h").unwrap(),
            at: None,
            login_at: login_at.map(|at| at.parse().unwrap()),
            reason,
            accepted_at: None,
        };
        Delivery { tag: DeliveryTag { epoch: 1, number }, event, attempt, redelivered: false }
    }

    const NOW: Circumstances =
        Circumstances { state: TenantState::Running, others_succeed: false, attempts_max: 12, jitter: 1.0 };

    fn provider(make: impl Fn(anyhow::Error) -> ProviderError) -> StepError {
        StepError::Provider(make(anyhow::anyhow!("test")))
    }

    fn one(error: &StepError, delivery: &Delivery, now: Circumstances) -> Settlement {
        after_failure(error, std::slice::from_ref(delivery), now)[0].1
    }

    fn again(seconds: u64, next: Next, why: Why) -> Settlement {
        Settlement::Again { after: Duration::from_secs(seconds), next, why }
    }

    #[test]
    fn unavailable_is_retried_and_given_up_only_when_others_succeed() {
        let error = provider(ProviderError::Unavailable);
        let login = |attempt| delivery(1, attempt, None, Reason::Login);
        assert_eq!(one(&error, &login(1), NOW), again(1, Next::Retry, Why::Unavailable));
        assert_eq!(one(&error, &login(3), NOW), again(30, Next::Retry, Why::Unavailable));
        assert_eq!(one(&error, &login(12), NOW), again(3600, Next::Defer, Why::Unavailable));
        let others = Circumstances { others_succeed: true, ..NOW };
        assert_eq!(one(&error, &login(12), others), Settlement::DeadLetter { why: Why::AttemptsExhausted });
    }

    #[test]
    fn a_pause_puts_everything_off_and_spends_no_attempt() {
        let login = delivery(1, 12, None, Reason::Login);
        let outage = Circumstances { state: TenantState::Outage, others_succeed: true, ..NOW };
        for (error, why) in [
            (provider(ProviderError::Unauthorized), Why::Unauthorized),
            (provider(ProviderError::Unavailable), Why::Unavailable),
            (provider(ProviderError::Refused), Why::Refused),
        ] {
            assert_eq!(one(&error, &login, outage), again(1, Next::Defer, why));
        }
    }

    #[test]
    fn a_session_that_may_not_be_ended_spends_its_own_attempts() {
        let error = provider(ProviderError::Unauthorized);
        let login = |attempt| delivery(1, attempt, None, Reason::Login);
        assert_eq!(one(&error, &login(1), NOW), again(1, Next::Retry, Why::Unauthorized));
        assert_eq!(one(&error, &login(12), NOW), again(3600, Next::Defer, Why::Unauthorized));
        let others = Circumstances { others_succeed: true, ..NOW };
        assert_eq!(one(&error, &login(12), others), Settlement::DeadLetter { why: Why::AttemptsExhausted });
    }

    #[test]
    fn throttled_waits_as_asked_but_not_for_ever() {
        let throttled = |seconds: u64| {
            let retry_after = Some(Duration::from_secs(seconds));
            provider(|source| ProviderError::Throttled { retry_after, source })
        };
        let login = delivery(1, 2, None, Reason::Login);
        assert_eq!(one(&throttled(7), &login, NOW), again(7, Next::Defer, Why::Throttled));
        assert_eq!(one(&throttled(86_400), &login, NOW), again(600, Next::Defer, Why::Throttled));
    }

    #[test]
    fn an_unknown_user_is_looked_for_along_the_ladder_and_then_let_go() {
        let error = provider(ProviderError::UserUnknown);
        let at = |reason| one(&error, &delivery(1, 1, None, reason), NOW);
        assert_eq!(at(Reason::Login), again(1, Next::Recheck { rung: 0 }, Why::UserUnknown));
        assert_eq!(at(Reason::Recheck { rung: 2 }), again(120, Next::Recheck { rung: 3 }, Why::UserUnknown));
        assert_eq!(at(Reason::Recheck { rung: 3 }), Settlement::Ack);
    }

    #[test]
    fn what_can_never_work_is_dead_lettered_and_our_own_trouble_costs_no_attempt() {
        let login = delivery(1, 4, None, Reason::Login);
        assert_eq!(one(&provider(ProviderError::Refused), &login, NOW), Settlement::DeadLetter { why: Why::Refused });
        assert_eq!(one(&StepError::Directives(Stale), &login, NOW), again(30, Next::Defer, Why::DirectivesStale));
        assert_eq!(one(&StepError::Deadline, &login, NOW), again(1, Next::Defer, Why::StepDeadline));
    }

    #[test]
    fn of_many_deliveries_only_the_newest_login_comes_again() {
        let deliveries = [
            delivery(1, 1, Some("2026-01-01T00:00:01Z"), Reason::Login),
            delivery(2, 1, Some("2026-01-01T00:00:03Z"), Reason::Login),
            delivery(3, 1, None, Reason::Sweep),
        ];
        let again = Some(LookAgain { after: Duration::from_secs(1), rung: 0, why: Why::LoginNotVisible });
        let policy = std::sync::Arc::default();
        let evaluation = Evaluation {
            decision: None,
            view: View::default(),
            devices: 0,
            policy,
            held: None,
            outcomes: Vec::new(),
            again,
        };
        let settlements = after_look(&evaluation, &deliveries);
        let comes_again: Vec<u64> =
            settlements.iter().filter(|(_, s)| *s != Settlement::Ack).map(|(tag, _)| tag.number).collect();
        assert_eq!((settlements.len(), comes_again), (3, vec![2]));
    }
}
