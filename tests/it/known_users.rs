//! Users seen: known from their first event on, whatever becomes of the process, the file and the clock.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use soloist::clock::Clock;
use soloist::ledger::{
    Courier, Imported, KnownUser, Ledger as _, LedgerOptions, RemoteLedger, Seen, Source, SqliteLedger,
};
use soloist::model::{TenantId, UserId};
use soloist::telemetry::Metrics;

const NOON: &str = "2026-06-01T12:00:00Z";
const MINUTE_MS: i64 = 60_000;
const DAY_MS: i64 = 24 * 60 * MINUTE_MS;

fn tenant() -> TenantId {
    TenantId::default_tenant()
}

fn user(uid: &str) -> UserId {
    UserId::parse(uid).unwrap()
}

fn options(folder: &Path) -> LedgerOptions {
    LedgerOptions { repair: true, ..LedgerOptions::in_dir(folder) }
}

/// Opens the ledger as `serve` does, with a clock that shows this time.
fn open_at(folder: &Path, now: &str) -> SqliteLedger {
    SqliteLedger::open(&options(folder), Clock::starting_at(now.parse().unwrap())).unwrap().0
}

async fn all(ledger: &SqliteLedger) -> Vec<KnownUser> {
    ledger.users_page(&tenant(), "", 1_000).await.unwrap()
}

/// Each user with the minutes since they were seen and asked about, from this time; `None`: never.
async fn ages(ledger: &SqliteLedger, now: &str) -> Vec<(String, i64, Option<i64>)> {
    let now_ms = now.parse::<jiff::Timestamp>().unwrap().as_millisecond();
    let minutes = |ms: i64| (now_ms - ms + MINUTE_MS / 2).div_euclid(MINUTE_MS);
    let asked = |user: &KnownUser| (user.asked_at_ms > 0).then(|| minutes(user.asked_at_ms));
    let users = all(ledger).await;
    users.iter().map(|user| (user.user.to_string(), minutes(user.seen_at_ms), asked(user))).collect()
}

async fn saw(ledger: &SqliteLedger, uid: &str) {
    ledger.seen(&tenant(), &user(uid), Seen::Event).await.unwrap();
}

#[tokio::test]
async fn a_user_seen_is_known_after_a_restart_and_an_imported_one_waits_for_the_first_look() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = open_at(folder.path(), NOON);
    saw(&ledger, "ann").await;
    let imported = ledger.import_users(&tenant(), vec![user("ann"), user("bob"), user("bob")]).await.unwrap();
    assert_eq!(imported, Imported { new: 1, known: 2 });
    drop(ledger);

    let ledger = open_at(folder.path(), "2026-06-01T13:00:00Z");
    let expected = [("ann".to_owned(), 60, Some(60)), ("bob".to_owned(), 60, None)];
    assert_eq!(ages(&ledger, "2026-06-01T13:00:00Z").await, expected);
    let sources: Vec<Source> = all(&ledger).await.iter().map(|user| user.source).collect();
    assert_eq!(sources, [Source::Event, Source::Import]);
    let due = ledger.users_due(&tenant(), i64::MAX, 10).await.unwrap();
    assert_eq!(due.iter().map(|user| user.user.as_str()).collect::<Vec<_>>(), ["bob", "ann"]);
}

#[tokio::test]
async fn another_tenants_user_of_the_same_name_is_somebody_else() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = open_at(folder.path(), NOON);
    saw(&ledger, "ann").await;
    let acme = TenantId::parse("acme").unwrap();
    assert_eq!(ledger.import_users(&acme, vec![user("ann")]).await.unwrap().new, 1);
    assert_eq!(ledger.users_count(&acme).await.unwrap().users, 1);
    assert_eq!(ledger.users_due(&acme, i64::MAX, 10).await.unwrap()[0].source, Source::Import);
}

#[tokio::test]
async fn a_login_that_a_look_found_keeps_its_user_but_brings_nobody_back() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = open_at(folder.path(), NOON);
    saw(&ledger, "ann").await;
    drop(ledger);
    let later = "2026-06-02T12:00:00Z";
    let ledger = open_at(folder.path(), later);
    let listed = Seen::Listed("2026-06-02T11:00:00Z".parse().unwrap());
    for uid in ["ann", "forgotten"] {
        ledger.seen(&tenant(), &user(uid), listed).await.unwrap();
    }
    ledger.seen(&tenant(), &user("ann"), Seen::Listed(NOON.parse().unwrap())).await.unwrap();
    assert_eq!(ages(&ledger, later).await, [("ann".to_owned(), 60, Some(24 * 60))]);
}

#[tokio::test]
async fn a_clock_that_was_turned_back_or_jumped_ahead_strands_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = open_at(folder.path(), NOON);
    saw(&ledger, "ann").await;
    ledger.import_users(&tenant(), vec![user("bob")]).await.unwrap();
    drop(ledger);
    let day = Some(DAY_MS / MINUTE_MS);

    // Ten years ahead: as if a day had passed. Nobody seems long gone.
    let ahead = "2036-06-01T12:00:00Z";
    let ledger = open_at(folder.path(), ahead);
    let (ann, bob) = (("ann".to_owned(), 1440, day), ("bob".to_owned(), 1440, None));
    assert_eq!(ages(&ledger, ahead).await, [ann, bob]);
    drop(ledger);

    // And back again: as if it was now.
    let ledger = open_at(folder.path(), NOON);
    let (ann, bob) = (("ann".to_owned(), 0, Some(0)), ("bob".to_owned(), 0, None));
    assert_eq!(ages(&ledger, NOON).await, [ann, bob]);
}

#[tokio::test]
async fn a_damaged_ledger_gives_its_users_to_the_new_one() {
    let folder = tempfile::tempdir().unwrap();
    let (ledger, thread) =
        SqliteLedger::open(&options(folder.path()), Clock::starting_at(NOON.parse().unwrap())).unwrap();
    let users = (0..5_000).map(|n| user(&format!("user-{n:05}"))).collect();
    ledger.import_users(&tenant(), users).await.unwrap();
    ledger.stop();
    thread.ended().await.unwrap();
    // One page in the middle of the table of users, which is most of the file.
    let path = folder.path().join("ledger.db");
    let mut bytes = std::fs::read(&path).unwrap();
    let page = 4096;
    let middle = bytes.len() / page / 3 * page;
    bytes[middle..middle + page].fill(0xa5);
    bytes[page..2 * page].fill(0xa5);
    std::fs::write(&path, bytes).unwrap();

    let ledger = open_at(folder.path(), NOON);
    saw(&ledger, "somebody").await;
    let count = ledger.users_count(&tenant()).await.unwrap().users;
    assert!(count > 4_000, "{count} of 5,000 were carried over");
    assert!(folder.path().join("ledger.db.damaged-1").exists());
}

/// Carries records as far as its own bag, where the way is open.
#[derive(Default)]
struct Bag {
    records: Mutex<Vec<Vec<u8>>>,
    is_shut: AtomicBool,
}

#[async_trait]
impl Courier for Bag {
    async fn deliver(&self, _tenant: &TenantId, record: Vec<u8>) -> anyhow::Result<()> {
        anyhow::ensure!(!self.is_shut.load(Ordering::Relaxed), "no way to the broker");
        self.records.lock().unwrap().push(record);
        Ok(())
    }
}

#[tokio::test]
async fn a_user_seen_elsewhere_is_known_here_and_told_of_once_in_a_while() {
    let (folder, bag) = (tempfile::tempdir().unwrap(), Arc::<Bag>::default());
    let ledger = open_at(folder.path(), NOON);
    // Its clock is an hour ahead of ours.
    let clock = Clock::starting_at("2026-06-01T13:00:00Z".parse().unwrap());
    let remote = RemoteLedger::new(bag.clone(), false, clock, Metrics::new());
    bag.is_shut.store(true, Ordering::Relaxed);
    remote.seen(&tenant(), &user("ann"), Seen::Event).await.unwrap();
    bag.is_shut.store(false, Ordering::Relaxed);
    for _ in 0..100 {
        remote.seen(&tenant(), &user("ann"), Seen::Event).await.unwrap();
    }
    let records = std::mem::take(&mut *bag.records.lock().unwrap());
    assert_eq!(records.len(), 1, "what was lost is told again, what arrived is not");

    assert!(ledger.record(&records).await.unwrap().iter().all(Result::is_ok));
    assert_eq!(ages(&ledger, NOON).await, [("ann".to_owned(), 0, Some(0))]);
}

#[tokio::test]
async fn an_event_is_an_error_while_its_user_must_but_cannot_be_known() {
    let bag = Arc::<Bag>::default();
    bag.is_shut.store(true, Ordering::Relaxed);
    let remote = RemoteLedger::new(bag, true, Clock::start(), Metrics::new());
    assert!(remote.seen(&tenant(), &user("ann"), Seen::Event).await.is_err());
}

#[tokio::test]
async fn whoever_is_forgotten_is_written_again_when_they_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = open_at(folder.path(), NOON);
    saw(&ledger, "ann").await;
    ledger.users_asked(&tenant(), Vec::new(), vec![user("ann")]).await.unwrap();
    assert!(all(&ledger).await.is_empty());
    saw(&ledger, "ann").await;
    assert_eq!(all(&ledger).await.len(), 1);
}
