//! The chain over the ledger: whatever somebody does to the records afterwards shows, and what leaves on purpose does not
//! break it.

use std::path::Path;

use serde_json::{Value, json};
use soloist::clock::Clock;
use soloist::ledger::{
    Ended, ExportFilter, Head, Held, Intent, IntentId, Ledger as _, LedgerOptions, Outcome, SeenSession, SqliteLedger,
    Verified,
};
use soloist::model::{Reason, Session, SessionDevice, TenantId, UserId, View};
use soloist::policy::{Marks, Policy, ResolvedPolicy, Source, Subject, decide};

pub(super) fn user(name: &str) -> UserId {
    UserId::parse(name).unwrap()
}

/// These sessions of a user, each with a device and an address, by number; a greater number is a newer login.
pub(super) fn view(user: &str, sessions: &[u32]) -> View {
    let session = |n: &u32| {
        let device = SessionDevice {
            browser: Some("Safari".to_owned()),
            city: Some("Berlin".to_owned()),
            ip: Some("192.0.2.77".to_owned()),
            ..SessionDevice::default()
        };
        let login_at = format!("2026-06-01T12:00:00.{n:09}Z").parse().unwrap();
        Session::new(&format!("token-{user}-{n}"), Some(login_at), device)
    };
    View { sessions: sessions.iter().map(session).collect(), complete: true }
}

/// What limit 1 says of a view.
pub(super) fn intent(name: &str, view: &View) -> Intent {
    let (tenant, user) = (TenantId::default_tenant(), user(name));
    let policy = ResolvedPolicy::new("default", Source::Default, Policy::default());
    let decision = decide(view, &policy, &Marks::default(), Subject { tenant: Some(&tenant), user: Some(&user) });
    let sessions = SeenSession::all(view);
    Intent { tenant, user, looked: Reason::Login, decision, sessions, executed: true, held: None }
}

pub(super) fn outcomes(intent: &Intent) -> Vec<Outcome> {
    let revoked = |verdict: &soloist::policy::Verdict| Outcome {
        session: verdict.digest.session_id(),
        ended: Ended::Revoked,
        reason: verdict.reason,
    };
    intent.decision.revocations().map(revoked).collect()
}

pub(super) fn clock() -> Clock {
    Clock::starting_at("2026-06-01T12:00:00Z".parse().unwrap())
}

pub(super) async fn recent(ledger: &SqliteLedger, name: &str) -> Vec<Value> {
    ledger.recent(&TenantId::default_tenant(), &user(name), 1_000).await.unwrap()
}

/// Works on the ledger of a folder until it is closed.
pub(super) async fn with_ledger<T>(options: LedgerOptions, work: impl AsyncFnOnce(&SqliteLedger) -> T) -> T {
    let (ledger, thread) = SqliteLedger::open(&options, clock()).unwrap();
    let result = work(&ledger).await;
    ledger.stop();
    thread.ended().await.unwrap();
    result
}

/// Three decisions: one executed, one held, one that ends nobody.
async fn write_three(ledger: &SqliteLedger) {
    let of_ann = intent("ann", &view("ann", &[1, 2, 3]));
    let id = ledger.intend(of_ann.clone()).await.unwrap();
    ledger.outcome(id, &outcomes(&of_ann)).await.unwrap();
    let of_bob = intent("bob", &view("bob", &[1, 2]));
    ledger.intend(Intent { executed: false, held: Some(Held::Observe), ..of_bob }).await.unwrap();
    ledger.note(Intent { executed: false, ..intent("cleo", &view("cleo", &[1])) });
}

async fn verified(folder: &Path, head: Option<Head>) -> Verified {
    with_ledger(LedgerOptions::in_dir(folder), async |ledger| ledger.verify(head).await.unwrap()).await
}

async fn folder_with_three() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    with_ledger(LedgerOptions::in_dir(folder.path()), write_three).await;
    folder
}

fn database(folder: &Path) -> rusqlite::Connection {
    rusqlite::Connection::open(folder.join("ledger.db")).unwrap()
}

#[tokio::test]
async fn an_untouched_ledger_is_as_it_was_written() {
    let folder = folder_with_three().await;
    let found = verified(folder.path(), None).await;
    assert_eq!(found.problems, Vec::<String>::new());
    // The beginning, three intents, one outcome.
    assert_eq!((found.decisions, found.entries, found.before_chain), (3, 5, 0));
}

#[tokio::test]
async fn whatever_is_done_to_a_record_or_to_the_chain_shows() {
    for (what, problem) in [
        ("UPDATE decisions SET decision = replace(decision, 'keep', 'kEep') WHERE id = 2", "decision 2 was changed"),
        (
            "UPDATE decisions SET sessions = replace(sessions, 'Berlin', 'Bernau') WHERE id = 3",
            "decision 3 was changed",
        ),
        ("UPDATE decisions SET uid = 'eve' WHERE id = 1", "decision 1 was changed"),
        ("UPDATE decisions SET held = 'canary' WHERE id = 2", "decision 2 was changed"),
        ("UPDATE decisions SET executed = 0 WHERE id = 1", "decision 1 was changed"),
        ("UPDATE decisions SET decided_at_ms = decided_at_ms + 1 WHERE id = 1", "decision 1 was changed"),
        ("UPDATE decisions SET looked = 'sweep' WHERE id = 1", "decision 1 was changed"),
        ("UPDATE decisions SET salt = zeroblob(16) WHERE id = 1", "decision 1 was changed"),
        (
            "UPDATE decisions SET outcomes = replace(outcomes, 'revoked', 'failed') WHERE id = 1",
            "what came of decision 1 was changed",
        ),
        (
            "UPDATE decisions SET outcomes = NULL, outcome_seq = NULL WHERE id = 1",
            "what came of decision 1 was changed",
        ),
        ("UPDATE decisions SET outcomes = '[]' WHERE id = 2", "what came of decision 2 was changed"),
        ("DELETE FROM decisions WHERE id = 3", "decision 3 was removed"),
        (
            "INSERT INTO decisions (id, decided_at_ms, tenant, uid, looked, executed, decision)
             SELECT 9, decided_at_ms, tenant, uid, looked, executed, decision FROM decisions WHERE id = 1",
            "decision 9 was added",
        ),
        (
            "UPDATE decisions SET id = 9 WHERE id = 1; UPDATE decisions SET id = 1 WHERE id = 2;
             UPDATE decisions SET id = 2 WHERE id = 9",
            "decision 1 was changed",
        ),
        ("DELETE FROM chain WHERE seq = 3", "entries 3 to 3 of the chain were removed"),
        ("DELETE FROM chain WHERE seq <= 2", "entries 1 to 2 of the chain were removed"),
        ("DELETE FROM chain", "decision 1 was added"),
        ("UPDATE chain SET decision = 3 WHERE seq = 2", "entry 2 of the chain was changed, added or moved"),
        ("UPDATE chain SET decision = 3 WHERE seq = 1", "entry 1 of the chain was changed, added or moved"),
        ("UPDATE chain SET kind = 3 WHERE seq = 5", "entry 5 of the chain was changed, added or moved"),
        ("UPDATE chain SET mac = zeroblob(32) WHERE seq = 5", "entry 5 of the chain was changed, added or moved"),
        (
            "INSERT INTO chain SELECT 6, decision, kind, hash, mac FROM chain WHERE seq = 5",
            "entry 6 of the chain was changed, added or moved",
        ),
    ] {
        let folder = folder_with_three().await;
        let path = folder.path();
        database(path).execute_batch(what).unwrap();
        let found = verified(path, None).await;
        assert!(found.problems.iter().any(|found| found.contains(problem)), "{what}: {found:?}");
        assert_eq!(found.problem_count, found.problems.len() as u64, "{what}");
    }
}

#[tokio::test]
async fn one_flipped_bit_of_a_records_bytes_shows() {
    let folder = folder_with_three().await;
    let path = folder.path().join("ledger.db");
    let whole = std::fs::read(&path).unwrap();
    for word in ["displaced_by_newer_login", "Berlin", "\"complete\":true", "\"revoked\"", "cleo", "observe"] {
        let at = whole.windows(word.len()).position(|bytes| bytes == word.as_bytes()).unwrap();
        let mut bytes = whole.clone();
        bytes[at + 1] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let found = verified(folder.path(), None).await;
        assert!(found.problem_count > 0, "{word}: {found:?}");
    }
}

#[tokio::test]
async fn a_cut_end_shows_to_whoever_kept_the_head() {
    let folder = folder_with_three().await;
    let head: Head = verified(folder.path(), None).await.head.parse().unwrap();
    assert_eq!(verified(folder.path(), Some(head)).await.problem_count, 0);
    let cut = "DELETE FROM decisions WHERE id = 3; DELETE FROM chain WHERE seq = 5";
    database(folder.path()).execute_batch(cut).unwrap();
    assert_eq!(verified(folder.path(), None).await.problem_count, 0, "without the head it cannot be known");
    let found = verified(folder.path(), Some(head)).await;
    assert!(found.problems[0].contains("ends at entry 4, before this head"), "{found:?}");
    // Written over with something else, it shows too.
    with_ledger(LedgerOptions::in_dir(folder.path()), async |ledger| {
        ledger.intend(intent("dora", &view("dora", &[1, 2]))).await.unwrap();
        let found = ledger.verify(Some(head)).await.unwrap();
        assert!(found.problems[0].contains("the chain was rewritten"), "{found:?}");
    })
    .await;
}

#[tokio::test]
async fn whoever_has_not_the_key_cannot_seal_a_false_record() {
    let folder = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let key = elsewhere.path().join("key");
    std::fs::write(&key, "0123456789abcdef0123456789abcdef").unwrap();
    let options = LedgerOptions { key_file: Some(key), ..LedgerOptions::in_dir(folder.path()) };
    with_ledger(options.clone(), write_three).await;
    assert!(!folder.path().join("ledger.key").exists());
    // A chain that is sealed anew with another key.
    let forged = verified(folder.path(), None).await;
    assert!(forged.problems[0].contains("entry 1 of the chain"), "{forged:?}");
    let own = with_ledger(options, async |ledger| ledger.verify(None).await.unwrap()).await;
    assert_eq!(own.problem_count, 0, "{own:?}");
}

#[tokio::test]
async fn a_forgotten_user_leaves_no_trace_and_the_chain_whole() {
    let folder = tempfile::tempdir().unwrap();
    with_ledger(LedgerOptions::in_dir(folder.path()), async |ledger| {
        for round in 0..50 {
            for name in ["planted-user-ann", "bob"] {
                let intent = intent(name, &view(name, &[round, round + 1]));
                let id = ledger.intend(intent.clone()).await.unwrap();
                ledger.outcome(id, &outcomes(&intent)).await.unwrap();
            }
        }
        let erased = ledger.forget(&TenantId::default_tenant(), &user("planted-user-ann")).await.unwrap();
        assert_eq!((erased.decisions, erased.wiped), (50, true));
        assert_eq!(recent(ledger, "planted-user-ann").await, Vec::<Value>::new());
        // While it is still open.
        assert_eq!(traces(folder.path(), "planted-user-ann"), Vec::<String>::new());
        let found = ledger.verify(None).await.unwrap();
        assert_eq!((found.problem_count, found.forgotten, found.decisions), (0, 50, 50), "{found:?}");
        // No number is given twice.
        ledger.intend(intent("cleo", &view("cleo", &[1, 2]))).await.unwrap();
    })
    .await;
    assert_eq!(traces(folder.path(), "planted-user-ann"), Vec::<String>::new());
    assert!(!traces(folder.path(), "bob").is_empty());
    assert_eq!(verified(folder.path(), None).await.problem_count, 0);
}

/// The files of a folder that contain a word.
fn traces(folder: &Path, word: &str) -> Vec<String> {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let has = |path: &std::path::PathBuf| {
        std::fs::read(path).unwrap().windows(word.len()).any(|bytes| bytes == word.as_bytes())
    };
    files.filter(has).map(|path| path.display().to_string()).collect()
}

#[tokio::test]
async fn what_is_too_old_or_too_many_leaves_and_the_rest_still_verifies() {
    let folder = tempfile::tempdir().unwrap();
    let options = LedgerOptions { decisions_max: 300, ..LedgerOptions::in_dir(folder.path()) };
    with_ledger(options.clone(), async |ledger| {
        let mut open: Vec<(IntentId, Vec<Outcome>)> = Vec::new();
        for round in 0..1_100 {
            let intent = intent("ann", &view("ann", &[round, round + 1]));
            open.push((ledger.intend(intent.clone()).await.unwrap(), outcomes(&intent)));
            // Outcomes come behind later intents.
            if open.len() > 3 {
                let (id, outcomes) = open.remove(0);
                ledger.outcome(id, &outcomes).await.unwrap();
            }
        }
        let found = ledger.verify(None).await.unwrap();
        assert_eq!((found.problem_count, found.decisions, found.removed_through), (0, 401, 699), "{found:?}");
        assert!(found.entries < 2_000, "{found:?}");
    })
    .await;
    database(folder.path()).execute_batch("DELETE FROM decisions WHERE id <= 702").unwrap();
    let found = verified(folder.path(), None).await;
    assert!(found.problems[0].contains("decision 700 was removed"), "{found:?}");
    let cut = "DELETE FROM chain WHERE seq < (SELECT max(seq) - 600 FROM chain)";
    database(folder.path()).execute_batch(cut).unwrap();
    let found = verified(folder.path(), None).await;
    assert!(found.problem_count > 0, "{found:?}");

    // By age: the service starts again much later.
    let later = Clock::starting_at("2027-06-01T12:00:00Z".parse().unwrap());
    let folder = folder_with_three().await;
    let options = LedgerOptions {
        age_max: std::time::Duration::from_hours(24),
        repair: true,
        ..LedgerOptions::in_dir(folder.path())
    };
    let (ledger, _thread) = SqliteLedger::open(&options, later).unwrap();
    ledger.intend(intent("dora", &view("dora", &[1, 2]))).await.unwrap();
    crate::support::soon("old decisions to leave", async {
        while !recent(&ledger, "ann").await.is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let found = ledger.verify(None).await.unwrap();
    assert_eq!((found.problem_count, found.decisions), (0, 1), "{found:?}");
}

#[tokio::test]
async fn decisions_of_an_older_version_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    database(folder.path()).execute_batch(include_str!("../fixtures/ledger_version_1.sql")).unwrap();
    with_ledger(LedgerOptions::in_dir(folder.path()), write_three).await;
    let found = verified(folder.path(), None).await;
    assert_eq!((found.problem_count, found.decisions, found.before_chain), (0, 6, 3), "{found:?}");
    // A session of then is found by its id.
    with_ledger(LedgerOptions::in_dir(folder.path()), async |ledger| {
        let session = soloist::model::SessionId::parse("c5a05c4a8be737f032ab70686ac091b2").unwrap();
        let found = ledger.by_session(&TenantId::default_tenant(), session).await.unwrap();
        assert_eq!((found.len(), &found[0]["uid"]), (1, &json!("ann")));
    })
    .await;
    // Nobody makes a record of today one of then.
    let forged = "INSERT INTO decisions (decided_at_ms, tenant, uid, looked, executed, decision)
                  SELECT decided_at_ms, tenant, 'eve', looked, executed, decision FROM decisions WHERE id = 1";
    database(folder.path()).execute_batch(forged).unwrap();
    let found = verified(folder.path(), None).await;
    assert!(found.problems[0].contains("decision 7 was added"), "{found:?}");
}

#[tokio::test]
async fn an_export_has_every_decision_in_order_and_can_be_narrowed() {
    let folder = folder_with_three().await;
    with_ledger(LedgerOptions::in_dir(folder.path()), async |ledger| {
        let all = exported(ledger, ExportFilter::default()).await;
        let uids: Vec<&Value> = all.iter().map(|line| &line["uid"]).collect();
        assert_eq!(uids, ["ann", "bob", "cleo"]);
        assert_eq!((&all[0]["outcomes"][0]["ended"], &all[0]["chain"]["intent"]), (&json!("revoked"), &json!(2)));
        assert_eq!((&all[1]["held"], &all[1]["sessions"][0]["city"]), (&json!("observe"), &json!("Berlin")));
        let of_bob = ExportFilter {
            tenant: Some(TenantId::default_tenant()),
            user: Some(user("bob")),
            ..ExportFilter::default()
        };
        assert_eq!(exported(ledger, of_bob).await.len(), 1);
        let later = Some("2026-06-02T00:00:00Z".parse().unwrap());
        assert_eq!(exported(ledger, ExportFilter { since: later, ..ExportFilter::default() }).await.len(), 0);
    })
    .await;
}

async fn exported(ledger: &SqliteLedger, filter: ExportFilter) -> Vec<Value> {
    let mut lines = ledger.export(filter).await.unwrap();
    let mut all = Vec::new();
    while let Some(line) = lines.recv().await {
        all.push(serde_json::from_str(&line.unwrap()).unwrap());
    }
    all
}
