//! The feed of closed decisions that notices are made from: whoever reads on misses none, however late it came.

use std::sync::Arc;

use soloist::clock::Clock;
use soloist::ledger::{ClosedSince, Ended, Intent, Ledger as _, LedgerOptions, Outcome, RemoteLedger, SqliteLedger};
use soloist::model::{Reason, Session, SessionDevice, TenantId, UserId, View};
use soloist::policy::{Decision, Marks, Policy, ResolvedPolicy, Source, Subject, decide};
use soloist::telemetry::Metrics;

use crate::ledger_records::Bag;
use crate::support::soon;

fn clock(at: &str) -> Clock {
    Clock::starting_at(at.parse().unwrap())
}

/// The older of two sessions is to be ended.
fn decision(name: &str) -> Decision {
    let session = |n| {
        let login_at = format!("2026-06-01T00:0{n}:00Z").parse().unwrap();
        Session::new(&format!("{name}-{n}"), Some(login_at), SessionDevice::default())
    };
    let view = View { sessions: (0..2).map(session).collect(), complete: true };
    let policy = ResolvedPolicy::new("default", Source::Default, Policy::default());
    decide(&view, &policy, &Marks::default(), Subject::default())
}

fn intent(user: &str, decision: &Decision) -> Intent {
    Intent {
        tenant: TenantId::default_tenant(),
        user: UserId::parse(user).unwrap(),
        looked: Reason::Login,
        decision: decision.clone(),
        sessions: Vec::new(),
        executed: true,
        held: None,
    }
}

fn outcomes(decision: &Decision) -> Vec<Outcome> {
    let verdict = decision.revocations().next().unwrap();
    vec![Outcome { session: verdict.digest.session_id(), ended: Ended::Revoked, reason: verdict.reason }]
}

fn users(read: &ClosedSince) -> Vec<&str> {
    read.closed.iter().map(|closed| closed.user.as_str()).collect()
}

async fn close(ledger: &SqliteLedger, user: &str) {
    let decision = decision(user);
    let id = ledger.intend(intent(user, &decision)).await.unwrap();
    ledger.outcome(id, &outcomes(&decision)).await.unwrap();
}

#[tokio::test]
async fn whoever_reads_on_gets_each_closing_once_in_its_order() {
    let folder = tempfile::tempdir().unwrap();
    let (ledger, _thread) =
        SqliteLedger::open(&LedgerOptions::in_dir(folder.path()), clock("2026-06-01T12:00:00Z")).unwrap();
    let mut ends = ledger.ends();
    let start = ledger.closed_since(0).await.unwrap();
    assert!(start.closed.is_empty() && !start.more);
    let open = ledger.intend(intent("slow", &decision("slow"))).await.unwrap();
    close(&ledger, "ann").await;
    soon("the end to move", ends.changed()).await.unwrap();
    let first = ledger.closed_since(start.next).await.unwrap();
    assert_eq!(users(&first), ["ann"]);
    // Decided before, closed behind it.
    ledger.outcome(open, &outcomes(&decision("slow"))).await.unwrap();
    close(&ledger, "bob").await;
    let second = ledger.closed_since(first.next).await.unwrap();
    assert_eq!(users(&second), ["slow", "bob"]);
    assert!(ledger.closed_since(second.next).await.unwrap().closed.is_empty());
    // A place that this ledger has not reached is another's.
    assert_eq!(users(&ledger.closed_since(second.next + 1_000).await.unwrap()), ["ann", "slow", "bob"]);
    ledger.forget(&TenantId::default_tenant(), &UserId::parse("slow").unwrap()).await.unwrap();
    assert_eq!(users(&ledger.closed_since(0).await.unwrap()), ["ann", "bob"]);
}

#[tokio::test]
async fn a_record_that_comes_days_late_is_read_as_well_and_much_is_read_in_parts() {
    let folder = tempfile::tempdir().unwrap();
    let (ledger, _thread) =
        SqliteLedger::open(&LedgerOptions::in_dir(folder.path()), clock("2026-06-05T12:00:00Z")).unwrap();
    close(&ledger, "ann").await;
    let before = ledger.closed_since(0).await.unwrap();
    let bag = Arc::<Bag>::default();
    let remote = RemoteLedger::new(bag.clone(), true, clock("2026-06-01T12:00:00Z"), Metrics::new());
    for n in 0..600 {
        let (user, decision) = (format!("user-{n}"), decision(&format!("user-{n}")));
        let id = remote.intend(intent(&user, &decision)).await.unwrap();
        remote.outcome(id, &outcomes(&decision)).await.unwrap();
    }
    let records = bag.take();
    ledger.record(&records).await.unwrap();
    // The same again changes nothing.
    ledger.record(&records).await.unwrap();
    let first = ledger.closed_since(before.next).await.unwrap();
    let second = ledger.closed_since(first.next).await.unwrap();
    assert!(first.more && !second.more);
    assert_eq!(first.closed.len() + second.closed.len(), 600);
    assert_eq!(second.closed.last().unwrap().user.as_str(), "user-599");
    let decided_at = second.closed[0].decision["decided_at"].as_str().unwrap();
    assert!(decided_at.starts_with("2026-06-01T12:0"), "{decided_at}");
}
