//! What is kept of a message that cannot be read: its length, its hash and what is wrong with it, never its bytes.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::Unreadable;

/// Stands for a message that cannot be read: another gateway's body may hold a password hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remains {
    pub bytes: usize,
    pub sha256: [u8; 32],
    /// In words for people.
    pub problem: String,
}

/// Longer than any problem that we write; what exceeds it is not ours.
const PROBLEM_BYTES_MAX: usize = 512;

#[derive(Serialize, Deserialize)]
struct Written<'a> {
    #[serde(borrow)]
    remains: Inner<'a>,
}

#[derive(Serialize, Deserialize)]
struct Inner<'a> {
    bytes: usize,
    #[serde(borrow)]
    sha256: Cow<'a, str>,
    #[serde(borrow)]
    problem: Cow<'a, str>,
}

impl Remains {
    pub fn of(body: &[u8], unreadable: &Unreadable) -> Self {
        Self { bytes: body.len(), sha256: Sha256::digest(body).into(), problem: unreadable.to_string() }
    }

    /// `{"remains":{"bytes":…,"sha256":"…","problem":"…"}}`
    pub fn write(&self) -> Vec<u8> {
        let (sha256, problem) = (hex::encode(self.sha256).into(), self.problem.as_str().into());
        let written = Written { remains: Inner { bytes: self.bytes, sha256, problem } };
        // Strings and a number always serialise.
        serde_json::to_vec(&written).unwrap_or_default()
    }

    /// Reads what [`Remains::write`] wrote; `None` for every other body.
    pub fn read(body: &[u8]) -> Option<Self> {
        let remains = serde_json::from_slice::<Written<'_>>(body).ok()?.remains;
        let mut sha256 = [0; 32];
        hex::decode_to_slice(&*remains.sha256, &mut sha256).ok()?;
        let problem = Some(remains.problem.into_owned()).filter(|problem| problem.len() <= PROBLEM_BYTES_MAX)?;
        Some(Self { bytes: remains.bytes, sha256, problem })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remains_are_read_back_as_they_were_written() {
        let remains = Remains::of(b"abc", &Unreadable::NoUser("`uid` is missing"));
        assert_eq!(
            String::from_utf8(remains.write()).unwrap(),
            r#"{"remains":{"bytes":3,"sha256":"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad","problem":"it names no user: `uid` is missing"}}"#
        );
        assert_eq!(Remains::read(&remains.write()), Some(remains));
    }

    #[test]
    fn nothing_else_is_taken_for_remains() {
        let long = Remains { problem: "x".repeat(PROBLEM_BYTES_MAX + 1), ..Remains::of(b"", &Unreadable::TooLarge) };
        let hash = br#"{"remains":{"bytes":3,"sha256":"beef","problem":"none"}}"#.to_vec();
        for body in [long.write(), hash, br#"{"uid":"ann"}"#.to_vec(), b"\xff\x00".to_vec(), Vec::new()] {
            assert_eq!(Remains::read(&body), None);
        }
    }

    #[test]
    fn remains_hold_nothing_of_the_body() {
        let remains = Remains::of(b"a canary", &Unreadable::NotJson { line: 1, column: 1 });
        assert!(!String::from_utf8(remains.write()).unwrap().contains("canary"));
    }
}
