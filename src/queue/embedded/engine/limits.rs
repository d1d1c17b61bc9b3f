//! How much may wait: all messages together, and each tenant's share, so that one in trouble takes no other's place.

use super::{Attempted, Batch, Engine, Incoming};
use crate::model::TenantId;
use crate::queue::QueueError;

/// Delayed and dead messages count, too.
#[derive(Clone, Copy)]
pub(in crate::queue::embedded) struct Limits {
    pub(in crate::queue::embedded) messages_max: u64,
    /// Of the disk. Rows that are gone leave room in the file, which counts as free.
    pub(in crate::queue::embedded) bytes_max: Option<u64>,
    /// How many tenants share it; at least 1.
    pub(in crate::queue::embedded) tenants: u64,
}

impl Engine {
    /// Whether one more event would be taken, found out with a scratch row.
    pub(super) fn check(&self) -> Attempted<()> {
        let Limits { messages_max, bytes_max, .. } = self.limits;
        if self.waiting(None) >= messages_max {
            return Ok(Err(QueueError::Full { messages_max }));
        }
        if bytes_max.is_some_and(|bytes_max| self.store.used_bytes().is_ok_and(|used| used >= bytes_max)) {
            return Ok(Err(QueueError::FullBytes { bytes_max: bytes_max.unwrap_or_default() }));
        }
        self.store.scratch().map(Ok)
    }

    /// The refusal of a publish that would go over the limit, or over its tenants' shares of it.
    pub(super) fn has_no_room_for(&self, events: &[Incoming], batch: &mut Batch) -> Option<QueueError> {
        let Limits { messages_max, bytes_max, tenants } = self.limits;
        if let Some(bytes_max) = bytes_max {
            // Once a transaction: the rows that it adds are written at its end.
            let used = *batch.used_bytes.get_or_insert_with(|| self.store.used_bytes().unwrap_or(0));
            if used >= bytes_max {
                return Some(QueueError::FullBytes { bytes_max });
            }
        }
        if self.waiting(None) + events.len() as u64 > messages_max {
            return Some(QueueError::Full { messages_max });
        }
        let share = messages_max / tenants.max(1);
        let over = |event: &Incoming| {
            let more = events.iter().filter(|other| other.tenant == event.tenant).count() as u64;
            self.waiting(Some(&event.tenant)) + more > share
        };
        (tenants > 1 && events.iter().any(over)).then_some(QueueError::Full { messages_max: share })
    }

    fn waiting(&self, tenant: Option<&TenantId>) -> u64 {
        let lanes = self.lanes.iter().filter(|(_, lane)| tenant.is_none_or(|tenant| *tenant == lane.tenant));
        lanes.map(|(id, lane)| lane.ready + lane.delayed + self.dead.get(id).copied().unwrap_or(0)).sum()
    }
}
