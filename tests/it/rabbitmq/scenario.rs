//! One fault under a steady load: fleet, load, fault, quiet; then the sandbox and the broker are asked what is left.

use std::collections::BTreeMap;
use std::time::Duration;

use soloist::model::TenantId;
use soloist::queue::rabbitmq::topology;
use soloist::sandbox::Faults;

use super::brokers::Site;
use super::fleet::Fleet;
use super::load::{Accepted, Load, Plan};
use super::table::Row;
use crate::support::broker::Broker;

/// How long it may take until nothing waits any more. A message that found its queue gone comes back from a delay
/// queue only after some minutes.
const QUIET_PATIENCE: Duration = Duration::from_mins(4);

/// Looks in a row that find nothing: a message may move while one asks, from a queue that is asked later to one that was
/// asked before.
pub(crate) const QUIET_LOOKS: usize = 5;

/// How long the logins around a fault may take.
const LOAD_PATIENCE: Duration = Duration::from_mins(2);

/// What a busy fleet's provider takes for each call, and how many users each of its workers looks at side by side: with
/// that it cannot keep up, so that every worker always has messages in hand.
const BUSY_LATENCY_MS: u64 = 40;
const BUSY_CONCURRENCY: &str = "3";

/// The processes, and what the fault is called.
#[derive(Clone, Copy)]
pub(super) struct Scenario {
    fault: &'static str,
    webhooks: usize,
    workers: usize,
    is_busy: bool,
}

/// Logins before and after the fault, each.
pub(super) fn logins_around() -> usize {
    if is_long() { 500 } else { 60 }
}

/// How often the fault happens.
fn rounds() -> usize {
    if is_long() { 3 } else { 1 }
}

/// Whether the long form of a test was asked for.
pub(super) fn is_long() -> bool {
    std::env::var_os("SOLOIST_TEST_LONG").is_some()
}

impl Scenario {
    pub(super) fn new(fault: &'static str, webhooks: usize, workers: usize) -> Self {
        Self { fault, webhooks, workers, is_busy: false }
    }

    /// With more logins than the workers can keep up with.
    pub(super) fn busy(self) -> Self {
        Self { is_busy: true, ..self }
    }

    /// The processes, started.
    pub(super) async fn fleet(self, site: &Site) -> Fleet {
        let mut fleet = Fleet::empty(&site.url).await;
        if self.is_busy {
            fleet.set("SOLOIST_WORKER__CONCURRENCY", BUSY_CONCURRENCY);
            fleet.sandbox.set_faults(Faults { latency_ms: BUSY_LATENCY_MS, ..Faults::default() });
        }
        fleet.staff(self.webhooks, self.workers).await;
        fleet
    }

    /// `broker` is asked about the queues; it must answer again when `fault` returns.
    pub(super) async fn run(self, broker: &Broker, site: &Site, mut fault: impl AsyncFnMut(&mut Fleet, &Load)) {
        let mut fleet = self.fleet(site).await;
        fleet.ready().await;
        let load = Load::start(&fleet, Plan::STEADY);
        load.accepts_within(LOAD_PATIENCE, logins_around()).await;
        for _ in 0..rounds() {
            fault(&mut fleet, &load).await;
            load.accepts_within(LOAD_PATIENCE, logins_around()).await;
        }
        let accepted = load.end().await;
        self.conclude(broker, site, fleet, &accepted).await.record();
    }

    /// Waits for quiet, asserts that all is well, and says what was counted.
    pub(super) async fn conclude(self, broker: &Broker, site: &Site, mut fleet: Fleet, accepted: &[Accepted]) -> Row {
        quiet(broker, site, &fleet).await;
        assert_eq!(fleet.dead_letters().await, 0, "dead letters");
        let row = judge(self.fault, &fleet, accepted);
        assert_eq!((row.lost, row.settled), (0, row.accepted), "{}", self.fault);
        fleet.stop_all().await;
        row
    }
}

/// Waits until nothing is left in any queue of the vhost and in any journal.
pub(super) async fn quiet(broker: &Broker, site: &Site, fleet: &Fleet) {
    let (mut left, mut quiet_looks) = (BTreeMap::new(), 0);
    let nothing_is_left = async {
        let mut pause = tokio::time::interval(Duration::from_millis(100));
        loop {
            left = waiting(broker, &site.vhost, &TenantId::default_tenant()).await;
            left.insert("journals".to_owned(), Some(fleet.spooled().await));
            left.retain(|_, messages| *messages != Some(0));
            quiet_looks = if left.is_empty() { quiet_looks + 1 } else { 0 };
            if quiet_looks == QUIET_LOOKS {
                return;
            }
            pause.tick().await;
        }
    };
    let waited = tokio::time::timeout(QUIET_PATIENCE, nothing_is_left).await;
    assert!(waited.is_ok(), "after {QUIET_PATIENCE:?} there is left: {left:?}");
}

/// Messages in the queues of one tenant and in those that all share; `None` where a queue is not declared yet.
pub(crate) async fn waiting(broker: &Broker, vhost: &str, tenant: &TenantId) -> BTreeMap<String, Option<u64>> {
    let mut waiting = BTreeMap::new();
    for queue in topology::queues([tenant]) {
        let depth = broker.queue_depth(vhost, &queue.name).await;
        waiting.insert(queue.name, depth);
    }
    waiting
}

/// Asks the sandbox about every user, and the workers' logs about every event.
fn judge(fault: &'static str, fleet: &Fleet, accepted: &[Accepted]) -> Row {
    let report = fleet.sandbox.report(1);
    assert!(report.over_limit.is_empty(), "over the limit: {:?}", report.over_limit);
    assert!(report.wrong_revocations.is_empty(), "wrongly revoked: {:?}", report.wrong_revocations);
    assert!(report.emptied.is_empty(), "emptied: {:?}", report.emptied);
    for login in accepted {
        let left = fleet.sandbox.sessions(&login.user);
        let is_older = left.iter().any(|session| session.login_at < login.login_at);
        assert!(!is_older && left.len() == 1, "{}, {}: {left:?}", login.user, login.login_at);
    }
    let settled = fleet.settled();
    let times = |login: &Accepted| settled.get(&login.event).copied().unwrap_or(0);
    // A worker that was killed may have settled what it could not log any more; that the queues are empty and the
    // sandbox has nothing to complain of must do for so many.
    let unsaid = accepted.iter().filter(|login| times(login) == 0).count();
    let lost = unsaid.saturating_sub(fleet.unsaid_max);
    let mut answered: Vec<_> = accepted.iter().map(|login| login.at).collect();
    answered.sort_unstable();
    Row {
        fault,
        accepted: accepted.len(),
        in_journal: accepted.iter().filter(|login| login.in_journal).count(),
        settled: accepted.len() - lost,
        lost,
        duplicated: accepted.iter().map(|login| times(login).saturating_sub(1)).sum(),
        longest_pause: answered.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default(),
        longest_settling: accepted.iter().map(|login| settling(fleet, login)).max().unwrap_or_default(),
    }
}

/// From a login to the end of the last older session of its user.
pub(super) fn settling(fleet: &Fleet, login: &Accepted) -> Duration {
    let ever = fleet.sandbox.sessions_ever(&login.user);
    let older = ever.iter().filter(|session| session.login_at < login.login_at);
    let last_end = older.filter_map(|session| session.ended_at).max().unwrap_or(login.login_at);
    last_end.duration_since(login.login_at).try_into().unwrap_or_default()
}
