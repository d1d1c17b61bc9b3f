//! What the SQLite files of queue, ledger and directives have in common: a durable connection, a checked format, damage.

pub(crate) mod wal;

use std::ffi::OsString;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use self::wal::Found;

/// How long a statement waits for another connection of this process.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Damaged files that are kept side by side; then somebody must tidy up.
const ASIDE_MAX: u32 = 100;
/// A file and what SQLite keeps beside it.
const PARTS: [&str; 3] = ["", "-wal", "-shm"];

/// What a file must be to be read: anything else is refused, never guessed at.
pub(crate) struct Format {
    /// Fits into "is not a … of soloist".
    pub(crate) name: &'static str,
    pub(crate) application_id: i32,
    /// The schema of version 1.
    pub(crate) schema: &'static str,
    /// What takes a file of version 1 to version 2, one of version 2 to version 3, and so on. A new file goes the same
    /// way, so that it cannot differ from an old one.
    pub(crate) migrations: &'static [&'static str],
}

/// A connection that makes every commit durable.
pub(crate) fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags)?;
    db.busy_timeout(BUSY_TIMEOUT)?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "FULL")?;
    Ok(db)
}

/// Opens a file of this format, or makes it. Nobody may be writing to it: its log is looked through as it lies there.
pub(crate) fn open(path: &Path, format: &Format) -> anyhow::Result<Connection> {
    let (name, shown) = (format.name, path.display());
    if !is_sqlite(path).with_context(|| format!("cannot read {shown}"))? {
        bail!("{shown} is not a {name} of soloist: move it away or choose another data_dir");
    }
    match wal::look(path).with_context(|| format!("cannot read the log of the {name} {shown}"))? {
        Found::Broken(broken) => bail!(LogBroken { at: broken.at }),
        Found::Unfinished => tracing::warn!(
            "the last commit in the log of the {name} {shown} is not whole. After a power failure that is as it should \
             be, and nobody was told that it is kept; if there was none, the disk has damaged it"
        ),
        Found::Whole => {}
    }
    let mut db = connect(path).with_context(|| format!("cannot open the {name} {shown}"))?;
    let stored = |pragma: &str| db.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get::<_, i32>(0));
    let is_new: bool = db.query_row("SELECT count(*) = 0 FROM sqlite_master", [], |row| row.get(0))?;
    let (application, version) = (stored("application_id")?, stored("user_version")?);
    let known = 1 + format.migrations.len();
    if is_new && application == 0 && version == 0 {
        let begin = format!("{} PRAGMA application_id = {};", format.schema, format.application_id);
        let steps = [&[begin.as_str()], format.migrations].concat();
        migrate(&mut db, &steps, known).with_context(|| format!("cannot write the schema of the {name} {shown}"))?;
        return Ok(db);
    }
    if application != format.application_id {
        bail!("{shown} is not a {name} of soloist: move it away or choose another data_dir");
    }
    let Some(migrated) = usize::try_from(version).ok().and_then(|version| version.checked_sub(1)) else {
        bail!("{shown} has format {version}, which no version of soloist ever wrote");
    };
    let Some(steps) = format.migrations.get(migrated..) else {
        bail!("{shown} has format {version}, and this soloist reads up to {known}: run the version that wrote it");
    };
    if !steps.is_empty() {
        migrate(&mut db, steps, known).with_context(|| format!("cannot bring the {name} {shown} to format {known}"))?;
    }
    Ok(db)
}

/// Takes all steps to a version, or none.
fn migrate(db: &mut Connection, steps: &[&str], version: usize) -> rusqlite::Result<()> {
    let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for step in steps {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", version)?;
    transaction.commit()
}

/// Whether a file begins as SQLite's do. One that is missing or empty may become one.
fn is_sqlite(path: &Path) -> std::io::Result<bool> {
    const MAGIC: &[u8; 16] = b"SQLite format 3\0";
    let mut begin = Vec::new();
    match std::fs::File::open(path) {
        Ok(file) => file.take(MAGIC.len() as u64).read_to_end(&mut begin)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    Ok(begin.is_empty() || begin == MAGIC)
}

/// What was committed behind this place is there, but SQLite would drop it.
#[derive(Debug, thiserror::Error)]
#[error("its log is broken at page {at}, and not at its end")]
struct LogBroken {
    at: u64,
}

/// Whether an error says that the file's content is broken, which no waiting mends.
pub(crate) fn is_damage(error: &anyhow::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    error.chain().any(|cause| {
        let code = cause.downcast_ref::<rusqlite::Error>().and_then(rusqlite::Error::sqlite_error_code);
        matches!(code, Some(DatabaseCorrupt | NotADatabase)) || cause.is::<LogBroken>()
    })
}

/// The path with an ending behind its name.
pub(crate) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(ending);
    PathBuf::from(name)
}

/// Renames a file to the next free `….damaged-N`, with its log; the file itself goes first.
pub(crate) fn set_aside(path: &Path) -> anyhow::Result<PathBuf> {
    let free = (1..=ASIDE_MAX).map(|n| beside(path, &format!(".damaged-{n}"))).find(|name| !name.exists());
    let aside = free.context("there are too many damaged files: move the old ones away")?;
    for part in PARTS {
        match std::fs::rename(beside(path, part), beside(&aside, part)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot set {} aside", path.display()));
            }
            _ => {}
        }
    }
    Ok(aside)
}

/// Removes a file with its log, if they are there.
pub(crate) fn remove(path: &Path) -> anyhow::Result<()> {
    for part in PARTS {
        match std::fs::remove_file(beside(path, part)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_connection_makes_its_commits_durable() {
        let folder = tempfile::tempdir().unwrap();
        let db = connect(&folder.path().join("x.db")).unwrap();
        let pragma =
            |name: &str| db.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, rusqlite::types::Value>(0));
        assert_eq!(pragma("journal_mode").unwrap(), "wal".to_owned().into());
        let full = 2_i64;
        assert_eq!(pragma("synchronous").unwrap(), full.into());
    }

    const NOTES: Format = Format {
        name: "note book",
        application_id: -7,
        schema: "CREATE TABLE notes (text TEXT NOT NULL) STRICT;",
        migrations: &[],
    };
    const DATED: &str = "ALTER TABLE notes ADD COLUMN day TEXT;";
    const INDEXED: &str = "CREATE INDEX notes_by_day ON notes (day);";

    fn version(db: &Connection) -> i32 {
        db.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn an_old_file_takes_every_step_that_it_lacks_and_keeps_its_rows() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.db");
        open(&path, &NOTES).unwrap().execute("INSERT INTO notes (text) VALUES ('milk')", []).unwrap();
        for (migrations, expected) in [(&[DATED][..], 2), (&[DATED, INDEXED], 3), (&[DATED, INDEXED], 3)] {
            let db = open(&path, &Format { migrations, ..NOTES }).unwrap();
            assert_eq!(version(&db), expected);
        }
        let db = open(&path, &Format { migrations: &[DATED, INDEXED], ..NOTES }).unwrap();
        let row = db.query_row("SELECT text, day FROM notes", [], |row| Ok((row.get(0)?, row.get(1)?)));
        assert_eq!(row, Ok(("milk".to_owned(), None::<String>)));
    }

    #[test]
    fn a_new_file_is_as_a_migrated_one() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (folder.path().join("old.db"), folder.path().join("new.db"));
        drop(open(&old, &NOTES).unwrap());
        let schema = |path: &Path| {
            let db = open(path, &Format { migrations: &[DATED, INDEXED], ..NOTES }).unwrap();
            let mut objects = db.prepare("SELECT sql FROM sqlite_master").unwrap();
            let sql: Vec<String> = objects.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
            (version(&db), sql)
        };
        assert_eq!(schema(&old), schema(&new));
    }

    #[test]
    fn a_step_that_fails_leaves_the_file_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.db");
        drop(open(&path, &NOTES).unwrap());
        let error = open(&path, &Format { migrations: &[DATED, "no SQL"], ..NOTES }).unwrap_err();
        assert!(format!("{error:#}").contains("to format 3"), "{error:#}");
        assert_eq!(version(&open(&path, &NOTES).unwrap()), 1);
    }

    #[test]
    fn a_file_whose_log_is_broken_before_its_end_is_damaged() {
        let (folder, copies) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (path, copy) = (folder.path().join("notes.db"), copies.path().join("notes.db"));
        let db = open(&path, &NOTES).unwrap();
        for _ in 0..20 {
            db.execute("INSERT INTO notes (text) VALUES ('milk')", []).unwrap();
        }
        // As it lies there when the process is killed.
        std::fs::copy(&path, &copy).unwrap();
        let mut log = std::fs::read(beside(&path, "-wal")).unwrap();
        std::fs::write(beside(&copy, "-wal"), &log).unwrap();
        drop(open(&copy, &NOTES).unwrap());
        let middle = log.len() / 2;
        log[middle] ^= 0x10;
        std::fs::copy(&path, &copy).unwrap();
        std::fs::write(beside(&copy, "-wal"), &log).unwrap();
        let error = open(&copy, &NOTES).unwrap_err();
        assert!(is_damage(&error) && error.to_string().contains("its log is broken"), "{error:#}");
    }

    #[test]
    fn a_file_of_a_version_that_nobody_wrote_or_reads_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.db");
        for (version, expected) in [(2, "reads up to 1"), (0, "ever wrote"), (-1, "ever wrote")] {
            let db = Connection::open(&path).unwrap();
            db.execute_batch("CREATE TABLE IF NOT EXISTS notes (text); PRAGMA application_id = -7").unwrap();
            db.pragma_update(None, "user_version", version).unwrap();
            drop(db);
            assert!(open(&path, &NOTES).unwrap_err().to_string().contains(expected), "{version}");
        }
    }
}
