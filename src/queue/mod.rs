//! Stage 2: the queue port. Publish durably, hand out, settle.
//!
//! A message is a [`LoginEvent`]; handing it out twice, late or out of order is harmless, losing it is not.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use crate::message::Unreadable;
use crate::model::{Lane, LoginEvent, TenantId};

mod again;
mod dedupe;
pub mod embedded;
pub mod rabbitmq;
mod reserved;

pub use self::again::{login_look, look_again, look_at_once};
pub use self::reserved::Reserved;

/// Names one hand-over of a message. Only good with the subscription that gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeliveryTag {
    /// The subscription's (for a broker: the connection's) number; a tag of an older one is stale.
    pub epoch: u64,
    pub number: u64,
}

/// One hand-over of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    pub tag: DeliveryTag,
    pub event: LoginEvent,
    /// 1-based; counts hand-overs that were settled with [`Next::Retry`].
    pub attempt: u32,
    /// It may have been handed out before: a process ended, or a subscription gave it back. One that was reserved may look so.
    pub redelivered: bool,
}

/// What a message that comes again comes as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Attempt + 1, same lane.
    Retry,
    /// Attempt unchanged, same lane.
    Defer,
    /// Attempt 1, background lane.
    Recheck { rung: u8 },
}

/// How a delivery ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settlement {
    Ack,
    /// `after` may be rounded up to the backend's next rung.
    Again {
        after: Duration,
        next: Next,
        why: Why,
    },
    DeadLetter {
        why: Why,
    },
}

/// Why a message comes again or was given up: the code that people and metrics see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Why {
    Unavailable,
    Throttled,
    Unauthorized,
    UserUnknown,
    Refused,
    AttemptsExhausted,
    LoginNotVisible,
    SurplusLeft,
    DirectivesStale,
    LedgerUnavailable,
    /// Nobody grants a part of the revocation budget.
    NoGrant,
    StepDeadline,
    Stopping,
    Damaged,
    Unreadable,
    UnknownTenant,
    NoUser,
    TooLarge,
    MediaType,
    /// The broker gave it up: it was handed out too often without an end.
    DeliveryLimit,
}

impl Why {
    pub const ALL: [Self; 20] = [
        Self::Unavailable,
        Self::Throttled,
        Self::Unauthorized,
        Self::UserUnknown,
        Self::Refused,
        Self::AttemptsExhausted,
        Self::LoginNotVisible,
        Self::SurplusLeft,
        Self::DirectivesStale,
        Self::LedgerUnavailable,
        Self::NoGrant,
        Self::StepDeadline,
        Self::Stopping,
        Self::Damaged,
        Self::Unreadable,
        Self::UnknownTenant,
        Self::NoUser,
        Self::TooLarge,
        Self::MediaType,
        Self::DeliveryLimit,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::Throttled => "throttled",
            Self::Unauthorized => "unauthorized",
            Self::UserUnknown => "user_unknown",
            Self::Refused => "refused",
            Self::AttemptsExhausted => "attempts_exhausted",
            Self::LoginNotVisible => "login_not_visible",
            Self::SurplusLeft => "surplus_left",
            Self::DirectivesStale => "directives_stale",
            Self::LedgerUnavailable => "ledger_unavailable",
            Self::NoGrant => "no_grant",
            Self::StepDeadline => "step_deadline",
            Self::Stopping => "stopping",
            Self::Damaged => "damaged",
            Self::Unreadable => "unreadable",
            Self::UnknownTenant => "unknown_tenant",
            Self::NoUser => "no_user",
            Self::TooLarge => "too_large",
            Self::MediaType => "media_type",
            Self::DeliveryLimit => "delivery_limit",
        }
    }
}

impl From<&Unreadable> for Why {
    /// An event that is no login is acked by whoever reads it; it has a code only because every problem has one.
    fn from(unreadable: &Unreadable) -> Self {
        match unreadable {
            Unreadable::NotJson { .. } | Unreadable::BadField(_) | Unreadable::NotALogin => Self::Unreadable,
            Unreadable::NoUser(_) => Self::NoUser,
            Unreadable::TooLarge => Self::TooLarge,
            Unreadable::MediaType => Self::MediaType,
        }
    }
}

/// Where accepted events are safe now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    Journal,
    Broker,
}

impl Via {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Journal => "journal",
            Self::Broker => "broker",
        }
    }
}

/// What became of a publish: every event of it is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    pub via: Via,
    /// How many of the events had been accepted before and were not queued again.
    pub duplicates: usize,
}

#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// Nothing was changed; later may work.
    #[error("the queue is unavailable")]
    Unavailable(#[source] anyhow::Error),
    /// The queue of this process has ended: trying again is in vain.
    #[error("the queue has stopped")]
    Stopped,
    /// `queue.messages_max` messages wait; nothing was changed.
    #[error("the queue holds its limit of {messages_max} messages")]
    Full { messages_max: u64 },
    /// What waits takes as many bytes as it may; nothing was changed.
    #[error("the queue takes its limit of {bytes_max} bytes")]
    FullBytes { bytes_max: u64 },
    /// The delivery is no longer this subscription's to settle; nothing was changed.
    #[error("the delivery was given back or settled before")]
    StaleTag,
}

/// Keeps login events until they are settled.
#[async_trait]
pub trait Queue: Send + Sync {
    /// Returns only when every event is durable; on an error none is. Repeating is harmless.
    ///
    /// Events with [`crate::model::Reason::Login`] that were accepted in the dedupe window are counted, not queued.
    async fn publish(&self, events: &[LoginEvent]) -> Result<Published, QueueError>;

    /// Begins to make an event durable before it is known whether it is wanted. `None` where that cannot be taken back, or
    /// not now: then it is published once it is known. It is never taken for a duplicate.
    fn reserve(&self, _event: &LoginEvent) -> Option<Reserved> {
        None
    }

    /// Starts handing out a tenant's lane, at most `prefetch` unsettled deliveries at a time.
    async fn subscribe(
        &self,
        tenant: &TenantId,
        lane: Lane,
        prefetch: usize,
    ) -> Result<Arc<dyn Subscription>, QueueError>;

    /// Whether an event could be made durable now, found out by doing so with a scratch row.
    async fn check(&self) -> Result<(), QueueError>;

    async fn stats(&self) -> Result<Vec<LaneStats>, QueueError>;

    /// How the broker is, where there is one.
    async fn broker(&self) -> Option<BrokerHealth> {
        None
    }

    /// What waits at the broker for all tenants together, where that can be counted now.
    async fn broker_counts(&self) -> Option<BrokerCounts> {
        None
    }
}

/// How a backend's broker is, and the journal in front of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BrokerHealth {
    pub up: bool,
    /// It has an alarm and takes no messages.
    pub blocked: bool,
    /// Events go to the journal first, since the broker did not confirm.
    pub spooling: bool,
    /// Why it is not up.
    pub trouble: Option<String>,
    pub spool_bytes: u64,
    pub spool_messages: u64,
    pub spool_oldest_accepted_at: Option<Timestamp>,
}

/// Messages at the broker that belong to no tenant's queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BrokerCounts {
    /// They wait for their time.
    pub delayed: u64,
    /// They were given up, and wait for `control`.
    pub dead: u64,
}

impl BrokerHealth {
    /// Whether events go straight to it, and none waits in the journal.
    pub fn is_well(&self) -> bool {
        self.up && !self.blocked && !self.spooling && self.spool_messages == 0
    }
}

/// Hands out the messages of one tenant's lane.
#[async_trait]
pub trait Subscription: Send + Sync {
    /// Waits for the next delivery. Cancel-safe: dropping the wait loses nothing.
    async fn receive(&self) -> Result<Delivery, QueueError>;

    /// Ends deliveries, all or none. A delivery that is not settled is handed out again.
    async fn settle(&self, settlements: &[(DeliveryTag, Settlement)]) -> Result<(), QueueError>;

    /// Gives back what is unsettled, no attempt spent. Its tags are stale from then on.
    async fn close(&self) -> Result<(), QueueError>;
}

/// What waits in one lane of one tenant; what is only reserved does not. `None` where a backend cannot know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneStats {
    pub tenant: TenantId,
    pub lane: Lane,
    pub ready: u64,
    /// Handed out and not settled yet.
    pub unsettled: Option<u64>,
    pub delayed: Option<u64>,
    pub dead: Option<u64>,
    /// When the oldest message that waits to be handed out was accepted.
    pub oldest_accepted_at: Option<Timestamp>,
}

/// A message that was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    pub id: u64,
    pub tenant: TenantId,
    pub lane: Lane,
    pub why: String,
    pub attempt: u32,
    pub died_at: Timestamp,
    /// `None` where the message cannot be read; then its length and hash are all that is shown of it.
    pub event: Option<LoginEvent>,
    pub body_bytes: usize,
    pub body_sha256: [u8; 32],
    /// What is wrong with it, in words, where it came with that.
    pub problem: Option<String>,
}

/// Which dead letters are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    All,
    Why(String),
    Ids(Vec<u64>),
}

/// The messages that were given up, for people to look at, put back or drop.
#[async_trait]
pub trait DeadLetters: Send + Sync {
    /// Oldest first, from the first id above `after`, at most `limit`.
    async fn list(&self, selection: &Selection, after: u64, limit: usize) -> Result<Vec<DeadLetter>, QueueError>;

    /// Puts readable ones back into their lane with attempt 1; returns how many. An unreadable one stays.
    async fn redrive(&self, selection: &Selection) -> Result<u64, QueueError>;

    /// Deletes for good; returns how many.
    async fn discard(&self, selection: &Selection) -> Result<u64, QueueError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_code_of_its_own() {
        let codes: std::collections::BTreeSet<&str> = Why::ALL.iter().map(|why| why.as_str()).collect();
        assert_eq!(codes.len(), Why::ALL.len());
    }

    #[test]
    fn a_message_that_cannot_be_read_dies_with_the_code_of_its_problem() {
        let codes = [
            Unreadable::NotJson { line: 1, column: 1 },
            Unreadable::BadField("uid"),
            Unreadable::NoUser("`uid` is missing"),
            Unreadable::TooLarge,
            Unreadable::MediaType,
        ]
        .map(|unreadable| Why::from(&unreadable).as_str());
        assert_eq!(codes, ["unreadable", "unreadable", "no_user", "too_large", "media_type"]);
    }
}
