//! A message as the queue file keeps it, with its checksum.

use sha2::{Digest as _, Sha256};

use crate::message;
use crate::model::LoginEvent;

/// A message's bytes as stored, with the checksum that a damaged page does not survive.
#[derive(Clone)]
pub(super) struct StoredBody {
    pub(super) bytes: Vec<u8>,
    pub(super) sum: i64,
}

impl StoredBody {
    pub(super) fn of(event: &LoginEvent) -> Self {
        Self::of_bytes(message::write(event))
    }

    pub(super) fn of_bytes(bytes: Vec<u8>) -> Self {
        let sum = checksum(&bytes);
        Self { bytes, sum }
    }

    pub(super) fn is_intact(&self) -> bool {
        checksum(&self.bytes) == self.sum
    }
}

fn checksum(bytes: &[u8]) -> i64 {
    Sha256::digest(bytes).first_chunk::<8>().map_or(0, |first| i64::from_be_bytes(*first))
}
