//! Decisions made on other machines: on record once, whatever becomes of their records on the way.

use std::num::NonZeroU32;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use serde_json::{Value, json};
use soloist::clock::Clock;
use soloist::ledger::{Courier, Ended, Intent, IntentId, Ledger, LedgerOptions, Outcome, RemoteLedger, SqliteLedger};
use soloist::model::{Reason, Session, SessionDevice, TenantId, UserId, View};
use soloist::policy::{Decision, Limit, Marks, Policy, ResolvedPolicy, Source, Subject, decide};
use soloist::telemetry::Metrics;

/// Carries records as far as its own bag.
#[derive(Default)]
pub(crate) struct Bag {
    records: Mutex<Vec<Vec<u8>>>,
    has_hole: AtomicBool,
}

impl Bag {
    pub(crate) fn take(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut *self.records.lock().unwrap())
    }
}

#[async_trait]
impl Courier for Bag {
    async fn deliver(&self, _tenant: &TenantId, record: Vec<u8>) -> anyhow::Result<()> {
        anyhow::ensure!(!self.has_hole.load(Ordering::Relaxed), "no way to the broker");
        self.records.lock().unwrap().push(record);
        Ok(())
    }
}

/// Never says that anything arrived.
struct Silence;

#[async_trait]
impl Courier for Silence {
    async fn deliver(&self, _tenant: &TenantId, _record: Vec<u8>) -> anyhow::Result<()> {
        std::future::pending().await
    }
}

fn ann() -> UserId {
    UserId::parse("ann").unwrap()
}

fn clock() -> Clock {
    Clock::starting_at("2026-06-01T12:00:00Z".parse().unwrap())
}

/// One session too many for each of the last logins.
fn decision(sessions: u16, limit: u32) -> Decision {
    let session = |n| {
        let login_at = format!("2026-06-01T{:02}:{:02}:00Z", n / 60, n % 60).parse().unwrap();
        Session::new(&format!("planted-token-{n}"), Some(login_at), SessionDevice::default())
    };
    let view = View { sessions: (0..sessions).map(session).collect(), complete: true };
    let policy = Policy { limit: Limit::AtMost(NonZeroU32::new(limit).unwrap()), ..Policy::default() };
    decide(&view, &ResolvedPolicy::new("default", Source::Default, policy), &Marks::default(), Subject::default())
}

fn intent(decision: Decision) -> Intent {
    let tenant = TenantId::default_tenant();
    let sessions = Vec::new();
    Intent { tenant, user: ann(), looked: Reason::Login, decision, sessions, executed: true, held: None }
}

fn outcomes(decision: &Decision) -> Vec<Outcome> {
    let ended = |verdict: &soloist::policy::Verdict| Outcome {
        session: verdict.digest.session_id(),
        ended: Ended::Revoked,
        reason: verdict.reason,
    };
    decision.revocations().map(ended).collect()
}

/// Intent and outcome of one decision, as a worker without a ledger sends them.
async fn sent(decision: &Decision, clock: Clock) -> [Vec<u8>; 2] {
    let bag = Arc::<Bag>::default();
    let remote = RemoteLedger::new(bag.clone(), true, clock, Metrics::new());
    let id = remote.intend(intent(decision.clone())).await.unwrap();
    remote.outcome(id, &outcomes(decision)).await.unwrap();
    bag.take().try_into().unwrap()
}

fn open(folder: &Path) -> SqliteLedger {
    SqliteLedger::open(&LedgerOptions::in_dir(folder), clock()).unwrap().0
}

async fn recent(ledger: &SqliteLedger) -> Vec<Value> {
    ledger.recent(&TenantId::default_tenant(), &ann(), 10_000).await.unwrap()
}

async fn taken_in(ledger: &SqliteLedger, records: &[Vec<u8>]) {
    assert!(ledger.record(records).await.unwrap().iter().all(Result::is_ok));
}

#[tokio::test]
async fn a_decision_from_elsewhere_is_shown_as_if_made_here() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [here, elsewhere] = folders.each_ref().map(|folder| open(folder.path()));
    let decision = decision(3, 1);
    let id = here.intend(intent(decision.clone())).await.unwrap();
    here.outcome(id, &outcomes(&decision)).await.unwrap();

    taken_in(&elsewhere, &sent(&decision, clock()).await).await;

    let (mut shown, mut expected) = (recent(&elsewhere).await, recent(&here).await);
    let at = [&mut shown, &mut expected].map(|shown| shown[0]["decided_at"].take());
    let closed_at = [&mut shown, &mut expected].map(|shown| shown[0]["closed_at"].take());
    assert!(closed_at.iter().all(Value::is_string), "{closed_at:?}");
    assert!(at.iter().all(|at| at.as_str().unwrap().starts_with("2026-06-01T12:00:0")), "{at:?}");
    assert_eq!(shown, expected);
    assert_eq!(shown[0]["outcomes"].as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn a_record_is_kept_once_however_often_and_in_whatever_order_it_comes() {
    let decision = decision(3, 1);
    let [intent, outcome] = &sent(&decision, clock()).await;
    let mut shown: Vec<Vec<Value>> = Vec::new();
    for order in
        [[intent, outcome, intent, outcome], [outcome, intent, outcome, intent], [outcome, outcome, intent, intent]]
    {
        let order = order.map(Clone::clone);
        for batch in [1, 4] {
            let folder = tempfile::tempdir().unwrap();
            let ledger = open(folder.path());
            for records in order.chunks(batch) {
                taken_in(&ledger, records).await;
            }
            shown.push(recent(&ledger).await);
        }
    }
    assert_eq!(shown[0].len(), 1);
    assert_eq!(shown[0][0]["decision"], serde_json::to_value(&decision).unwrap());
    assert!(shown.iter().all(|one| *one == shown[0]), "{shown:#?}");
}

#[tokio::test]
async fn a_record_that_comes_again_after_a_restart_is_no_second_one() {
    let folder = tempfile::tempdir().unwrap();
    let records = sent(&decision(2, 1), clock()).await;
    let (ledger, thread) = SqliteLedger::open(&LedgerOptions::in_dir(folder.path()), clock()).unwrap();
    taken_in(&ledger, &records).await;
    let before = recent(&ledger).await;
    ledger.stop();
    thread.ended().await.unwrap();

    let ledger = open(folder.path());
    taken_in(&ledger, &records).await;

    assert_eq!(recent(&ledger).await, before);
}

#[tokio::test]
async fn what_was_ended_is_known_though_its_intent_was_lost() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = open(folder.path());
    let [_lost, outcome] = sent(&decision(2, 1), clock()).await;
    taken_in(&ledger, &[outcome]).await;
    let shown = recent(&ledger).await;
    assert_eq!((&shown[0]["looked"], &shown[0]["decision"]), (&json!("unknown"), &Value::Null));
    assert_eq!(shown[0]["outcomes"][0]["ended"], json!("revoked"));
}

#[tokio::test]
async fn a_decision_that_comes_late_is_shown_where_it_belongs() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = open(folder.path());
    for hour in ["12", "10", "11"] {
        let clock = Clock::starting_at(format!("2026-06-01T{hour}:30:00Z").parse().unwrap());
        taken_in(&ledger, &sent(&decision(2, 1), clock).await).await;
    }
    let shown: Vec<Value> = recent(&ledger).await.iter().map(|one| one["decided_at"].clone()).collect();
    let expected = ["12", "11", "10"].map(|hour| format!("2026-06-01T{hour}:30"));
    assert!(shown.iter().zip(expected).all(|(at, hour)| at.as_str().unwrap().starts_with(&hour)), "{shown:?}");
}

#[tokio::test]
async fn the_oldest_are_forgotten_wherever_they_come_from() {
    let folder = tempfile::tempdir().unwrap();
    let options = LedgerOptions { decisions_max: 10, ..LedgerOptions::in_dir(folder.path()) };
    let (ledger, _thread) = SqliteLedger::open(&options, clock()).unwrap();
    let decision = decision(2, 1);
    let mut records = Vec::new();
    for _ in 0..1_005 {
        records.extend(sent(&decision, clock()).await);
    }
    taken_in(&ledger, &records).await;
    assert_eq!(recent(&ledger).await.len(), 10);
}

/// A record with one thing changed.
fn changed(record: &[u8], pointer: &str, value: Value) -> Vec<u8> {
    let mut record: Value = serde_json::from_slice(record).unwrap();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    record.pointer_mut(parent).unwrap()[key] = value;
    serde_json::to_vec(&record).unwrap()
}

#[tokio::test]
async fn rubbish_is_named_and_keeps_no_good_record_out() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = open(folder.path());
    let [intent, outcome] = sent(&decision(2, 1), clock()).await;
    let records = vec![
        Vec::new(),
        vec![0xff; 100],
        b"[1, 2".to_vec(),
        b"{}".to_vec(),
        b"null".to_vec(),
        br#"{"record":"diary"}"#.to_vec(),
        vec![b' '; (4 << 20) + 1],
        changed(&intent, "/uid", json!("a/b")),
        changed(&intent, "/id", json!("1")),
        changed(&intent, "/tenant", Value::Null),
        changed(&intent, "/decided_at", json!("today")),
        changed(&outcome, "/outcomes", json!({})),
        intent,
        outcome,
    ];

    let answers = ledger.record(&records).await.unwrap();

    let (bad, good) = answers.split_at(records.len() - 2);
    assert!(good.iter().all(Result::is_ok));
    let problems: Vec<String> = bad.iter().map(|answer| answer.unwrap_err().to_string()).collect();
    assert_eq!(problems[1], "the record is not JSON");
    assert_eq!(problems[6], "the record is larger than any of ours");
    assert!(problems[7..].iter().all(|problem| problem == "the record is not of our form"), "{problems:?}");
    assert_eq!(recent(&ledger).await.len(), 1);
}

#[tokio::test]
async fn no_token_gets_into_the_file_and_none_is_quoted() {
    const TOKEN: &str = "6f1c2e3a-7777-4b1d-9e1f-0a1b2c3d4e5f";
    let folder = tempfile::tempdir().unwrap();
    let ledger = open(folder.path());
    let [intent, outcome] = sent(&decision(2, 1), clock()).await;
    let places = ["/access_token", "/looked", "/decision/token", "/decision/id", "/decision/mode", "/decision/refused"];
    let of_verdict = ["session", "action", "reason", "token"].map(|key| format!("/decision/verdicts/0/{key}"));
    let of_policy = ["version", "source", "token"].map(|key| format!("/decision/policy/{key}"));
    let in_intent = places.map(str::to_owned).into_iter().chain(of_verdict).chain(of_policy);
    let of_end = ["session", "ended", "reason", "token"].map(|key| format!("/outcomes/0/{key}"));
    let mut records: Vec<_> = in_intent.map(|place| changed(&intent, &place, json!(TOKEN))).collect();
    records.push(changed(&intent, "/decision/verdicts/1/witnesses", json!([TOKEN])));
    records.extend(of_end.map(|place| changed(&outcome, &place, json!(TOKEN))));

    let answers = ledger.record(&records).await.unwrap();

    assert!(answers.iter().all(|answer| !answer.unwrap_err().to_string().contains(TOKEN)));
    assert_eq!(recent(&ledger).await, Vec::<Value>::new());
    let written = String::from_utf8(intent).unwrap() + &String::from_utf8(outcome).unwrap();
    assert!(!written.contains("planted-token"), "{written}");
}

#[tokio::test]
async fn a_decision_with_too_many_witnesses_to_send_is_sent_without_them() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = open(folder.path());
    let decision = decision(900, 400);
    assert!(serde_json::to_vec(&decision).unwrap().len() > 4 << 20);
    taken_in(&ledger, &sent(&decision, clock()).await).await;
    let shown = recent(&ledger).await;
    assert_eq!(shown[0]["outcomes"].as_array().map(Vec::len), Some(500));
    assert_eq!(shown[0]["decision"]["verdicts"][899]["witnesses"], json!([]));
}

#[tokio::test]
async fn where_the_ledger_is_required_a_record_that_cannot_be_sent_is_an_error() {
    let (bag, metrics) = (Arc::<Bag>::default(), Metrics::new());
    let remote = RemoteLedger::new(bag.clone(), true, clock(), metrics.clone());
    bag.has_hole.store(true, Ordering::Relaxed);
    assert!(remote.intend(intent(decision(2, 1))).await.is_err());
    assert_eq!(metrics.ledger_lost.get(), 0, "whoever asked counts what he loses");
}

#[tokio::test]
async fn where_it_is_not_a_lost_record_is_counted_and_work_goes_on() {
    let (bag, metrics) = (Arc::<Bag>::default(), Metrics::new());
    let remote = RemoteLedger::new(bag.clone(), false, clock(), metrics.clone());
    bag.has_hole.store(true, Ordering::Relaxed);
    let id = remote.intend(intent(decision(2, 1))).await.unwrap();
    assert_eq!(metrics.ledger_lost.get(), 1);
    bag.has_hole.store(false, Ordering::Relaxed);
    remote.outcome(id, &outcomes(&decision(2, 1))).await.unwrap();
    assert_eq!((metrics.ledger_lost.get(), bag.records.lock().unwrap().len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_record_is_not_waited_for_longer_than_a_look_may_take() {
    let start = tokio::time::Instant::now();
    let required = |required| RemoteLedger::new(Arc::new(Silence), required, clock(), Metrics::new());
    assert!(required(true).intend(intent(decision(2, 1))).await.is_err());
    assert!(required(false).intend(intent(decision(2, 1))).await.is_ok());
    assert!(start.elapsed().as_secs() <= 10, "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_process_without_a_ledger_says_who_has_one() {
    let remote = RemoteLedger::new(Arc::new(Silence), false, clock(), Metrics::new());
    let error = remote.recent(&TenantId::default_tenant(), &ann(), 1).await.unwrap_err();
    assert!(format!("{:#}", anyhow::Error::new(error)).contains("ask the control process"));
}

#[tokio::test]
async fn an_intent_of_one_ledger_is_not_closed_in_another() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = open(folder.path());
    let elsewhere = RemoteLedger::new(Arc::<Bag>::default(), true, clock(), Metrics::new());
    let id = elsewhere.intend(intent(decision(2, 1))).await.unwrap();
    assert!(ledger.outcome(id, &[]).await.is_err());
    assert!(elsewhere.outcome(IntentId::Row(1), &[]).await.is_err());
}

#[tokio::test]
async fn a_file_of_the_first_version_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let old = rusqlite::Connection::open(folder.path().join("ledger.db")).unwrap();
    old.execute_batch(include_str!("../fixtures/ledger_version_1.sql")).unwrap();
    let rows = |db: &rusqlite::Connection| -> Vec<(i64, String, Option<String>, i64)> {
        let mut all = db.prepare("SELECT decided_at_ms, decision, outcomes, closed_at_ms FROM decisions").unwrap();
        let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?));
        all.query_map([], row).unwrap().map(Result::unwrap).collect()
    };
    let before = rows(&old);
    drop(old);

    let ledger = open(folder.path());

    let shown = recent(&ledger).await;
    assert_eq!((shown.len(), &shown[0]["outcomes"][1]["ended"]), (1, &json!("revoked")));
    taken_in(&ledger, &sent(&decision(2, 1), clock()).await).await;
    assert_eq!(recent(&ledger).await.len(), 2);
    let after = rows(&rusqlite::Connection::open(folder.path().join("ledger.db")).unwrap());
    assert_eq!((before.len(), &after[..3]), (3, &before[..]));
}
