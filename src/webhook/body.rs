//! A request's body while it arrives, within the memory that all bodies share.

use bytes::{Bytes, BytesMut};
use tokio::sync::{Semaphore, SemaphorePermit};

/// A body and its share of the memory for bodies. One that came in one piece, as a login does, is not copied.
#[derive(Default)]
pub(super) struct Buffered<'a> {
    pub(super) bytes: Bytes,
    pieces: BytesMut,
    share: Option<SemaphorePermit<'a>>,
}

impl<'a> Buffered<'a> {
    /// Adds a piece; `None` when the memory for bodies, of which each permit is a KiB, is used up.
    pub(super) fn add(&mut self, data: Bytes, memory: &'a Semaphore) -> Option<()> {
        if self.bytes.is_empty() && self.pieces.is_empty() {
            self.bytes = data;
        } else {
            self.pieces.extend_from_slice(&std::mem::take(&mut self.bytes));
            self.pieces.extend_from_slice(&data);
        }
        let held = self.share.as_ref().map_or(0, SemaphorePermit::num_permits);
        let missing = u32::try_from(self.len().div_ceil(1024).saturating_sub(held)).unwrap_or(u32::MAX);
        let share = memory.try_acquire_many(missing).ok()?;
        match &mut self.share {
            Some(held) => held.merge(share),
            none => *none = Some(share),
        }
        Some(())
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len() + self.pieces.len()
    }

    pub(super) fn whole(mut self) -> Self {
        if !self.pieces.is_empty() {
            self.bytes = std::mem::take(&mut self.pieces).freeze();
        }
        self
    }
}
