//! The embedded queue's state machine: commands in, one transaction for all that gathered, answers after the fsync.
//!
//! Leases live in memory only, so they die with the process and every unsettled message is handed out again.

mod accept;
mod command;
mod deliver;
mod limits;
mod settle;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::mpsc;

pub(super) use self::command::{Command, Incoming, Reply};
pub(super) use self::limits::Limits;
use super::store::{Log, Store, StoredMessage, key_range};
use crate::model::{Lane, LoginEvent, TenantId};
use crate::queue::dedupe::Dedupe;
use crate::queue::{Delivery, QueueError};
use crate::sqlite;

/// How long a queue that could not read or write waits before it tries by itself.
const TROUBLE_RETRY: Duration = Duration::from_secs(1);
/// How many due messages one transaction moves back into their lanes.
const DUE_BATCH: usize = 256;
/// How many dead letters one redrive or drop handles a transaction.
pub(super) const DEAD_BATCH: usize = 1_000;

struct LaneState {
    tenant: TenantId,
    lane: Lane,
    next_key: i64,
    /// Everything before it was handed out, settled or reserved.
    cursor: i64,
    /// Handed out and given back, or reserved and now to be handed out: all before the cursor, or they would be found twice.
    returned: BTreeSet<i64>,
    /// Nobody has said yet whether they are wanted.
    reserved: HashSet<i64>,
    /// Messages at or after it came in after this process started.
    first_own_key: i64,
    ready: u64,
    delayed: u64,
}

struct Subscriber {
    lane_id: i64,
    prefetch: usize,
    sink: mpsc::Sender<Delivery>,
    held: HashMap<u64, Held>,
    next_number: u64,
}

struct Held {
    key: i64,
    attempt: u32,
    event: LoginEvent,
}

/// An answer that goes out once the transaction is on the disk, or an error in its place.
type Answer = Box<dyn FnOnce(Result<(), &anyhow::Error>) + Send>;

pub(super) struct Engine {
    store: Store,
    lanes: BTreeMap<i64, LaneState>,
    lane_ids: HashMap<(TenantId, Lane), i64>,
    subscribers: BTreeMap<u64, Subscriber>,
    next_epoch: u64,
    /// Lane and key of each message that is reserved, by the number of its reservation.
    reservations: HashMap<u64, (i64, i64)>,
    dedupe: Dedupe,
    limits: Limits,
    next_due_ms: Option<i64>,
    dead: BTreeMap<i64, u64>,
    /// The last attempt to read or write failed.
    in_trouble: bool,
}

impl Engine {
    pub(super) fn open(path: &Path, mut dedupe: Dedupe, limits: Limits, now_ms: i64) -> anyhow::Result<Self> {
        let store = Store::open(path)?;
        store.pull_in_delays(now_ms).context("cannot update the queue file")?;
        let this_minute = now_ms / 60_000;
        dedupe.reserve(store.remembered_count().context("cannot count the event ids in the queue file")?);
        store
            .remembered(|row, minute, keys| dedupe.insert(row, minute.min(this_minute), keys))
            .context("cannot read the event ids in the queue file")?;
        let mut engine = Self {
            lanes: BTreeMap::new(),
            lane_ids: HashMap::new(),
            subscribers: BTreeMap::new(),
            next_epoch: 1,
            reservations: HashMap::new(),
            dedupe,
            limits,
            next_due_ms: store.next_due()?,
            dead: store.dead_counts()?.into_iter().collect(),
            in_trouble: false,
            store,
        };
        for lane in engine.store.lanes().context("cannot read the lanes of the queue file")? {
            engine.lane_ids.insert((lane.tenant.clone(), lane.lane), lane.lane_id);
            engine.lanes.insert(
                lane.lane_id,
                LaneState {
                    tenant: lane.tenant,
                    lane: lane.lane,
                    next_key: lane.next_key,
                    cursor: key_range(lane.lane_id).start,
                    returned: BTreeSet::new(),
                    reserved: HashSet::new(),
                    first_own_key: lane.next_key,
                    ready: lane.ready,
                    delayed: lane.delayed,
                },
            );
        }
        Ok(engine)
    }

    /// How long nothing can become due; a queue in trouble tries again after [`TROUBLE_RETRY`].
    pub(super) fn idle_for(&self, now_ms: i64) -> Option<Duration> {
        if self.in_trouble {
            return Some(TROUBLE_RETRY);
        }
        self.next_due_ms.map(|due| Duration::from_millis(u64::try_from(due - now_ms).unwrap_or(0)))
    }

    /// Applies all commands in one transaction and answers them after its commit; on an error none is applied, except that
    /// what they say of earlier reservations is heard: what cannot be taken back is handed out.
    ///
    /// # Errors
    /// When the file is damaged, or cannot even be read after a failed write: then this queue must not go on.
    pub(super) fn apply(&mut self, commands: Vec<Command>, now_ms: i64) -> anyhow::Result<()> {
        let mut batch = Batch::default();
        let mut reads = Vec::new();
        let mut result = self.store.begin().context("cannot begin a transaction");
        for command in commands {
            match command {
                Command::Publish { events, reply } => {
                    let published = result.is_ok().then(|| self.publish(events, &mut batch));
                    settle_answer(&mut batch, &mut result, published, reply);
                }
                Command::Reserve { number, event, reply } => {
                    let reserved = result.is_ok().then(|| self.reserve(number, event, &mut batch));
                    settle_answer(&mut batch, &mut result, reserved, reply);
                }
                Command::EndReservation { number, is_wanted } => self.end_reservation(number, is_wanted, &mut batch),
                Command::Settle { epoch, settlements, reply } => {
                    let settled = result.is_ok().then(|| self.settle(epoch, &settlements, &mut batch, now_ms));
                    settle_answer(&mut batch, &mut result, settled, reply);
                }
                Command::Bury { dead, reply } => {
                    let buried = result.is_ok().then(|| self.bury_all(dead, now_ms));
                    settle_answer(&mut batch, &mut result, buried, reply);
                }
                Command::Redrive { selection, reply } => {
                    let redriven = result.is_ok().then(|| self.redrive(&selection, &mut batch));
                    settle_answer(&mut batch, &mut result, redriven, reply);
                }
                Command::Check { reply } => {
                    let checked = result.is_ok().then(|| self.check());
                    settle_answer(&mut batch, &mut result, checked, reply);
                }
                Command::DropDead { selection, reply } => {
                    let dropped = result.is_ok().then(|| self.drop_dead(&selection, &mut batch));
                    settle_answer(&mut batch, &mut result, dropped, reply);
                }
                read_only => reads.push(read_only),
            }
        }
        let result = result.and_then(|()| self.finish(&mut batch, now_ms));
        self.in_trouble = result.is_err();
        if let Err(error) = &result {
            self.store.roll_back();
            self.undo(&mut batch)?;
            tracing::error!("the queue cannot write: {error:#}");
        }
        for answer in batch.answers {
            answer(result.as_ref().map(drop));
        }
        for read in reads {
            self.read(read);
        }
        fail_if_damaged(result)
    }

    /// The last statements of a transaction: due messages, all rows that it takes and adds, event ids, counts; then
    /// the commit.
    fn finish(&mut self, batch: &mut Batch, now_ms: i64) -> anyhow::Result<()> {
        self.move_due(batch, now_ms)?;
        self.store.delete_all(&batch.removed)?;
        self.store.insert_all(&batch.added)?;
        let minute = now_ms / 60_000;
        let row = if batch.keys.is_empty() { None } else { Some(self.store.remember(minute, &batch.keys)?) };
        for &lane_id in &batch.lanes {
            if let Some(lane) = self.lanes.get(&lane_id) {
                self.store.set_counts(lane_id, lane.ready, lane.delayed)?;
            }
        }
        if row.is_some()
            && let Some(last) = self.dedupe.expire(minute)
        {
            self.store.forget(last)?;
        }
        self.store.commit().context("cannot commit")?;
        if let Some(row) = row {
            self.dedupe.insert(row, minute, batch.keys.drain(..));
        }
        Ok(())
    }

    /// Brings memory back to what the file says after a roll-back.
    fn undo(&mut self, batch: &mut Batch) -> anyhow::Result<()> {
        for (epoch, number, held) in batch.released.drain(..) {
            if let Some(subscriber) = self.subscribers.get_mut(&epoch) {
                subscriber.held.insert(number, held);
            }
        }
        self.undo_reservations(batch);
        let stored = self.store.lanes().context("cannot read the queue file after a failed write")?;
        let known: HashSet<i64> = stored.iter().map(|lane| lane.lane_id).collect();
        self.lanes.retain(|lane_id, _| known.contains(lane_id));
        self.lane_ids.retain(|_, lane_id| known.contains(lane_id));
        for lane in stored {
            if let Some(state) = self.lanes.get_mut(&lane.lane_id) {
                (state.ready, state.delayed) = (lane.ready, lane.delayed);
            }
        }
        self.next_due_ms = self.store.next_due()?;
        self.dead = self.store.dead_counts()?.into_iter().collect();
        Ok(())
    }

    /// Empties the write-ahead log into the file; when that fails the log stays, and nothing is lost.
    pub(super) fn empty_log(&self, then: Log) {
        if let Err(error) = self.store.empty_log(then) {
            tracing::warn!("cannot empty the queue's write-ahead log: {error}");
        }
    }

    fn remove(&mut self, lane_id: i64, key: i64, batch: &mut Batch) {
        self.count(lane_id, batch, |lane| lane.ready = lane.ready.saturating_sub(1));
        batch.removed.push(key);
    }

    fn count(&mut self, lane_id: i64, batch: &mut Batch, change: impl FnOnce(&mut LaneState)) {
        if let Some(lane) = self.lanes.get_mut(&lane_id) {
            change(lane);
            batch.lanes.insert(lane_id);
        }
    }

    fn lane_id(&mut self, tenant: &TenantId, lane: Lane) -> rusqlite::Result<i64> {
        if let Some(&lane_id) = self.lane_ids.get(&(tenant.clone(), lane)) {
            return Ok(lane_id);
        }
        let lane_id = self.store.add_lane(tenant, lane)?;
        let first = key_range(lane_id).start;
        self.lane_ids.insert((tenant.clone(), lane), lane_id);
        self.lanes.insert(
            lane_id,
            LaneState {
                tenant: tenant.clone(),
                lane,
                next_key: first,
                cursor: first,
                returned: BTreeSet::new(),
                reserved: HashSet::new(),
                first_own_key: first,
                ready: 0,
                delayed: 0,
            },
        );
        Ok(lane_id)
    }
}

/// What a transaction has gathered so far.
#[derive(Default)]
struct Batch {
    answers: Vec<Answer>,
    keys: Vec<u64>,
    key_set: HashSet<u64>,
    added: Vec<StoredMessage>,
    removed: Vec<i64>,
    lanes: BTreeSet<i64>,
    released: Vec<(u64, u64, Held)>,
    /// The numbers of its reservations, and the messages whose reservations it takes back.
    reserved: Vec<u64>,
    taken_back: Vec<(i64, i64)>,
    /// What the file's rows took before this transaction, where that was asked.
    used_bytes: Option<u64>,
}

/// The file failed, or the command was refused, or it is done once the transaction is.
type Attempted<T> = rusqlite::Result<Result<T, QueueError>>;

fn settle_answer<T: Send + 'static>(
    batch: &mut Batch,
    result: &mut anyhow::Result<()>,
    attempted: Option<Attempted<T>>,
    reply: Reply<T>,
) {
    let staged = match attempted {
        Some(Ok(staged)) => Some(staged),
        Some(Err(error)) => {
            *result = Err(anyhow::Error::new(error).context("cannot change the queue file"));
            None
        }
        None => None,
    };
    batch.answers.push(Box::new(move |committed| {
        let answer = match (staged, committed) {
            (Some(Err(refused)), _) => Err(refused),
            (Some(Ok(done)), Ok(())) => Ok(done),
            (_, Err(error)) => Err(unavailable(format!("{error:#}"))),
            (None, Ok(())) => Err(unavailable("the command was not tried".to_owned())),
        };
        // The one who asked may have gone away.
        drop(reply.send(answer));
    }));
}

fn unavailable(text: String) -> QueueError {
    QueueError::Unavailable(anyhow::Error::msg(text))
}

/// A damaged file ends the queue; anything else may get better by itself.
fn fail_if_damaged(result: anyhow::Result<()>) -> anyhow::Result<()> {
    match result {
        Err(error) if sqlite::is_damage(&error) => Err(error),
        _ => Ok(()),
    }
}
