//! Delivers what waits: a few at once for each endpoint, again after a failure, and no more to one that has failed for days
//! or does not want it.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::endpoint::{Answer, Endpoint};
use super::outbox::Shared;
use super::store::{Attempt, Pending, State};
use crate::retry;
use crate::telemetry::labels;

/// Deliveries to one endpoint at the same time.
const DELIVERIES_MAX: usize = 8;
/// How long a notice is tried.
pub(super) const NOTICE_AGE_MAX: Duration = Duration::from_hours(5 * 24);
/// How long an endpoint may fail without a success.
const FAILING_MAX: Duration = Duration::from_hours(5 * 24);
/// From so many failures in a row on, a success makes all that waits due.
const RECOVERED_FROM: u32 = 2;
/// How long it is waited when the disk does not take what was done.
const DISK_PAUSE: Duration = Duration::from_secs(5);
/// How long deliveries that have begun may take to end when the service stops; what is cut off goes out again later.
const DRAIN: Duration = Duration::from_secs(3);
/// The longest the task rests.
const REST_MAX: Duration = Duration::from_mins(1);

/// Delivers the notices of an [`Outbox`](super::Outbox).
pub struct OutboxTask {
    shared: Arc<Shared>,
    lanes: Vec<Lane>,
    begun: JoinSet<Done>,
}

struct Lane {
    endpoint: Arc<Endpoint>,
    in_hand: HashSet<i64>,
    state: State,
    /// Of the endpoint itself, in a row.
    failures: u32,
    resume_at_ms: i64,
}

/// A delivery that has ended.
struct Done {
    lane: usize,
    pending: Pending,
    answer: Answer,
}

impl OutboxTask {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let lane = |endpoint: &Arc<Endpoint>| Lane {
            endpoint: Arc::clone(endpoint),
            in_hand: HashSet::new(),
            state: State::default(),
            failures: 0,
            resume_at_ms: 0,
        };
        let lanes = shared.endpoints.iter().map(lane).collect();
        Self { shared, lanes, begun: JoinSet::new() }
    }

    /// Delivers until `stop`.
    pub async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        for lane in &mut self.lanes {
            lane.state = self.shared.store.state(lane.endpoint.name()).await?;
        }
        loop {
            let rest = self.begin_due().await;
            let shared = Arc::clone(&self.shared);
            tokio::select! {
                () = stop.cancelled() => break,
                () = shared.posted.notified() => {}
                () = sleep(rest) => {}
                Some(done) = self.begun.join_next() => self.take(done?).await,
            }
        }
        let drained = timeout(DRAIN, async {
            while let Some(Ok(done)) = self.begun.join_next().await {
                self.take(done).await;
            }
        });
        // What is cut off is delivered after the next start.
        drained.await.ok();
        Ok(())
    }

    /// Begins what is due. How long there is nothing to do then.
    async fn begin_due(&mut self) -> Duration {
        let mut rest = REST_MAX;
        for at in 0..self.lanes.len() {
            let wait = match self.begin_lane(at).await {
                Ok(wait) => wait,
                Err(error) => {
                    tracing::warn!("notices cannot be read now: {error:#}");
                    Some(DISK_PAUSE)
                }
            };
            rest = wait.map_or(rest, |wait| rest.min(wait));
        }
        rest
    }

    /// `None`: the next thing to happen to this endpoint is an answer of it, or a new notice.
    async fn begin_lane(&mut self, at: usize) -> anyhow::Result<Option<Duration>> {
        let Some(lane) = self.lanes.get_mut(at) else { return Ok(None) };
        let name = lane.endpoint.name();
        let now = self.shared.clock.now();
        let now_ms = now.as_millisecond();
        // One that is in trouble is only tried.
        let at_once = if lane.failures > 0 { 1 } else { DELIVERIES_MAX };
        let mut room = at_once.saturating_sub(lane.in_hand.len());
        if lane.state.disabled_at_ms.is_some() || self.shared.store.waiting(name) == 0 || room == 0 {
            return Ok(None);
        }
        if now_ms < lane.resume_at_ms {
            return Ok(Some(until(lane.resume_at_ms, now_ms)));
        }
        for pending in self.shared.store.first(name, 2 * DELIVERIES_MAX).await? {
            if lane.in_hand.contains(&pending.id) {
                continue;
            }
            if pending.due_at_ms > now_ms {
                return Ok(Some(until(pending.due_at_ms, now_ms)));
            }
            if room == 0 {
                return Ok(None);
            }
            room -= 1;
            lane.in_hand.insert(pending.id);
            let (endpoint, shared) = (Arc::clone(&lane.endpoint), Arc::clone(&self.shared));
            self.begun.spawn(async move {
                let answer = endpoint.tell(&pending, &shared.texts, now).await;
                Done { lane: at, pending, answer }
            });
        }
        Ok(None)
    }

    /// Settles a delivery, and with it all that have ended meanwhile.
    async fn take(&mut self, first: Done) {
        let mut by_lane: BTreeMap<usize, Vec<Done>> = BTreeMap::new();
        let mut next = Some(first);
        while let Some(done) = next {
            by_lane.entry(done.lane).or_default().push(done);
            next = self.begun.try_join_next().and_then(Result::ok);
        }
        for (lane, done) in by_lane {
            if let Some(lane) = self.lanes.get_mut(lane) {
                lane.settle(&self.shared, done).await;
            }
        }
    }
}

impl Lane {
    async fn settle(&mut self, shared: &Shared, done: Vec<Done>) {
        let now_ms = shared.clock.now_ms();
        let (name, before) = (self.endpoint.name().to_owned(), self.failures);
        let of = labels([("endpoint", name.as_str())]);
        let mut attempts = Vec::new();
        let mut ids = Vec::new();
        for Done { pending, answer, .. } in done {
            ids.push(pending.id);
            let attempt = match answer {
                Answer::Delivered => {
                    shared.metrics.notices.delivered.get_or_create(&of).inc();
                    self.succeeded();
                    Attempt::Over
                }
                Answer::Gone => {
                    shared.metrics.notices.failed.get_or_create(&of).inc();
                    self.disable(shared, now_ms, "it answered 410 and wants no more notices");
                    Attempt::Again { due_at_ms: now_ms }
                }
                Answer::Failed { retry_after, is_of_endpoint, why } => {
                    shared.metrics.notices.failed.get_or_create(&of).inc();
                    let wait = self.failed(shared, &why, is_of_endpoint, retry_after, now_ms);
                    let wait = wait.max(delay(pending.attempts + 1, shared));
                    if now_ms - pending.posted_at_ms >= ms(NOTICE_AGE_MAX) {
                        shared.tell_dropped(&name, 1, "they were tried for five days");
                        Attempt::Over
                    } else {
                        Attempt::Again { due_at_ms: now_ms + ms(wait) }
                    }
                }
            };
            attempts.push((pending.id, attempt));
        }
        let hurry = (before >= RECOVERED_FROM && self.failures == 0).then_some(now_ms);
        if let Err(error) = shared.store.settle(&name, attempts, self.state, hurry).await {
            // They are delivered once more, under the same names.
            tracing::warn!(endpoint = name, "it cannot be noted what became of notices: {error:#}");
            self.resume_at_ms = now_ms + ms(DISK_PAUSE);
        }
        for id in ids {
            self.in_hand.remove(&id);
        }
        shared.show_waiting(&name);
    }

    fn succeeded(&mut self) {
        if self.state.failing_since_ms.take().is_some() {
            tracing::info!(
                endpoint = self.endpoint.name(),
                "notices are delivered to `{}` again",
                self.endpoint.name()
            );
        }
        (self.failures, self.resume_at_ms) = (0, 0);
    }

    /// How long the notice must wait at least.
    fn failed(
        &mut self,
        shared: &Shared,
        why: &str,
        is_of_endpoint: bool,
        retry_after: Option<Duration>,
        now_ms: i64,
    ) -> Duration {
        let name = self.endpoint.name();
        let since = *self.state.failing_since_ms.get_or_insert_with(|| {
            tracing::warn!(endpoint = name, "a notice cannot be delivered to `{name}`, it is tried again: {why}");
            now_ms
        });
        let retry_after = retry_after.unwrap_or_default();
        // Those that were under way together fail together: that is one failure.
        if is_of_endpoint && now_ms >= self.resume_at_ms {
            self.failures = self.failures.saturating_add(1);
            self.resume_at_ms = now_ms + ms(retry_after.max(delay(self.failures, shared)));
        }
        if now_ms - since >= ms(FAILING_MAX) && self.state.disabled_at_ms.is_none() {
            self.disable(shared, now_ms, &format!("it has failed for five days, at last so: {why}"));
        }
        retry_after
    }

    fn disable(&mut self, shared: &Shared, now_ms: i64, why: &str) {
        if self.state.disabled_at_ms.replace(now_ms).is_some() {
            return;
        }
        let name = self.endpoint.name();
        shared.metrics.notices.disabled.get_or_create(&labels([("endpoint", name)])).set(1);
        tracing::error!(
            alarm = "notices_disabled",
            endpoint = name,
            "no more notices are sent to `{name}`, {why}. They wait for it; a restart tries again"
        );
    }
}

/// From half of the ladder's step to all of it.
fn delay(failures: u32, shared: &Shared) -> Duration {
    retry::delivery_delay(failures, 0.5 + (shared.chance)() / 2.0)
}

fn ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn until(at_ms: i64, now_ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(at_ms.saturating_sub(now_ms)).unwrap_or(0))
}
