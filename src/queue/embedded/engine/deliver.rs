//! The engine's reading half: handing out messages, subscriptions, counts and dead letters.

use super::{Batch, Command, DEAD_BATCH, Engine, Held, LaneState, Subscriber, fail_if_damaged, unavailable};
use crate::message::{self, Remains};
use crate::model::LoginEvent;
use crate::queue::embedded::Usage;
use crate::queue::embedded::body::StoredBody;
use crate::queue::embedded::store::{Store, StoredDead, StoredMessage, key_range};
use crate::queue::{DeadLetter, Delivery, DeliveryTag, LaneStats, QueueError, Selection, Why};
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

impl Engine {
    /// Hands out what is ready to whoever has room.
    ///
    /// # Errors
    /// Only when the file is damaged: then this queue must not go on.
    pub(in crate::queue::embedded) fn hand_out(&mut self, now_ms: i64) -> anyhow::Result<()> {
        let epochs: Vec<u64> = self.subscribers.keys().copied().collect();
        for epoch in epochs {
            if let Err(error) = self.fill(epoch, now_ms) {
                tracing::error!("the queue cannot read: {error:#}");
                self.in_trouble = true;
                fail_if_damaged(Err(error))?;
            }
        }
        Ok(())
    }

    fn fill(&mut self, epoch: u64, now_ms: i64) -> anyhow::Result<()> {
        let Some(subscriber) = self.subscribers.get(&epoch) else { return Ok(()) };
        if subscriber.sink.is_closed() {
            self.close(epoch);
            return Ok(());
        }
        let (lane_id, room) = (subscriber.lane_id, subscriber.prefetch.saturating_sub(subscriber.held.len()));
        let Some(lane) = self.lanes.get_mut(&lane_id) else { return Ok(()) };
        if room == 0 || (lane.returned.is_empty() && lane.cursor >= lane.next_key) {
            return Ok(());
        }
        let again: Vec<i64> = lane.returned.iter().copied().take(room).collect();
        let mut rows: Vec<(StoredMessage, bool)> = Vec::with_capacity(room);
        for &key in &again {
            rows.extend(self.store.messages(key, key + 1, 1)?.into_iter().map(|row| (row, true)));
        }
        let room_left = room - again.len();
        let fresh = fresh(&self.store, lane, room_left)?;
        for key in &again {
            lane.returned.remove(key);
        }
        let first_own_key = lane.first_own_key;
        rows.extend(fresh.into_iter().map(|row| {
            let redelivered = row.key < first_own_key;
            (row, redelivered)
        }));
        let mut result = Ok(());
        for (row, redelivered) in rows {
            match read_row(&row.body) {
                Ok(event) => self.deliver(epoch, lane_id, &row, event, redelivered),
                Err(why) => result = result.and(self.bury_unreadable(lane_id, &row, why, now_ms)),
            }
        }
        result
    }

    fn deliver(&mut self, epoch: u64, lane_id: i64, row: &StoredMessage, event: LoginEvent, redelivered: bool) {
        let Some(subscriber) = self.subscribers.get_mut(&epoch) else {
            // It went away while its rows were read.
            if let Some(lane) = self.lanes.get_mut(&lane_id) {
                lane.returned.insert(row.key);
            }
            return;
        };
        let number = subscriber.next_number;
        subscriber.next_number += 1;
        let delivery =
            Delivery { tag: DeliveryTag { epoch, number }, event: event.clone(), attempt: row.attempt, redelivered };
        // It is held before it is sent: a subscription that went away gives it back when it is closed.
        subscriber.held.insert(number, Held { key: row.key, attempt: row.attempt, event });
        if subscriber.sink.try_send(delivery).is_err() {
            self.close(epoch);
        }
    }

    /// A row that cannot be read is set aside with the reason; its bytes stay in the file for an expert.
    fn bury_unreadable(&mut self, lane_id: i64, row: &StoredMessage, why: Why, now_ms: i64) -> anyhow::Result<()> {
        tracing::error!(why = why.as_str(), "a message cannot be read and becomes a dead letter");
        let mut batch = Batch::default();
        self.store.begin()?;
        self.remove(lane_id, row.key, &mut batch);
        let buried = self
            .bury(lane_id, why.as_str(), row.attempt, &row.body, now_ms)
            .map_err(anyhow::Error::new)
            .and_then(|()| self.finish(&mut batch, now_ms));
        if buried.is_err() {
            self.store.roll_back();
            self.undo(&mut batch)?;
            if let Some(lane) = self.lanes.get_mut(&lane_id) {
                lane.returned.insert(row.key);
            }
        }
        buried
    }

    /// Answers the commands that change no row.
    pub(super) fn read(&mut self, command: Command) {
        match command {
            Command::Subscribe { tenant, lane, prefetch, sink, reply } => {
                let epoch = self.next_epoch;
                self.next_epoch += 1;
                let answer = match self.lane_id(&tenant, lane) {
                    Ok(lane_id) => {
                        let subscriber = Subscriber {
                            lane_id,
                            prefetch,
                            sink,
                            held: std::collections::HashMap::new(),
                            next_number: 1,
                        };
                        self.subscribers.insert(epoch, subscriber);
                        Ok(epoch)
                    }
                    Err(error) => Err(QueueError::Unavailable(error.into())),
                };
                drop(reply.send(answer));
            }
            Command::Close { epoch, reply } => {
                self.close(epoch);
                if let Some(reply) = reply {
                    drop(reply.send(Ok(())));
                }
            }
            Command::Usage { reply } => drop(reply.send(Ok(self.usage()))),
            Command::Stats { reply } => drop(reply.send(Ok(self.stats()))),
            Command::ListDead { selection, after, limit, reply } => {
                let chosen = self.select_dead(&selection, after, limit.min(DEAD_BATCH));
                let answer = chosen
                    .map(|chosen| chosen.into_iter().filter_map(|dead| self.dead_letter(dead)).collect())
                    .map_err(|error| unavailable(error.to_string()));
                drop(reply.send(answer));
            }
            Command::Publish { .. }
            | Command::Reserve { .. }
            | Command::EndReservation { .. }
            | Command::Bury { .. }
            | Command::Settle { .. }
            | Command::Redrive { .. }
            | Command::DropDead { .. }
            | Command::Check { .. }
            | Command::Stop => {}
        }
    }

    fn close(&mut self, epoch: u64) {
        if let Some(subscriber) = self.subscribers.remove(&epoch)
            && let Some(lane) = self.lanes.get_mut(&subscriber.lane_id)
        {
            lane.returned.extend(subscriber.held.values().map(|held| held.key));
        }
    }

    fn stats(&self) -> Vec<LaneStats> {
        let held = |lane_id: i64| -> u64 {
            self.subscribers.values().filter(|s| s.lane_id == lane_id).map(|s| s.held.len() as u64).sum()
        };
        self.lanes
            .iter()
            .map(|(&lane_id, lane)| LaneStats {
                tenant: lane.tenant.clone(),
                lane: lane.lane,
                ready: lane.ready.saturating_sub(held(lane_id) + lane.reserved.len() as u64),
                unsettled: Some(held(lane_id)),
                delayed: Some(lane.delayed),
                dead: Some(self.dead.get(&lane_id).copied().unwrap_or(0)),
                oldest_accepted_at: self.oldest(lane_id, lane),
            })
            .collect()
    }

    fn usage(&self) -> Usage {
        let messages = self.lanes.values().map(|lane| lane.ready + lane.delayed).sum();
        let oldest = self.lanes.iter().filter(|(_, lane)| lane.ready > 0);
        let oldest_accepted_at = oldest.filter_map(|(&lane_id, lane)| self.oldest(lane_id, lane)).min();
        Usage { bytes: self.store.used_bytes().unwrap_or(0), messages, oldest_accepted_at }
    }

    fn oldest(&self, lane_id: i64, lane: &LaneState) -> Option<Timestamp> {
        let first = lane.returned.first().copied().unwrap_or(lane.cursor);
        let rows = self.store.messages(first, key_range(lane_id).end, 1 + lane.reserved.len()).ok()?;
        rows.iter()
            .find(|row| !lane.reserved.contains(&row.key))
            .and_then(|row| read_row(&row.body).ok())
            .and_then(|event| event.accepted_at)
    }

    pub(super) fn select_dead(
        &self,
        selection: &Selection,
        after: u64,
        limit: usize,
    ) -> rusqlite::Result<Vec<StoredDead>> {
        let after = i64::try_from(after).unwrap_or(i64::MAX);
        match selection {
            Selection::All => self.store.dead("", after, limit),
            Selection::Why(why) => self.store.dead(why, after, limit),
            Selection::Ids(ids) => {
                let mut chosen = Vec::new();
                for &id in ids.iter().take(limit) {
                    let id = i64::try_from(id).unwrap_or(i64::MAX);
                    chosen.extend(self.store.dead_by_id(id)?.filter(|dead| dead.id > after));
                }
                Ok(chosen)
            }
        }
    }

    fn dead_letter(&self, dead: StoredDead) -> Option<DeadLetter> {
        let lane = self.lanes.get(&dead.lane_id)?;
        let event = read_row(&dead.body).ok();
        let remains = if event.is_none() { Remains::read(&dead.body.bytes) } else { None };
        let (body_bytes, body_sha256, problem) = match remains {
            Some(remains) => (remains.bytes, remains.sha256, Some(remains.problem)),
            None => (dead.body.bytes.len(), Sha256::digest(&dead.body.bytes).into(), None),
        };
        Some(DeadLetter {
            id: dead.id.unsigned_abs(),
            // One of a tenant that is not ours is kept in a lane of ours.
            tenant: event.as_ref().map_or_else(|| lane.tenant.clone(), |event| event.tenant.clone()),
            lane: lane.lane,
            why: dead.why,
            attempt: dead.attempt,
            died_at: Timestamp::from_millisecond(dead.died_at_ms).unwrap_or(Timestamp::UNIX_EPOCH),
            event,
            body_bytes,
            body_sha256,
            problem,
        })
    }
}

/// Up to so many messages that were never handed out, in their order, without those that are reserved.
fn fresh(store: &Store, lane: &mut LaneState, wanted: usize) -> rusqlite::Result<Vec<StoredMessage>> {
    let mut fresh = Vec::new();
    let mut cursor = lane.cursor;
    while fresh.len() < wanted && cursor < lane.next_key {
        let room = wanted - fresh.len();
        let rows = store.messages(cursor, lane.next_key, room)?;
        cursor = rows.last().filter(|_| rows.len() == room).map_or(lane.next_key, |last| last.key + 1);
        fresh.extend(rows.into_iter().filter(|row| !lane.reserved.contains(&row.key)));
    }
    lane.cursor = cursor;
    Ok(fresh)
}

pub(super) fn read_row(body: &StoredBody) -> Result<LoginEvent, Why> {
    if !body.is_intact() {
        return Err(Why::Damaged);
    }
    message::read(&body.bytes).map_err(|unreadable| Why::from(&unreadable))
}
