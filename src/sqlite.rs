//! What the SQLite files of queue and ledger have in common: a durable connection, a checked format, damage.

use std::ffi::OsString;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use rusqlite::{Connection, OpenFlags};

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
    pub(crate) version: i32,
    pub(crate) schema: &'static str,
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

/// Opens a file of this format, or makes it.
pub(crate) fn open(path: &Path, format: &Format) -> anyhow::Result<Connection> {
    let (name, shown) = (format.name, path.display());
    if !is_sqlite(path).with_context(|| format!("cannot read {shown}"))? {
        bail!("{shown} is not a {name} of soloist: move it away or choose another data_dir");
    }
    let db = connect(path).with_context(|| format!("cannot open the {name} {shown}"))?;
    let stored = |pragma: &str| db.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get::<_, i32>(0));
    let is_new: bool = db.query_row("SELECT count(*) = 0 FROM sqlite_master", [], |row| row.get(0))?;
    let (application, version) = (stored("application_id")?, stored("user_version")?);
    if is_new && application == 0 && version == 0 {
        let Format { application_id, version, schema, .. } = format;
        db.execute_batch(&format!(
            "BEGIN IMMEDIATE; {schema} PRAGMA application_id = {application_id}; PRAGMA user_version = {version}; COMMIT;"
        ))
        .with_context(|| format!("cannot write the schema of the {name} {shown}"))?;
    } else if application != format.application_id {
        bail!("{shown} is not a {name} of soloist: move it away or choose another data_dir");
    } else if version > format.version {
        let known = format.version;
        bail!("{shown} has format {version}, and this soloist reads up to {known}: run the version that wrote it");
    } else if version < format.version {
        bail!("{shown} has format {version}, which no version of soloist ever wrote");
    }
    Ok(db)
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

/// Whether an error says that the file's content is broken, which no waiting mends.
pub(crate) fn is_damage(error: &anyhow::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    error.chain().any(|cause| {
        let code = cause.downcast_ref::<rusqlite::Error>().and_then(rusqlite::Error::sqlite_error_code);
        matches!(code, Some(DatabaseCorrupt | NotADatabase))
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
}
