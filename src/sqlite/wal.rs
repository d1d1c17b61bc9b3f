//! The write-ahead log of a file, read by ourselves: SQLite takes a broken frame for the log's end, and drops
//! whatever was committed behind it without a word.
//!
//! The form is SQLite's (fileformat2, section 4): a header, then frames of one page each. The sums of a frame go on from
//! those of the frame before, so that behind a broken one the others still bear witness to each other.

use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::beside;

/// The page size of our files: what SQLite takes when nobody asks for another.
pub(crate) const PAGE_BYTES: u16 = 4096;
const HEADER_BYTES: usize = 32;
const FRAME_HEADER_BYTES: usize = 24;
/// With sums of little-endian words; with big-endian ones it is odd.
const MAGIC: u32 = 0x377f_0682;
const VERSION: u32 = 3_007_000;

/// Sums, and salts, which are of one generation of the log.
type Pair = (u32, u32);

/// What a look at the log finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Whole,
    /// The last commit is not whole. After a power failure that is as it should be: nobody was told that it is kept.
    Unfinished,
    Broken(Break),
}

/// A place behind which SQLite would read nothing, although there are commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Break {
    /// Where it is, in frames.
    pub(crate) at: u64,
    /// Up to the last commit.
    frames: u64,
    salts: Pair,
    big_endian: bool,
}

struct Frame {
    header: [u8; FRAME_HEADER_BYTES],
    page: Vec<u8>,
}

impl Frame {
    fn empty() -> Self {
        Self { header: [0; FRAME_HEADER_BYTES], page: vec![0; PAGE_BYTES.into()] }
    }

    /// The next one, if a whole one is there.
    fn read(&mut self, from: &mut impl Read) -> io::Result<bool> {
        Ok(read_whole(from, &mut self.header)? && read_whole(from, &mut self.page)?)
    }

    fn read_at(&mut self, log: &File, number: u64) -> io::Result<()> {
        log.read_exact_at(&mut self.header, offset(number))?;
        log.read_exact_at(&mut self.page, offset(number) + FRAME_HEADER_BYTES as u64)
    }

    fn page_number(&self) -> u32 {
        word(&self.header, 0)
    }

    fn is_commit(&self) -> bool {
        word(&self.header, 1) != 0
    }

    fn salts(&self) -> Pair {
        (word(&self.header, 2), word(&self.header, 3))
    }

    fn sums(&self) -> Pair {
        (word(&self.header, 4), word(&self.header, 5))
    }

    /// What its sums should be.
    fn summed(&self, before: Pair, big_endian: bool) -> Pair {
        let (named, _rest) = self.header.split_at(8);
        sum(sum(before, named, big_endian), &self.page, big_endian)
    }
}

/// Looks through the log of this file to its very end.
pub(crate) fn look(path: &Path) -> io::Result<Found> {
    let mut log = match File::open(beside(path, "-wal")) {
        Ok(log) => BufReader::with_capacity(1 << 20, log),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Found::Whole),
        Err(error) => return Err(error),
    };
    let mut header = [0; HEADER_BYTES];
    if !read_whole(&mut log, &mut header)? {
        return Ok(Found::Whole);
    }
    let is_whole = is_header(&header);
    let big_endian = if is_whole { word(&header, 0) != MAGIC } else { cfg!(target_endian = "big") };
    if is_whole && word(&header, 2) != u32::from(PAGE_BYTES) {
        return Ok(Found::Whole);
    }
    let mut salts = is_whole.then(|| (word(&header, 4), word(&header, 5)));
    let mut before = (word(&header, 6), word(&header, 7));
    let mut first_broken = (!is_whole).then_some(0);
    let (mut last_commit, mut is_unfinished) = (None, false);
    let (mut frame, mut number) = (Frame::empty(), 0_u64);
    while frame.read(&mut log)? {
        let is_of_this_log = salts.is_none_or(|salts| salts == frame.salts());
        let is_sound = is_of_this_log && frame.summed(before, big_endian) == frame.sums();
        if is_sound {
            salts = Some(frame.salts());
            if first_broken.is_some() && frame.is_commit() {
                last_commit = Some(number);
            }
        } else if first_broken.is_none() {
            first_broken = Some(number);
            is_unfinished = is_of_this_log;
        }
        before = frame.sums();
        number += 1;
    }
    Ok(match (first_broken, last_commit, salts) {
        (Some(at), Some(last), Some(salts)) => Found::Broken(Break { at, frames: last + 1, salts, big_endian }),
        _ if is_unfinished => Found::Unfinished,
        _ => Found::Whole,
    })
}

/// Makes the log one that SQLite reads up to its last commit, whatever the broken frames may hold: what is wrong in
/// them, rows tell by their own sums. A crash in the middle leaves a log that is broken where this has come to.
pub(crate) fn mend(path: &Path, broken: Break) -> io::Result<()> {
    let log = File::options().read(true).write(true).open(beside(path, "-wal"))?;
    let Break { frames, salts, big_endian, .. } = broken;
    let mut header = [0; HEADER_BYTES];
    log.read_exact_at(&mut header, 0)?;
    let magic = MAGIC | u32::from(big_endian);
    let words = [magic, VERSION, PAGE_BYTES.into(), word(&header, 3), salts.0, salts.1];
    let begin = bytes(&words);
    let mut sums = sum((0, 0), &begin, big_endian);
    log.write_all_at(&[begin, bytes(&[sums.0, sums.1])].concat(), 0)?;
    let (mut frame, mut next) = (Frame::empty(), Frame::empty());
    for number in 0..frames {
        frame.read_at(&log, number)?;
        let (mut page_number, mut size) = (frame.page_number(), word(&frame.header, 1));
        // No page has this number, and SQLite would stop here. The next frame, twice, changes nothing.
        if page_number == 0 && number + 1 < frames {
            next.read_at(&log, number + 1)?;
            (page_number, size) = (next.page_number(), 0);
            frame.page.clone_from(&next.page);
            log.write_all_at(&frame.page, offset(number) + FRAME_HEADER_BYTES as u64)?;
        }
        let named = bytes(&[page_number, size]);
        sums = sum(sum(sums, &named, big_endian), &frame.page, big_endian);
        let fields = [page_number, size, salts.0, salts.1, sums.0, sums.1];
        log.write_all_at(&bytes(&fields), offset(number))?;
    }
    log.sync_all()
}

fn is_header(header: &[u8; HEADER_BYTES]) -> bool {
    let (summed, _sums) = header.split_at(24);
    let magic = word(header, 0);
    let sums = (word(header, 6), word(header, 7));
    (magic | 1) == (MAGIC | 1) && word(header, 1) == VERSION && sum((0, 0), summed, magic != MAGIC) == sums
}

fn offset(frame: u64) -> u64 {
    HEADER_BYTES as u64 + frame * (FRAME_HEADER_BYTES as u64 + u64::from(PAGE_BYTES))
}

/// The number at this place, where every number takes four bytes. Numbers are big-endian whatever the sums are of.
fn word(bytes: &[u8], place: usize) -> u32 {
    bytes.as_chunks::<4>().0.get(place).map_or(0, |four| u32::from_be_bytes(*four))
}

fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

fn sum(before: Pair, bytes: &[u8], big_endian: bool) -> Pair {
    let number = |four: [u8; 4]| if big_endian { u32::from_be_bytes(four) } else { u32::from_le_bytes(four) };
    let (eights, _none_left) = bytes.as_chunks::<8>();
    eights.iter().fold(before, |(first, second), [a, b, c, d, e, f, g, h]| {
        let first = first.wrapping_add(number([*a, *b, *c, *d])).wrapping_add(second);
        (first, second.wrapping_add(number([*e, *f, *g, *h])).wrapping_add(first))
    })
}

/// Fills the buffer; false when there is less than that.
fn read_whole(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match from.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;
    use crate::sqlite;

    /// A log of so many commits, of a database that nobody has closed.
    fn log_of(commits: usize) -> (tempfile::TempDir, std::path::PathBuf, Connection) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.db");
        let db = sqlite::connect(&path).unwrap();
        db.pragma_update(None, "wal_autocheckpoint", 0).unwrap();
        db.execute_batch("CREATE TABLE notes (number INTEGER PRIMARY KEY, text TEXT)").unwrap();
        for _ in 1..commits {
            db.execute("INSERT INTO notes (text) VALUES (hex(randomblob(1500)))", []).unwrap();
        }
        (folder, path, db)
    }

    fn flip(path: &Path, at: u64) {
        let log = File::options().read(true).write(true).open(beside(path, "-wal")).unwrap();
        let mut byte = [0];
        log.read_exact_at(&mut byte, at).unwrap();
        log.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
    }

    /// What another process reads of a copy.
    fn read(path: &Path) -> rusqlite::Result<usize> {
        ask(path, "SELECT count(*) FROM (SELECT number FROM notes)")
    }

    fn ask(path: &Path, sql: &str) -> rusqlite::Result<usize> {
        let folder = tempfile::tempdir().unwrap();
        let copy = folder.path().join("x.db");
        for part in ["", "-wal"] {
            std::fs::copy(beside(path, part), beside(&copy, part)).unwrap();
        }
        let db = Connection::open(&copy)?;
        db.query_row(sql, [], |row| row.get(0))
    }

    #[test]
    fn a_log_that_nothing_happened_to_is_whole() {
        let (_folder, path, db) = log_of(20);
        assert_eq!(look(&path).unwrap(), Found::Whole);
        // The next generation is written over the last one, of which the end stays.
        db.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(())).unwrap();
        db.execute("INSERT INTO notes (text) VALUES ('milk')", []).unwrap();
        assert_eq!(look(&path).unwrap(), Found::Whole);
        db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
        assert_eq!(look(&path).unwrap(), Found::Whole);
        drop(db);
        assert_eq!(look(&path).unwrap(), Found::Whole);
    }

    #[test]
    fn behind_a_flipped_bit_sqlite_reads_nothing_until_the_log_is_mended() {
        let (_folder, path, _db) = log_of(40);
        assert_eq!(read(&path).unwrap(), 39);
        let log = std::fs::read(beside(&path, "-wal")).unwrap();
        // Each field of the header and of a frame's, and a page: of its content the very end, so that no page is unreadable.
        let header = [0, 3, 5, 9, 13, 17, 20, 24, 28];
        let frame = [8, 12, 16, 20, FRAME_HEADER_BYTES as u64 + u64::from(PAGE_BYTES) - 1];
        for at in header.into_iter().chain(frame.map(|field| offset(5) + field)) {
            flip(&path, at);
            assert!(!read(&path).is_ok_and(|rows| rows >= 10), "byte {at}");
            let Found::Broken(broken) = look(&path).unwrap() else { panic!("byte {at}") };
            mend(&path, broken).unwrap();
            assert_eq!((look(&path).unwrap(), read(&path).unwrap()), (Found::Whole, 39), "byte {at}");
            std::fs::write(beside(&path, "-wal"), &log).unwrap();
        }
    }

    #[test]
    fn a_frame_for_no_page_costs_that_page_and_nothing_behind_it() {
        let (_folder, path, _db) = log_of(40);
        let log = File::options().write(true).open(beside(&path, "-wal")).unwrap();
        log.write_all_at(&[0; 4], offset(12)).unwrap();
        let Found::Broken(broken) = look(&path).unwrap() else { panic!("it is not broken") };
        assert_eq!(broken.at, 12);
        mend(&path, broken).unwrap();
        assert_eq!(look(&path).unwrap(), Found::Whole);
        assert_eq!(ask(&path, "SELECT max(number) FROM notes").unwrap(), 39);
    }

    #[test]
    fn a_commit_that_never_ended_is_none() {
        let (_folder, path, _db) = log_of(20);
        let log = std::fs::read(beside(&path, "-wal")).unwrap();
        flip(&path, log.len() as u64 - 1);
        assert_eq!(look(&path).unwrap(), Found::Unfinished);
        std::fs::write(beside(&path, "-wal"), &log[..log.len() - 100]).unwrap();
        assert_eq!(look(&path).unwrap(), Found::Whole);
    }
}
