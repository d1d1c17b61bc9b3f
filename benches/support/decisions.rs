//! Recorded decisions as large as real ones, and a ledger with a million of them.

use std::path::Path;

use anyhow::Context as _;
use rusqlite::{Connection, params};
use soloist::clock::Clock;
use soloist::ledger::{Ended, Intent, Ledger as _, LedgerOptions, Outcome, SeenSession, SqliteLedger};
use soloist::model::{Reason, Session, SessionDevice, TenantId, UserId, View};
use soloist::policy::{Marks, Policy, ResolvedPolicy, Source, Subject, decide};

pub(crate) const DECISIONS: i64 = 1_000_000;
/// The number of the last of them.
pub(crate) const LAST: i64 = DECISIONS + 1;
/// Users whom they are about.
pub(crate) const USERS: i64 = 100_000;
/// From one decision to the next: all fall into 20 hours.
const MS_APART: i64 = 72;
/// How far the second ended session's number lies behind the first one's.
const SECOND: i64 = 10_000_000;

/// Three sessions, of which the newest stays.
pub(crate) fn intent(number: usize) -> anyhow::Result<Intent> {
    let (tenant, user) = (TenantId::default_tenant(), UserId::parse(&format!("user-{number}"))?);
    let word = |word: &str| Some(word.to_owned());
    let device = SessionDevice {
        browser: word("Safari"),
        os: word("iOS"),
        device: word("iPhone"),
        device_type: word("mobile"),
        city: word("Berlin"),
        country: word("Germany"),
        ip: None,
    };
    let session = |n: usize| {
        let login_at = format!("2026-06-01T12:00:0{n}Z").parse().ok();
        Session::new(&format!("{number}-{n}"), login_at, device.clone())
    };
    let view = View { sessions: (0..3).map(session).collect(), complete: true };
    let policy = ResolvedPolicy::new("default", Source::Default, Policy::default());
    let decision = decide(&view, &policy, &Marks::default(), Subject { tenant: Some(&tenant), user: Some(&user) });
    let sessions = SeenSession::all(&view);
    Ok(Intent { tenant, user, looked: Reason::Login, decision, sessions, executed: true, held: None })
}

pub(crate) fn outcomes(intent: &Intent) -> Vec<Outcome> {
    let revoked = intent.decision.revocations();
    let outcome = |session, reason| Outcome { session, ended: Ended::Revoked, reason };
    revoked.map(|verdict| outcome(verdict.digest.session_id(), verdict.reason)).collect()
}

/// The ids of the two sessions that this decision of [`fill`] ended.
pub(crate) fn ended(number: i64) -> [String; 2] {
    [number, number + SECOND].map(|number| format!("{number:032x}"))
}

/// Copies one decision into a new ledger a million times: ten for each of 100,000 users, each with sessions of its own.
pub(crate) async fn fill(folder: &Path) -> anyhow::Result<()> {
    let (ledger, thread) = SqliteLedger::open(&LedgerOptions::in_dir(folder), Clock::start())?;
    let one = intent(0)?;
    let outcomes = outcomes(&one);
    let id = ledger.intend(one).await?;
    ledger.outcome(id, &outcomes).await?;
    ledger.stop();
    thread.ended().await?;
    let [first, second] = outcomes.as_slice() else { anyhow::bail!("a decision that does not end two sessions") };
    let db = Connection::open(folder.join("ledger.db"))?;
    db.pragma_update(None, "synchronous", "OFF")?;
    let with_own_sessions =
        |column: &str| format!("replace(replace({column}, ?2, printf('%032x', n)), ?3, printf('%032x', n + {SECOND}))");
    let copy = format!(
        "WITH RECURSIVE number (n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM number WHERE n < ?1)
         INSERT INTO decisions
             (id, decided_at_ms, closed_at_ms, tenant, uid, looked, executed, decision, sessions, outcomes)
         SELECT n, decided_at_ms - (?1 - n) * {MS_APART}, closed_at_ms - (?1 - n) * {MS_APART}, tenant,
             'user-' || (n % {USERS}), looked, executed, {}, {}, {}
         FROM number, decisions WHERE decisions.id = 1",
        with_own_sessions("decision"),
        with_own_sessions("sessions"),
        with_own_sessions("outcomes"),
    );
    db.execute(&copy, params![LAST, first.session.to_string(), second.session.to_string()])
        .context("cannot fill the ledger")?;
    for number in ["id".to_owned(), format!("id + {SECOND}")] {
        let session = format!("unhex(printf('%032x', {number}))");
        let taken = format!("INSERT INTO ended (decision, session) SELECT id, {session} FROM decisions WHERE id > 1");
        db.execute(&taken, [])?;
    }
    Ok(())
}
