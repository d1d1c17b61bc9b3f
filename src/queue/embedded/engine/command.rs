//! What the queue's thread is asked to do.

use tokio::sync::{mpsc, oneshot};

use crate::model::{Lane, LoginEvent, Reason, TenantId};
use crate::queue::dedupe;
use crate::queue::embedded::body::StoredBody;
use crate::queue::embedded::{Buried, Usage};
use crate::queue::{DeadLetter, Delivery, DeliveryTag, LaneStats, Published, QueueError, Selection, Settlement};

pub(in crate::queue::embedded) type Reply<T> = oneshot::Sender<Result<T, QueueError>>;

/// An event on its way in, encoded by its publisher so that the queue's thread does not have to.
pub(in crate::queue::embedded) struct Incoming {
    pub(in crate::queue::embedded) tenant: TenantId,
    pub(in crate::queue::embedded) lane: Lane,
    pub(in crate::queue::embedded) body: StoredBody,
    /// `None` bypasses the dedupe.
    pub(in crate::queue::embedded) dedupe_key: Option<u64>,
}

impl Incoming {
    pub(in crate::queue::embedded) fn of(event: &LoginEvent) -> Self {
        Self {
            tenant: event.tenant.clone(),
            lane: event.reason.lane(),
            body: StoredBody::of(event),
            dedupe_key: (event.reason == Reason::Login).then(|| dedupe::key(event)),
        }
    }
}

pub(in crate::queue::embedded) enum Command {
    Publish {
        events: Vec<Incoming>,
        reply: Reply<Published>,
    },
    /// Keeps an event back until it is known whether it is wanted: see [`crate::queue::Reserved`].
    Reserve {
        number: u64,
        event: Incoming,
        reply: Reply<()>,
    },
    EndReservation {
        number: u64,
        is_wanted: bool,
    },
    Settle {
        epoch: u64,
        settlements: Vec<(DeliveryTag, Settlement)>,
        reply: Reply<()>,
    },
    Subscribe {
        tenant: TenantId,
        lane: Lane,
        prefetch: usize,
        sink: mpsc::Sender<Delivery>,
        reply: Reply<u64>,
    },
    Close {
        epoch: u64,
        reply: Option<Reply<()>>,
    },
    Check {
        reply: Reply<()>,
    },
    Stats {
        reply: Reply<Vec<LaneStats>>,
    },
    Usage {
        reply: Reply<Usage>,
    },
    ListDead {
        selection: Selection,
        after: u64,
        limit: usize,
        reply: Reply<Vec<DeadLetter>>,
    },
    Bury {
        dead: Vec<Buried>,
        reply: Reply<()>,
    },
    Redrive {
        selection: Selection,
        reply: Reply<u64>,
    },
    DropDead {
        selection: Selection,
        reply: Reply<u64>,
    },
    Stop,
}

impl Command {
    /// How many events it adds to a transaction.
    pub(in crate::queue::embedded) fn weight(&self) -> usize {
        match self {
            Self::Publish { events, .. } => events.len(),
            Self::Settle { settlements, .. } => settlements.len(),
            Self::Bury { dead, .. } => dead.len(),
            _ => 1,
        }
    }
}
