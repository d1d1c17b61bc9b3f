//! The engine's settling half: how deliveries end, and what becomes of dead letters.

use std::collections::HashSet;

use super::{Attempted, Batch, DEAD_BATCH, Engine, Held, deliver};
use crate::model::{LoginEvent, Reason};
use crate::queue::embedded::Buried;
use crate::queue::embedded::body::StoredBody;
use crate::queue::{DeliveryTag, Next, QueueError, Selection, Settlement};

/// Dead letters of another queue that are kept; further ones stay where they are until some are redriven or dropped.
const DEAD_LETTERS_MAX: u64 = 1_000_000;

impl Engine {
    pub(super) fn settle(
        &mut self,
        epoch: u64,
        settlements: &[(DeliveryTag, Settlement)],
        batch: &mut Batch,
        now_ms: i64,
    ) -> Attempted<()> {
        let Some(subscriber) = self.subscribers.get_mut(&epoch) else { return Ok(Err(QueueError::StaleTag)) };
        let mut distinct = HashSet::new();
        let known = |tag: &DeliveryTag| tag.epoch == epoch && subscriber.held.contains_key(&tag.number);
        if !settlements.iter().all(|(tag, _)| known(tag) && distinct.insert(tag.number)) {
            return Ok(Err(QueueError::StaleTag));
        }
        let lane_id = subscriber.lane_id;
        for (tag, settlement) in settlements {
            let Some(held) = self.subscribers.get_mut(&epoch).and_then(|held| held.held.remove(&tag.number)) else {
                continue;
            };
            let done = self.settle_one(lane_id, &held, *settlement, batch, now_ms);
            batch.released.push((epoch, tag.number, held));
            done?;
        }
        Ok(Ok(()))
    }

    fn settle_one(
        &mut self,
        lane_id: i64,
        held: &Held,
        settlement: Settlement,
        batch: &mut Batch,
        now_ms: i64,
    ) -> rusqlite::Result<()> {
        self.remove(lane_id, held.key, batch);
        match settlement {
            Settlement::Ack => Ok(()),
            Settlement::Again { after, next, why: _ } => {
                let (event, attempt) = successor(held, next);
                let lane_id = self.lane_id(&event.tenant, event.reason.lane())?;
                let body = StoredBody::of(&event);
                if after.is_zero() {
                    return self.append(lane_id, attempt, body, batch).map(drop);
                }
                let delay_ms = i64::try_from(after.as_millis()).unwrap_or(i64::MAX / 2);
                let due_ms = now_ms.saturating_add(delay_ms);
                self.store.delay(lane_id, due_ms, delay_ms, attempt, &body)?;
                self.next_due_ms = Some(self.next_due_ms.map_or(due_ms, |next| next.min(due_ms)));
                self.count(lane_id, batch, |lane| lane.delayed += 1);
                Ok(())
            }
            Settlement::DeadLetter { why } => {
                let body = StoredBody::of(&held.event);
                self.bury(lane_id, why.as_str(), held.attempt, &body, now_ms)
            }
        }
    }

    pub(super) fn bury(
        &mut self,
        lane_id: i64,
        why: &str,
        attempt: u32,
        body: &StoredBody,
        now_ms: i64,
    ) -> rusqlite::Result<()> {
        self.store.bury(lane_id, why, attempt, now_ms, body)?;
        *self.dead.entry(lane_id).or_default() += 1;
        Ok(())
    }

    /// They come from elsewhere and are dead already, so no limit of what may wait keeps them out, only their own.
    pub(super) fn bury_all(&mut self, dead: Vec<Buried>, now_ms: i64) -> Attempted<()> {
        if self.dead.values().sum::<u64>() >= DEAD_LETTERS_MAX {
            return Ok(Err(QueueError::Full { messages_max: DEAD_LETTERS_MAX }));
        }
        for Buried { tenant, lane, why, attempt, body, may_be_known } in dead {
            let (lane_id, body) = (self.lane_id(&tenant, lane)?, StoredBody::of_bytes(body));
            if !may_be_known || !self.store.has_buried(lane_id, &why, attempt, &body)? {
                self.bury(lane_id, &why, attempt, &body, now_ms)?;
            }
        }
        Ok(Ok(()))
    }

    pub(super) fn redrive(&mut self, selection: &Selection, batch: &mut Batch) -> Attempted<u64> {
        let mut redriven = 0;
        for dead in self.select_dead(selection, 0, DEAD_BATCH)? {
            let Ok(mut event) = deliver::read_row(&dead.body) else { continue };
            event.reason = Reason::Redrive;
            let lane_id = self.lane_id(&event.tenant, event.reason.lane())?;
            self.append(lane_id, 1, StoredBody::of(&event), batch)?;
            self.remove_dead(dead.id, dead.lane_id)?;
            redriven += 1;
        }
        Ok(Ok(redriven))
    }

    pub(super) fn drop_dead(&mut self, selection: &Selection, _: &mut Batch) -> Attempted<u64> {
        let chosen = self.select_dead(selection, 0, DEAD_BATCH)?;
        for dead in &chosen {
            self.remove_dead(dead.id, dead.lane_id)?;
        }
        Ok(Ok(chosen.len() as u64))
    }

    fn remove_dead(&mut self, id: i64, lane_id: i64) -> rusqlite::Result<()> {
        self.store.remove_dead(id)?;
        if let Some(count) = self.dead.get_mut(&lane_id) {
            *count = count.saturating_sub(1);
        }
        Ok(())
    }
}

fn successor(held: &Held, next: Next) -> (LoginEvent, u32) {
    let mut event = held.event.clone();
    match next {
        Next::Retry => (event, held.attempt.saturating_add(1)),
        Next::Defer => (event, held.attempt),
        Next::Recheck { rung } => {
            event.reason = Reason::Recheck { rung };
            (event, 1)
        }
    }
}
