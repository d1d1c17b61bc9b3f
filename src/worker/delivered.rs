//! The deliveries that one look is for: what it looks for because of them, and how they are settled after it.

use tokio_util::sync::CancellationToken;

use super::health::TenantState;
use super::lanes::Lanes;
use super::settle::{self, Circumstances};
use super::step::{Look, StepError, TenantEnforcer};
use crate::model::{EventId, LoginEvent, Reason, UserId};
use crate::queue::{Delivery, DeliveryTag, Next, QueueError, Settlement, Why};
use crate::retry;
use crate::telemetry::labels;

/// One look and the deliveries that it is for.
pub(super) struct Step {
    deliveries: Vec<Delivery>,
    pub(super) look: Look,
    pub(super) event_id: EventId,
    pub(super) attempt: u32,
}

impl Step {
    /// `None` without any.
    pub(super) fn of(deliveries: Vec<Delivery>) -> Option<Self> {
        let newest = settle::newest(&deliveries)?;
        let chosen = deliveries.iter().find(|delivery| delivery.tag == newest)?;
        // A login among them makes the look one for a login, whatever else woke us; and for each of them, where they may
        // be turned away.
        let logins = deliveries.iter().map(|delivery| &delivery.event).filter(|event| event.reason == Reason::Login);
        let reason = logins.clone().map(|event| event.reason).next();
        // One of which only the second is known may be the last of them, and so may one of which nothing is known.
        let vague = logins.clone().filter(|event| event.login_at.is_none()).filter_map(|event| event.at).max();
        let is_timeless = logins.clone().any(|event| event.login_at.or(event.at).is_none());
        let first = logins.filter_map(|event| event.login_at.or(event.at)).min();
        let event = chosen.event.clone();
        let look = Look {
            user: event.user,
            reason: reason.unwrap_or(event.reason),
            // From when on newcomers are turned away for these logins is for them alone to say.
            at: if reason.is_some() { first } else { event.login_at.or(event.at) },
            login_at: event.login_at.filter(|_| !is_timeless).map(|at| vague.map_or(at, |vague| at.max(vague))),
            dry_run: false,
        };
        Some(Self { look, event_id: event.id, attempt: chosen.attempt, deliveries })
    }

    /// Looks and settles. An error is the queue's and ends the worker.
    pub(super) async fn run(
        self,
        enforcer: &TenantEnforcer,
        lanes: &Lanes,
        stop: &CancellationToken,
    ) -> anyhow::Result<UserId> {
        let settlements = match enforcer.evaluate_and_know(&self.look).await {
            Ok(evaluation) => settle::after_look(&evaluation, &self.deliveries),
            Err(error) => self.after_failure(enforcer, error),
        };
        self.settle(lanes, &settlements, stop).await?;
        self.count(enforcer, &settlements);
        Ok(self.look.user)
    }

    /// Settles, if need be until the disk takes it or we are told to stop: then the next process looks again.
    /// A queue that has stopped takes nothing any more.
    async fn settle(
        &self,
        lanes: &Lanes,
        settlements: &[(DeliveryTag, Settlement)],
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        let mut failures = 0_u32;
        while let Err(error) = lanes.settle(&self.deliveries, settlements).await {
            if matches!(error, QueueError::Stopped) {
                return Err(error.into());
            }
            failures = failures.saturating_add(1);
            if stop.is_cancelled() {
                tracing::warn!("not settled before the stop, so it will be looked at again: {error}");
                return Ok(());
            }
            if failures == 1 {
                tracing::error!("cannot settle, will try until it can: {:#}", anyhow::Error::new(error));
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(retry::probe_delay(failures)) => {}
            }
        }
        Ok(())
    }

    fn after_failure(&self, enforcer: &TenantEnforcer, error: StepError) -> Vec<(DeliveryTag, Settlement)> {
        let health = &enforcer.calls.health;
        let now = Circumstances {
            state: health.state(),
            others_succeed: health.others_succeed(&self.look.user),
            attempts_max: enforcer.config.attempts_max,
            jitter: (enforcer.calls.chance)(),
        };
        let settlements = settle::after_failure(&error, &self.deliveries, now);
        let error = anyhow::Error::new(error);
        if settlements.iter().any(|(_, settlement)| matches!(settlement, Settlement::DeadLetter { .. })) {
            tracing::error!("given up: {error:#}");
        } else if now.state == TenantState::Running {
            tracing::warn!("looked in vain, will look again: {error:#}");
        } else {
            tracing::debug!("put off while the tenant pauses: {error:#}");
        }
        settlements
    }

    fn count(&self, enforcer: &TenantEnforcer, settlements: &[(DeliveryTag, Settlement)]) {
        let (metrics, tenant) = (&enforcer.metrics, enforcer.tenant.as_str());
        let now = enforcer.clock.now();
        for (tag, settlement) in settlements {
            let (name, why) = match settlement {
                Settlement::Ack => ("ack", None),
                Settlement::Again { next: Next::Recheck { .. }, why, .. } => ("recheck", Some(*why)),
                Settlement::Again { why, .. } => ("again", Some(*why)),
                Settlement::DeadLetter { why } => ("dead_letter", Some(*why)),
            };
            let why = why.map_or("", Why::as_str);
            let of = labels([("tenant", tenant), ("settlement", name), ("why", why)]);
            metrics.deliveries_settled.get_or_create(&of).inc();
            if name == "recheck" {
                metrics.rechecks.get_or_create(&labels([("tenant", tenant), ("why", why)])).inc();
            }
            let event = self.deliveries.iter().find(|delivery| delivery.tag == *tag).map(|delivery| &delivery.event);
            if let Some(LoginEvent { id, reason, .. }) = event {
                tracing::debug!(event.id = %id, "settled event `{id}` ({}): {name}", reason.as_str());
            }
            let accepted = event.filter(|event| event.reason == Reason::Login).and_then(|event| event.accepted_at);
            if let Some(accepted_at) = accepted
                && matches!(name, "ack" | "recheck")
            {
                let seconds = now.duration_since(accepted_at).as_secs_f64().max(0.0);
                metrics.login_to_settled.get_or_create(&labels([("tenant", tenant)])).observe(seconds);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::TenantId;

    fn login(number: u64, at: &str, login_at: Option<&str>) -> Delivery {
        let event = LoginEvent {
            tenant: TenantId::default_tenant(),
            user: UserId::parse("ann").unwrap(),
            id: EventId::parse("h").unwrap(),
            at: Some(at.parse().unwrap()),
            login_at: login_at.map(|at| at.parse().unwrap()),
            reason: Reason::Login,
            accepted_at: None,
        };
        Delivery { tag: DeliveryTag { epoch: 1, number }, event, attempt: 1, redelivered: false }
    }

    fn timeless(number: u64) -> Delivery {
        let mut delivery = login(number, "2026-01-01T00:00:00Z", None);
        delivery.event.at = None;
        delivery
    }

    fn look(deliveries: &[&Delivery]) -> Look {
        Step::of(deliveries.iter().copied().cloned().collect()).unwrap().look
    }

    #[test]
    fn a_look_for_several_logins_waits_for_the_last_however_exactly_each_is_known() {
        let exact = login(1, "2026-01-01T00:00:01Z", Some("2026-01-01T00:00:01.5Z"));
        let waits_for = |deliveries: &[&Delivery]| look(deliveries).login_at.map(|at| at.to_string());
        let earlier = login(2, "2026-01-01T00:00:00Z", None);
        let later = login(3, "2026-01-01T00:00:09Z", None);
        assert_eq!(waits_for(&[&earlier, &exact]).as_deref(), Some("2026-01-01T00:00:01.5Z"));
        assert_eq!(waits_for(&[&later, &exact]).as_deref(), Some("2026-01-01T00:00:09Z"));
        assert_eq!(waits_for(&[&earlier, &later]), None, "then one more look is all that can be had");
        assert_eq!(waits_for(&[&exact, &timeless(4)]), None, "nor is more known of one without a time");
    }

    #[test]
    fn a_login_without_a_time_turns_nobody_away_whatever_else_the_look_is_for() {
        let mut recheck = login(1, "2026-01-01T00:00:01Z", Some("2026-01-01T00:00:01.5Z"));
        recheck.event.reason = Reason::Recheck { rung: 1 };
        let both = look(&[&recheck, &timeless(2)]);
        assert_eq!((both.reason, both.at, both.login_at), (Reason::Login, None, None));
        assert_eq!(look(&[&recheck]).at, recheck.event.login_at);
    }
}
