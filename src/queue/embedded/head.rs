//! The first page of a queue file: without it SQLite reads nothing, although everything else may be there. It holds the
//! file's header and the schema, which is written when a file is made and is the same in all.

use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::Context as _;
use rusqlite::Connection;

use super::salvage::is_passing;
use crate::sqlite::wal::PAGE_BYTES;

const HEADER_BYTES: usize = 100;
/// Where the header says how many pages the file has.
const PAGE_COUNT: std::ops::Range<usize> = 28..32;
/// What the header of every queue file has, by where it has it. The version is not among it: a newer one is no damage.
const CONSTANT: [(usize, &[u8]); 7] = [
    (0, b"SQLite format 3\0"),
    (16, &PAGE_BYTES.to_be_bytes()),
    // Room at the end of pages, and fractions that are fixed.
    (20, &[0, 64, 32, 32]),
    // The schema's format.
    (44, &[0, 0, 0, 4]),
    // No vacuum of its own, and UTF-8.
    (52, &[0, 0, 0, 0, 0, 0, 0, 1]),
    (64, &[0, 0, 0, 0]),
    (68, b"Solo"),
];
/// Where the header says how to write and how to read it: by rollback journal or by log.
const WAYS: std::ops::Range<usize> = 18..20;
/// What only our schema has.
const SCHEMA_WORDS: [&[u8]; 3] = [b"CREATE TABLE lanes (", b"CREATE TABLE delayed (", b"CREATE TABLE seen ("];

/// Whether this is a queue file whose header is damaged.
pub(super) fn is_lost(path: &Path) -> io::Result<bool> {
    let mut page = Vec::with_capacity(PAGE_BYTES.into());
    match File::open(path) {
        Ok(file) => file.take(PAGE_BYTES.into()).read_to_end(&mut page)?,
        Err(error) if error.kind() == ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    let holds = |words: &[u8]| page.windows(words.len()).any(|found| found == words);
    if !SCHEMA_WORDS.into_iter().all(holds) {
        return Ok(false);
    }
    let has = |&(at, constant): &(usize, &[u8])| page.get(at..at + constant.len()) == Some(constant);
    let are_known = |ways: &[u8]| ways.iter().all(|way| (1..=2).contains(way));
    Ok(!CONSTANT.iter().all(has) || !page.get(WAYS).is_some_and(are_known))
}

/// Opens a damaged file so that as much of it as possible can be read. What is missing of its beginning is taken from
/// `fresh`, a new queue file whose log is empty.
pub(super) fn open(damaged: &Path, fresh: &Path) -> anyhow::Result<Connection> {
    for from_fresh in [0, HEADER_BYTES, PAGE_BYTES.into()] {
        if from_fresh > 0 {
            replace(damaged, fresh, from_fresh).context("cannot mend the first page of the damaged queue file")?;
        }
        match readable(damaged) {
            Ok(db) => return Ok(db),
            Err(error) if is_passing(&error) => return Err(error).context("cannot read the damaged queue file now"),
            Err(_damaged) => {}
        }
    }
    // Then nothing of it can be read, and the reader will say so.
    Connection::open(damaged).context("cannot open the damaged queue file")
}

fn readable(path: &Path) -> rusqlite::Result<Connection> {
    let db = Connection::open(path)?;
    // Otherwise SQLite reads nothing of a file that is shorter than its header says.
    db.pragma_update(None, "writable_schema", "ON")?;
    for table in ["messages", "delayed", "dead"] {
        db.prepare(&format!("SELECT 1 FROM {table}"))?;
    }
    Ok(db)
}

fn replace(damaged: &Path, fresh: &Path, bytes: usize) -> io::Result<()> {
    let file = File::options().write(true).open(damaged)?;
    let mut page = vec![0; bytes];
    File::open(fresh)?.read_exact(&mut page)?;
    let pages = u32::try_from(file.metadata()?.len() / u64::from(PAGE_BYTES)).unwrap_or(u32::MAX);
    if let Some(count) = page.get_mut(PAGE_COUNT) {
        count.copy_from_slice(&pages.to_be_bytes());
    }
    file.write_all_at(&page, 0)?;
    file.sync_all()
}
