//! What a recorded decision costs with its chain, against a bare table on the same disk, and how long a lookup takes among
//! a million of them.

#![expect(clippy::print_stdout, reason = "a benchmark reports on its output")]

#[expect(dead_code, reason = "each benchmark uses a part of it")]
mod support;

use std::path::Path;

use futures_util::future::try_join_all;
use rusqlite::{Connection, params};
use soloist::clock::Clock;
use soloist::ledger::{Ledger as _, LedgerOptions, LedgerThread, SqliteLedger};
use soloist::model::{SessionId, TenantId, UserId};
use tokio::time::Instant;

use support::decisions::{self, DECISIONS, USERS, intent, outcomes};
use support::{Goal, RUNS, Spread};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Looks that write at the same time, as a worker's do.
const CONCURRENCY: usize = 64;
const ROUNDS: usize = 40;
const LOOKUPS: i64 = 500;

fn main() -> anyhow::Result<()> {
    if !support::is_wanted() {
        println!("ledger: measures nothing here, run `cargo bench --bench ledger`");
        return Ok(());
    }
    measure()
}

#[tokio::main]
async fn measure() -> anyhow::Result<()> {
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let folder = support::scratch()?;
        ours.push(chained(folder.path()).await?);
        bare.push(unchained(folder.path())?);
    }
    println!(
        "\nledger: intent and outcome of {CONCURRENCY} looks at a time, each batch durable, {RUNS} runs in turn; median \
         (min–max)\n\n{:<56}{}\n{:<56}{}\n",
        "a bare table and its index, decisions/s",
        Spread::of(&bare),
        "the ledger: thread, salted hashes, chain, decisions/s",
        Spread::of(&ours),
    );
    let share = Spread::of_ratios(&ours, &bare);
    println!("{}", support::verdict("the ledger's rate over the bare table's", "", share, Goal::AtLeast(0.5)));

    let folder = support::scratch()?;
    let (by_user, by_session) = lookups(folder.path()).await?;
    let what = format!("a user's decisions among {DECISIONS}");
    println!("{}", support::verdict(&what, " ms", Spread::of(&by_user), Goal::AtMost(2.0)));
    let what = format!("a session's decisions among {DECISIONS}");
    println!("{}", support::verdict(&what, " ms", Spread::of(&by_session), Goal::AtMost(2.0)));
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "a few thousand")]
fn rate(from: Instant) -> f64 {
    (CONCURRENCY * ROUNDS) as f64 / from.elapsed().as_secs_f64()
}

async fn chained(folder: &Path) -> anyhow::Result<f64> {
    let (ledger, thread) = open(folder)?;
    let from = Instant::now();
    for round in 0..ROUNDS {
        let ledger = &ledger;
        let looks = (0..CONCURRENCY).map(|place| async move {
            let intent = intent(round * CONCURRENCY + place)?;
            let outcomes = outcomes(&intent);
            let id = ledger.intend(intent).await?;
            anyhow::Ok(ledger.outcome(id, &outcomes).await?)
        });
        try_join_all(looks.collect::<Vec<_>>()).await?;
    }
    let rate = rate(from);
    ledger.stop();
    thread.ended().await?;
    Ok(rate)
}

/// The least that keeps the same: one durable transaction for all intents of a round, one for all outcomes.
fn unchained(folder: &Path) -> anyhow::Result<f64> {
    let mut db = Connection::open(folder.join("bare.db"))?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "FULL")?;
    db.execute_batch(
        "CREATE TABLE decisions (id INTEGER PRIMARY KEY, at INTEGER, uid TEXT, decision TEXT, sessions TEXT, outcomes TEXT);
         CREATE INDEX of_user ON decisions (uid, at);",
    )?;
    let from = Instant::now();
    for round in 0..ROUNDS {
        let mut made = Vec::new();
        let intents = db.transaction()?;
        for place in 0..CONCURRENCY {
            let intent = intent(round * CONCURRENCY + place)?;
            intents
                .prepare_cached("INSERT INTO decisions (at, uid, decision, sessions) VALUES (1, ?1, ?2, ?3)")?
                .execute(params![
                    intent.user.as_str(),
                    serde_json::to_string(&intent.decision)?,
                    serde_json::to_string(&intent.sessions)?
                ])?;
            made.push((intents.last_insert_rowid(), serde_json::to_string(&outcomes(&intent))?));
        }
        intents.commit()?;
        let closing = db.transaction()?;
        for (id, outcomes) in made {
            let mut close = closing.prepare_cached("UPDATE decisions SET outcomes = ?2 WHERE id = ?1")?;
            close.execute(params![id, outcomes])?;
        }
        closing.commit()?;
    }
    Ok(rate(from))
}

fn open(folder: &Path) -> anyhow::Result<(SqliteLedger, LedgerThread)> {
    SqliteLedger::open(&LedgerOptions::in_dir(folder), Clock::start())
}

/// Milliseconds of each lookup, by user and by session.
async fn lookups(folder: &Path) -> anyhow::Result<(Vec<f64>, Vec<f64>)> {
    decisions::fill(folder).await?;
    let (ledger, thread) = open(folder)?;
    let tenant = TenantId::default_tenant();
    let (mut by_user, mut by_session) = (Vec::new(), Vec::new());
    for n in 0..LOOKUPS {
        let number = n * 1_999 % DECISIONS + 2;
        let user = UserId::parse(&format!("user-{}", number % USERS))?;
        let from = Instant::now();
        anyhow::ensure!(!ledger.recent(&tenant, &user, 20).await?.is_empty(), "a user is not found");
        by_user.push(from.elapsed().as_secs_f64() * 1_000.0);
        let session = SessionId::parse(&format!("{number:032x}"))?;
        let from = Instant::now();
        anyhow::ensure!(ledger.by_session(&tenant, session).await?.len() == 1, "a session is not found");
        by_session.push(from.elapsed().as_secs_f64() * 1_000.0);
    }
    ledger.stop();
    thread.ended().await?;
    Ok((by_user, by_session))
}
