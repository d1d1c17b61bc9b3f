//! The engine's accepting half: events on their way in, some of which are kept back until somebody wants them.

use super::{Attempted, Batch, DUE_BATCH, Engine, Incoming};
use crate::queue::embedded::body::StoredBody;
use crate::queue::embedded::store::StoredMessage;
use crate::queue::{Published, Via};

impl Engine {
    pub(super) fn publish(&mut self, events: Vec<Incoming>, batch: &mut Batch) -> Attempted<Published> {
        if let Some(full) = self.has_no_room_for(&events, batch) {
            return Ok(Err(full));
        }
        let mut duplicates = 0;
        for event in events {
            if let Some(key) = event.dedupe_key {
                if self.dedupe.contains(key) || !batch.key_set.insert(key) {
                    duplicates += 1;
                    continue;
                }
                batch.keys.push(key);
            }
            let lane_id = self.lane_id(&event.tenant, event.lane)?;
            self.append(lane_id, 1, event.body, batch)?;
        }
        Ok(Ok(Published { via: Via::Journal, duplicates }))
    }

    /// Adds a message that is handed out to nobody before its reservation ends. That is kept in memory only: after a crash
    /// it is handed out like any other.
    pub(super) fn reserve(&mut self, number: u64, event: Incoming, batch: &mut Batch) -> Attempted<()> {
        if let Some(full) = self.has_no_room_for(std::slice::from_ref(&event), batch) {
            return Ok(Err(full));
        }
        let lane_id = self.lane_id(&event.tenant, event.lane)?;
        let key = self.append(lane_id, 1, event.body, batch)?;
        if let Some(lane) = self.lanes.get_mut(&lane_id) {
            lane.reserved.insert(key);
        }
        self.reservations.insert(number, (lane_id, key));
        batch.reserved.push(number);
        Ok(Ok(()))
    }

    /// Has a reserved message handed out, or takes it away. One whose reservation failed is not known.
    pub(super) fn end_reservation(&mut self, number: u64, is_wanted: bool, batch: &mut Batch) {
        let Some((lane_id, key)) = self.release(number) else { return };
        if is_wanted {
            self.give_back(lane_id, key);
            return;
        }
        self.remove(lane_id, key, batch);
        // Rows are taken before others are added: one of this very transaction is not added at all.
        batch.added.retain(|row| row.key != key);
        batch.taken_back.push((lane_id, key));
    }

    /// After a roll-back: what was reserved is not there, and what was taken back is, so it is handed out: a look too many.
    pub(super) fn undo_reservations(&mut self, batch: &mut Batch) {
        for number in batch.reserved.drain(..) {
            self.release(number);
        }
        for (lane_id, key) in batch.taken_back.drain(..) {
            self.give_back(lane_id, key);
        }
    }

    /// Has a message handed out that was kept back. One that its lane has not come to yet is found there.
    fn give_back(&mut self, lane_id: i64, key: i64) {
        if let Some(lane) = self.lanes.get_mut(&lane_id)
            && key < lane.cursor
        {
            lane.returned.insert(key);
        }
    }

    fn release(&mut self, number: u64) -> Option<(i64, i64)> {
        let (lane_id, key) = self.reservations.remove(&number)?;
        if let Some(lane) = self.lanes.get_mut(&lane_id) {
            lane.reserved.remove(&key);
        }
        Some((lane_id, key))
    }

    pub(super) fn move_due(&mut self, batch: &mut Batch, now_ms: i64) -> anyhow::Result<()> {
        if self.next_due_ms.is_none_or(|due| due > now_ms) {
            return Ok(());
        }
        for due in self.store.due(now_ms, DUE_BATCH)? {
            self.append(due.lane_id, due.attempt, due.body, batch)?;
            self.store.remove_delayed(due.id)?;
            self.count(due.lane_id, batch, |lane| lane.delayed = lane.delayed.saturating_sub(1));
        }
        self.next_due_ms = self.store.next_due()?;
        Ok(())
    }

    /// Adds a message to its lane, and gives its key.
    pub(super) fn append(
        &mut self,
        lane_id: i64,
        attempt: u32,
        body: StoredBody,
        batch: &mut Batch,
    ) -> rusqlite::Result<i64> {
        let Some(lane) = self.lanes.get_mut(&lane_id) else { return Err(rusqlite::Error::QueryReturnedNoRows) };
        let key = lane.next_key;
        lane.next_key += 1;
        lane.ready += 1;
        batch.lanes.insert(lane_id);
        batch.added.push(StoredMessage { key, attempt, body });
        Ok(key)
    }
}
