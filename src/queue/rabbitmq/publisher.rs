//! Publishing with confirms. A batch is the unit: one task a channel publishes what has gathered, awaits all
//! confirms, and only then answers those who wait.
//!
//! The client matches returned messages to confirms in the order they come, not by tag, so it may tell the wrong
//! message that it was returned. All returns of a batch have come when its last confirm has; so they are gathered
//! over the whole batch, and matched by message id.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::link::{Link, State};
use super::trouble::Trouble;

/// Messages that one batch takes; a request that is larger goes alone.
pub(super) const BATCH_MAX: usize = 256;
/// Requests that may wait for a channel.
const REQUESTS_MAX: usize = 16_384;

/// A message on its way to the broker.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    pub(super) exchange: &'static str,
    pub(super) routing_key: String,
    pub(super) message_id: String,
    pub(super) body: Vec<u8>,
    pub(super) properties: BasicProperties,
}

/// Why messages are not safe at the broker. They may be there all the same: publishing again is harmless.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum PublishError {
    #[error("the broker cannot be reached")]
    Down(#[source] Arc<Trouble>),
    #[error("the broker takes no messages now")]
    Blocked,
    #[error("no confirm within {0:?}")]
    Late(Duration),
    /// No queue takes it: its tenant's queue is not declared, or was deleted.
    #[error("no queue of the broker takes the message")]
    Unroutable,
    #[error("the broker refused the message: its queue is full, or has no majority")]
    Refused,
    #[error("publishing failed")]
    Failed(#[source] Trouble),
    #[error("too many messages wait to be published")]
    TooMany,
    #[error("publishing has stopped")]
    Stopped,
}

impl PublishError {
    /// Whether it says something of this message's queue alone, so that waiting for the broker mends nothing.
    pub(super) fn is_about_one_queue(&self) -> bool {
        match self {
            Self::Unroutable | Self::Refused => true,
            Self::Failed(trouble) => trouble.needs_a_person,
            _ => false,
        }
    }

    /// Whether those that follow would only wait for the same. Where the connection knows that it is down or blocked
    /// nobody waits, and where one queue refuses, the others may not.
    pub(super) fn is_slow(&self) -> bool {
        matches!(self, Self::Late(_) | Self::Failed(_) | Self::TooMany)
    }
}

struct Request {
    messages: Vec<Outgoing>,
    reply: oneshot::Sender<Result<(), PublishError>>,
}

#[derive(Clone)]
pub(super) struct Publisher {
    requests: mpsc::Sender<Request>,
    confirm_timeout: Duration,
    /// Told of each message that no queue took.
    unroutable: Arc<Notify>,
}

/// The publisher's working half, for [`PublisherTask::run`].
pub(super) struct PublisherTask {
    requests: mpsc::Receiver<Request>,
    link: Link,
    channels: usize,
    confirm_timeout: Duration,
}

impl Publisher {
    pub(super) fn new(link: Link, channels: usize, confirm_timeout: Duration) -> (Self, PublisherTask) {
        let (sender, requests) = mpsc::channel(REQUESTS_MAX);
        let publisher = Self { requests: sender, confirm_timeout, unroutable: Arc::default() };
        (publisher, PublisherTask { requests, link, channels: channels.max(1), confirm_timeout })
    }

    /// Returns when every message is confirmed, and none came back, or after the confirm timeout.
    pub(super) async fn publish(&self, messages: Vec<Outgoing>) -> Result<(), PublishError> {
        if messages.is_empty() {
            return Ok(());
        }
        let (reply, answer) = oneshot::channel();
        self.requests.try_send(Request { messages, reply }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => PublishError::TooMany,
            mpsc::error::TrySendError::Closed(_) => PublishError::Stopped,
        })?;
        let answered = match timeout(self.confirm_timeout, answer).await {
            Ok(answered) => answered.unwrap_or(Err(PublishError::Stopped)),
            Err(_late) => Err(PublishError::Late(self.confirm_timeout)),
        };
        if matches!(answered, Err(PublishError::Unroutable)) {
            self.unroutable.notify_one();
        }
        answered
    }

    /// Waits until a message was published that no queue took. Cancel-safe.
    pub(super) async fn until_unroutable(&self) {
        self.unroutable.notified().await;
    }
}

impl PublisherTask {
    /// Publishes until `stop`, on as many channels at once as are configured.
    pub(super) async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut idle: Vec<Option<Channel>> = vec![None; self.channels];
        let mut batches: JoinSet<Option<Channel>> = JoinSet::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                Some(ended) = batches.join_next() => idle.push(ended?),
                first = self.requests.recv(), if !idle.is_empty() => {
                    let Some(first) = first else { return Ok(()) };
                    let batch = self.gather(first);
                    let channel = idle.pop().flatten();
                    let (link, confirm_timeout) = (self.link.clone(), self.confirm_timeout);
                    batches.spawn(async move { publish_batch(&link, channel, batch, confirm_timeout).await });
                }
            }
        }
    }

    fn gather(&mut self, first: Request) -> Vec<Request> {
        let mut weight = 0;
        let mut batch = Vec::new();
        let mut next = Some(first);
        while let Some(request) = next {
            // Who waited too long in front of the channels has put the messages elsewhere.
            if !request.reply.is_closed() {
                weight += request.messages.len();
                batch.push(request);
            }
            next = if weight < BATCH_MAX { self.requests.try_recv().ok() } else { None };
        }
        batch
    }
}

/// Publishes a batch and answers all of it. Returns the channel if it can be used again.
async fn publish_batch(
    link: &Link,
    channel: Option<Channel>,
    mut batch: Vec<Request>,
    confirm_timeout: Duration,
) -> Option<Channel> {
    let result = tokio::select! {
        biased;
        result = timeout(confirm_timeout, attempt(link, channel, &mut batch)) => {
            result.unwrap_or(Err(PublishError::Late(confirm_timeout)))
        }
        // The broker says so only after the first message that it does not read.
        () = link.until_blocked() => Err(PublishError::Blocked),
    };
    match result {
        Ok((channel, outcome)) => {
            for (request, refused) in batch.into_iter().zip(outcome.refused) {
                let is_back = request.messages.iter().any(|message| outcome.returned.contains(&message.message_id));
                let answer = match (is_back, refused) {
                    (true, _) => Err(PublishError::Unroutable),
                    (false, true) => Err(PublishError::Refused),
                    (false, false) => Ok(()),
                };
                // The one who asked may have gone away.
                request.reply.send(answer).ok();
            }
            Some(channel)
        }
        Err(error) => {
            for request in batch {
                request.reply.send(Err(error.clone())).ok();
            }
            // A late confirm on a channel that is used again would be taken for another message's.
            None
        }
    }
}

/// What the broker said of a whole batch.
struct BatchOutcome {
    /// Ids of the messages that came back, of whichever request.
    returned: HashSet<String>,
    /// Of each request, whether the broker refused one of its messages: that it says by tag, so it is sure.
    refused: Vec<bool>,
}

/// Puts the whole batch on its way before it waits for any of it: to wait until each message is written would cost two
/// switches between threads a message. What the messages are made of is used up.
async fn attempt(
    link: &Link,
    channel: Option<Channel>,
    batch: &mut [Request],
) -> Result<(Channel, BatchOutcome), PublishError> {
    let connection = match link.state() {
        State::Down(trouble) => return Err(PublishError::Down(trouble)),
        State::Up(up) if up.blocked => return Err(PublishError::Blocked),
        State::Up(up) => up.connection,
    };
    let failed = |error: lapin::Error| PublishError::Failed(error.into());
    let channel = if let Some(channel) = channel.filter(|channel| channel.status().connected()) {
        channel
    } else {
        let channel = connection.create_channel().await.map_err(failed)?;
        channel.confirm_select(ConfirmSelectOptions::default()).await.map_err(failed)?;
        channel
    };
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let publish = async |at: usize, message: &mut Outgoing| {
        let (exchange, key) = (message.exchange.into(), std::mem::take(&mut message.routing_key).into());
        let properties = std::mem::take(&mut message.properties);
        let confirm = channel.basic_publish(exchange, key, options, &message.body, properties).await?;
        lapin::Result::Ok((at, confirm.await?))
    };
    let mut outcome = BatchOutcome { returned: HashSet::new(), refused: vec![false; batch.len()] };
    let requests = batch.iter_mut().enumerate();
    let messages = requests.flat_map(|(at, request)| request.messages.iter_mut().map(move |message| (at, message)));
    for (at, confirmation) in try_join_all(messages.map(|(at, message)| publish(at, message))).await.map_err(failed)? {
        if !confirmation.is_ack()
            && let Some(refused) = outcome.refused.get_mut(at)
        {
            *refused = true;
        }
        if let Some(message) = confirmation.take_message() {
            let id = message.delivery.properties.message_id().as_ref().map(ToString::to_string);
            outcome.returned.insert(id.unwrap_or_default());
        }
    }
    Ok((channel, outcome))
}
