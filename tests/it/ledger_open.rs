//! What a crash leaves open, what needs no second record, and what of a session is remembered.

use std::path::Path;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use serde_json::{Value, json};
use soloist::ledger::{Courier, Intent, IntentId, Ledger as _, LedgerOptions, RemoteLedger};
use soloist::model::TenantId;
use soloist::telemetry::Metrics;

use crate::ledger_chain::{clock, intent, outcomes, recent, view, with_ledger};

/// Carries records as far as its own bag.
#[derive(Default)]
struct Bag(Mutex<Vec<Vec<u8>>>);

#[async_trait]
impl Courier for Bag {
    async fn deliver(&self, _tenant: &TenantId, record: Vec<u8>) -> anyhow::Result<()> {
        self.0.lock().unwrap().push(record);
        Ok(())
    }
}

fn ended(decided: &Value) -> Vec<&str> {
    decided["outcomes"].as_array().unwrap().iter().map(|outcome| outcome["ended"].as_str().unwrap()).collect()
}

/// A look at ann that finds these sessions and ends nobody.
fn quiet(sessions: &[u32]) -> Intent {
    Intent { executed: false, ..intent("ann", &view("ann", sessions)) }
}

#[tokio::test]
async fn an_intent_that_a_crash_left_open_is_closed_by_the_next_listing() {
    let folder = tempfile::tempdir().unwrap();
    with_ledger(LedgerOptions::in_dir(folder.path()), async |ledger| {
        ledger.intend(intent("ann", &view("ann", &[1, 2, 3]))).await.unwrap();
    })
    .await;
    // The process died after it had ended the oldest session and before it wrote so.
    with_ledger(LedgerOptions::in_dir(folder.path()), async |ledger| {
        assert_eq!(recent(ledger, "ann").await[0]["outcomes"], Value::Null);
        let mut incomplete = view("ann", &[3]);
        incomplete.complete = false;
        ledger.note(Intent { executed: false, ..intent("ann", &incomplete) });
        let shown = recent(ledger, "ann").await;
        assert!(shown.len() == 2 && shown.iter().all(|decided| decided["outcomes"].is_null()), "rows may be missing");

        ledger.intend(intent("ann", &view("ann", &[2, 3]))).await.unwrap();

        let shown = recent(ledger, "ann").await;
        let first = shown.iter().find(|decided| decided["sessions"].as_array().unwrap().len() == 3).unwrap();
        assert_eq!(ended(first), ["gone_at_next_listing", "still_listed"]);
        assert_eq!(ledger.verify(None).await.unwrap().problem_count, 0);
    })
    .await;
}

#[tokio::test]
async fn an_outcome_that_was_only_late_takes_the_place_of_what_was_concluded() {
    let folder = tempfile::tempdir().unwrap();
    let bag = Arc::<Bag>::default();
    let worker = RemoteLedger::new(bag.clone(), true, clock(), Metrics::new());
    let of_ann = intent("ann", &view("ann", &[1, 2]));
    let id = worker.intend(of_ann.clone()).await.unwrap();
    worker.outcome(id, &outcomes(&of_ann)).await.unwrap();
    worker.intend(intent("ann", &view("ann", &[2, 3]))).await.unwrap();
    let records: [Vec<u8>; 3] = std::mem::take(&mut *bag.0.lock().unwrap()).try_into().unwrap();
    let [first, outcome, second] = records;
    with_ledger(LedgerOptions::in_dir(folder.path()), async |ledger| {
        ledger.record(&[first, second]).await.unwrap();
        assert_eq!(ended(&recent(ledger, "ann").await[1]), ["gone_at_next_listing"]);
        for _ in 0..2 {
            ledger.record(std::slice::from_ref(&outcome)).await.unwrap();
            assert_eq!(ended(&recent(ledger, "ann").await[1]), ["revoked"]);
        }
        let found = ledger.verify(None).await.unwrap();
        assert_eq!(found.problems, Vec::<String>::new());
    })
    .await;
    // What was concluded cannot be put back in its place.
    let db = rusqlite::Connection::open(folder.path().join("ledger.db")).unwrap();
    db.execute_batch("UPDATE decisions SET outcome_seq = outcome_seq - 1 WHERE id = 1").unwrap();
    drop(db);
    with_ledger(LedgerOptions::in_dir(folder.path()), async |ledger| {
        assert!(ledger.verify(None).await.unwrap().problem_count > 0);
    })
    .await;
}

#[tokio::test]
async fn a_look_that_finds_nothing_new_is_not_recorded_again() {
    let folder = tempfile::tempdir().unwrap();
    with_ledger(LedgerOptions::in_dir(folder.path()), async |ledger| {
        for _ in 0..3 {
            ledger.note(quiet(&[1]));
        }
        assert_eq!(recent(ledger, "ann").await.len(), 1);
        ledger.note(quiet(&[2]));
        ledger.note(quiet(&[1]));
        assert_eq!(recent(ledger, "ann").await.len(), 3);
        // An intent is always recorded, and is the last then.
        let executed = intent("ann", &view("ann", &[1, 2]));
        for _ in 0..2 {
            ledger.intend(executed.clone()).await.unwrap();
        }
        ledger.note(quiet(&[1, 2]));
        assert_eq!(recent(ledger, "ann").await.len(), 5);
    })
    .await;
}

#[tokio::test]
async fn a_worker_sends_its_quiet_looks_without_waiting() {
    let bag = Arc::<Bag>::default();
    let worker = Arc::new(RemoteLedger::new(bag.clone(), true, clock(), Metrics::new()));
    let stop = tokio_util::sync::CancellationToken::new();
    let mut carrying = tokio::task::JoinSet::new();
    carrying.spawn(Arc::clone(&worker).carry_notes(stop.clone()));
    worker.note(quiet(&[1]));
    worker.note(quiet(&[1]));
    worker.note(quiet(&[2]));
    crate::support::soon("the records", async {
        while bag.0.lock().unwrap().len() < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    stop.cancel();
    carrying.join_next().await.unwrap().unwrap().unwrap();
    let folder = tempfile::tempdir().unwrap();
    with_ledger(LedgerOptions::in_dir(folder.path()), async |ledger| {
        let records = std::mem::take(&mut *bag.0.lock().unwrap());
        ledger.record(&records).await.unwrap();
        let shown = recent(ledger, "ann").await;
        assert_eq!((shown.len(), &shown[0]["executed"]), (2, &json!(false)));
    })
    .await;
}

/// What a ledger here and one fed by records hold of one decision, and their files.
async fn kept(keep_ip: bool) -> Vec<(Value, Vec<u8>)> {
    let bag = Arc::<Bag>::default();
    let worker = RemoteLedger::new(bag.clone(), true, clock(), Metrics::new());
    worker.intend(intent("ann", &view("ann", &[1, 2]))).await.unwrap();
    let records = std::mem::take(&mut *bag.0.lock().unwrap());
    let mut kept = Vec::new();
    for is_here in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let options = LedgerOptions { keep_ip, ..LedgerOptions::in_dir(folder.path()) };
        let sessions = with_ledger(options, async |ledger| {
            if is_here {
                ledger.intend(intent("ann", &view("ann", &[1, 2]))).await.unwrap();
            } else {
                ledger.record(&records).await.unwrap();
            }
            recent(ledger, "ann").await.remove(0)["sessions"].take()
        });
        kept.push((sessions.await, file(folder.path())));
    }
    kept
}

fn file(folder: &Path) -> Vec<u8> {
    std::fs::read(folder.join("ledger.db")).unwrap()
}

#[tokio::test]
async fn a_session_is_remembered_to_the_nanosecond_and_its_address_only_where_that_is_wanted() {
    for keep_ip in [false, true] {
        for (sessions, file) in kept(keep_ip).await {
            assert_eq!(sessions[0]["login_at"], json!("2026-06-01T12:00:00.000000001Z"));
            assert_eq!((&sessions[0]["browser"], &sessions[0]["city"]), (&json!("Safari"), &json!("Berlin")));
            assert_eq!(sessions[0]["ip"].as_str().is_some(), keep_ip);
            let has = |word: &str| file.windows(word.len()).any(|bytes| bytes == word.as_bytes());
            assert_eq!((has("192.0.2.77"), has("token-ann")), (keep_ip, false));
        }
    }
}

#[tokio::test]
async fn a_session_leads_to_the_decisions_that_ended_it() {
    let folder = tempfile::tempdir().unwrap();
    with_ledger(LedgerOptions::in_dir(folder.path()), async |ledger| {
        let of_ann = intent("ann", &view("ann", &[1, 2]));
        let id: IntentId = ledger.intend(of_ann.clone()).await.unwrap();
        ledger.outcome(id, &outcomes(&of_ann)).await.unwrap();
        let [old, new] = [1, 0].map(|at| of_ann.decision.verdicts[at].digest.session_id());
        let tenant = TenantId::default_tenant();
        let found = ledger.by_session(&tenant, old).await.unwrap();
        assert_eq!((found.len(), &found[0]["uid"], ended(&found[0])), (1, &json!("ann"), vec!["revoked"]));
        assert_eq!(ledger.by_session(&tenant, new).await.unwrap().len(), 0, "it stayed");
        assert_eq!(ledger.by_session(&TenantId::parse("acme").unwrap(), old).await.unwrap().len(), 0);
    })
    .await;
}
