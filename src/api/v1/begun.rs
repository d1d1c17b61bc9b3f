//! `idempotency.db`: which requests with a key have begun to end something within the last day. It holds digests and times,
//! nothing else.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use rusqlite::{Connection, OptionalExtension as _, params};
use tokio::time::timeout;

use crate::sqlite::{self, Format};

const NAME: &str = "file of idempotency keys";
const FORMAT: Format = Format {
    name: NAME,
    application_id: 0x536f_6c69,
    schema: "
CREATE TABLE begun (
    n       INTEGER PRIMARY KEY,
    key     BLOB NOT NULL UNIQUE,
    request BLOB NOT NULL,
    at_ms   INTEGER NOT NULL
) STRICT;
",
    migrations: &[],
};
const FILE: &str = "idempotency.db";
/// How long the disk may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long a key holds.
pub(super) const HELD_FOR: Duration = Duration::from_hours(24);
/// Keys that are remembered, about 200 bytes each; beyond it the oldest are forgotten.
const ROWS_MAX: i64 = 1_000_000;
/// Rows whose time is over that are removed whenever one is added, so that no request has to wait for many.
const REMOVED_MAX: i64 = 100;

/// A SHA-256.
pub(super) type Digest = [u8; 32];

/// What was begun. Cloning shares it.
#[derive(Clone)]
pub struct Begun {
    db: Arc<Mutex<Connection>>,
    rows_max: i64,
}

impl Begun {
    /// Opens or makes the file; a damaged one is set aside.
    ///
    /// # Errors
    /// Also when the file is of another program or of a newer version.
    pub fn open(data_dir: &Path) -> anyhow::Result<Self> {
        let path = data_dir.join(FILE);
        let db = match sqlite::open(&path, &FORMAT) {
            Err(damage) if sqlite::is_damage(&damage) => {
                let aside = sqlite::set_aside(&path)?;
                tracing::error!(
                    alarm = "idempotency_damaged",
                    "the file of idempotency keys was damaged and a new one begins, so a repeat of a request from before \
                     is done again; the damaged file is {}: {damage:#}",
                    aside.display()
                );
                sqlite::open(&path, &FORMAT)
            }
            opened => opened,
        };
        let db = db.with_context(|| format!("cannot use {}", path.display()))?;
        Ok(Self { db: Arc::new(Mutex::new(db)), rows_max: ROWS_MAX })
    }

    /// What was asked by the request of this key that has begun, if one has within the last day.
    pub(super) async fn request_of(&self, key: Digest, now_ms: i64) -> anyhow::Result<Option<Digest>> {
        self.with(move |db| {
            let held = "SELECT request FROM begun WHERE key = ?1 AND at_ms > ?2";
            db.prepare_cached(held)?.query_row(params![key, over_since(now_ms)], |row| row.get(0)).optional()
        })
        .await
    }

    /// Durable when it returns.
    ///
    /// # Errors
    /// When it may not be written; one that was late may be written all the same.
    pub(super) async fn note(&self, key: Digest, request: Digest, now_ms: i64) -> anyhow::Result<()> {
        let rows_max = self.rows_max;
        self.with(move |db| {
            let transaction = db.transaction()?;
            transaction.execute(
                "REPLACE INTO begun (key, request, at_ms) VALUES (?1, ?2, ?3)",
                params![key, request, now_ms],
            )?;
            transaction.execute(
                "DELETE FROM begun WHERE n IN (SELECT n FROM begun ORDER BY n LIMIT ?1) AND at_ms <= ?2",
                params![REMOVED_MAX, over_since(now_ms)],
            )?;
            transaction.execute("DELETE FROM begun WHERE n <= (SELECT max(n) FROM begun) - ?1", [rows_max])?;
            transaction.commit()
        })
        .await
    }

    pub(super) async fn forget(&self, key: Digest) -> anyhow::Result<()> {
        self.with(move |db| db.execute("DELETE FROM begun WHERE key = ?1", [key]).map(drop)).await
    }

    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let db = Arc::clone(&self.db);
        let working = tokio::task::spawn_blocking(move || work(&mut db.lock().unwrap_or_else(PoisonError::into_inner)));
        let late = |_late| anyhow::anyhow!("the disk did not answer within {TIMEOUT:?}");
        Ok(timeout(TIMEOUT, working).await.map_err(late)???)
    }
}

/// Whatever was begun then or earlier holds no more.
fn over_since(now_ms: i64) -> i64 {
    now_ms.saturating_sub(i64::try_from(HELD_FOR.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: i64 = 24 * 60 * 60 * 1000;

    async fn rows(begun: &Begun) -> i64 {
        begun.with(|db| db.query_row("SELECT count(*) FROM begun", [], |row| row.get(0))).await.unwrap()
    }

    #[tokio::test]
    async fn a_key_holds_for_a_day_over_a_restart_and_its_row_goes_with_the_next() {
        let folder = tempfile::tempdir().unwrap();
        Begun::open(folder.path()).unwrap().note([1; 32], [7; 32], 0).await.unwrap();
        let begun = Begun::open(folder.path()).unwrap();
        assert_eq!(begun.request_of([1; 32], DAY_MS - 1).await.unwrap(), Some([7; 32]));
        assert_eq!(begun.request_of([1; 32], DAY_MS).await.unwrap(), None);
        begun.note([2; 32], [7; 32], DAY_MS).await.unwrap();
        assert_eq!(rows(&begun).await, 1);
    }

    #[tokio::test]
    async fn of_too_many_keys_the_oldest_are_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let begun = Begun { rows_max: 3, ..Begun::open(folder.path()).unwrap() };
        for n in 0..5 {
            begun.note([n; 32], [7; 32], 0).await.unwrap();
        }
        assert_eq!(rows(&begun).await, 3);
        assert_eq!(begun.request_of([1; 32], 0).await.unwrap(), None);
        assert_eq!(begun.request_of([2; 32], 0).await.unwrap(), Some([7; 32]));
    }

    #[tokio::test]
    async fn a_damaged_file_is_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), b"SQLite format 3\0 and then nothing of the kind").unwrap();
        let begun = Begun::open(folder.path()).unwrap();
        assert_eq!(begun.request_of([1; 32], 0).await.unwrap(), None);
        assert!(folder.path().join("idempotency.db.damaged-1").exists());
    }
}
