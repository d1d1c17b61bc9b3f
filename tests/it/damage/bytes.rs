//! The damages: which bytes of which file.

use std::fs;
use std::path::{Path, PathBuf};

const PAGE: usize = 4096;
const LOG_HEADER: usize = 32;
const LOG_FRAME: usize = 24 + PAGE;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    File,
    /// What is not in the file yet.
    Log,
}

#[derive(Clone, Copy)]
pub(super) struct Damage {
    pub(super) name: &'static str,
    pub(super) place: Place,
    how: How,
    /// Events that were in the damaged bytes, at most.
    pub(super) lost_max: usize,
    /// Whether anything is left by which it can be found.
    pub(super) leaves_a_trace: bool,
}

#[derive(Clone, Copy)]
enum How {
    /// The byte at this place.
    Flip(usize),
    /// The byte at this place of a page in the middle, which holds messages.
    FlipInPage(usize),
    /// The byte at this place of the frame in the middle.
    FlipInFrame(usize),
    /// Keeps so many thirds.
    Cut(usize),
}

/// Events on one page, at most.
const ON_A_PAGE: usize = 40;

const fn file(name: &'static str, how: How, lost_max: usize) -> Damage {
    Damage { name, place: Place::File, how, lost_max, leaves_a_trace: true }
}

const fn log(name: &'static str, how: How, lost_max: usize) -> Damage {
    Damage { name, place: Place::Log, how, lost_max, leaves_a_trace: true }
}

pub(super) const ALL: [Damage; 10] = [
    file("file: a byte of its magic", How::Flip(3), 0),
    file("file: a byte of its page size", How::Flip(16), 0),
    file("file: a byte of whose it is", How::Flip(69), 0),
    file("file: the kind of its first page", How::Flip(100), 0),
    file("file: the kind of a page of the middle", How::FlipInPage(0), ON_A_PAGE),
    file("file: cut to two thirds", How::Cut(2), super::EVENTS / 3 + 2 * ON_A_PAGE),
    log("log: a byte of a page of the middle", How::FlipInFrame(24 + PAGE - 60), ON_A_PAGE),
    log("log: a byte of a frame's header", How::FlipInFrame(17), 0),
    log("log: a byte of its header", How::Flip(18), 0),
    Damage { leaves_a_trace: false, ..log("log: cut to two thirds", How::Cut(2), super::EVENTS) },
];

impl Damage {
    /// Does it to a journal that no process has open.
    pub(super) fn inflict(self, journal: &Path) {
        let path = match self.place {
            Place::File => journal.to_path_buf(),
            Place::Log => PathBuf::from(format!("{}-wal", journal.display())),
        };
        let mut bytes = fs::read(&path).unwrap();
        let flipped = match self.how {
            How::Flip(at) => Some(at),
            How::FlipInPage(at) => Some(middle_page(&bytes) * PAGE + at),
            How::FlipInFrame(at) => {
                let frames = (bytes.len() - LOG_HEADER) / LOG_FRAME;
                assert!(frames > 8, "{frames} frames in the log");
                Some(LOG_HEADER + frames / 2 * LOG_FRAME + at)
            }
            How::Cut(thirds) => {
                bytes.truncate(bytes.len() / 3 * thirds);
                None
            }
        };
        if let Some(at) = flipped {
            bytes[at] ^= 0x55;
        }
        fs::write(&path, bytes).unwrap();
    }
}

/// A page full of messages: it has the words of one, and is far from the beginning.
fn middle_page(bytes: &[u8]) -> usize {
    let is_full = |page: &&[u8]| page.windows(8).filter(|words| words == b"\"hook-10").count() >= 4;
    bytes.chunks(PAGE).position(|page| is_full(&page)).expect("a page with the events hook-100 to hook-109")
}
