//! The two lanes of a tenant: logins first, background at least every tenth turn.

use std::sync::Arc;

use crate::model::{Lane, TenantId};
use crate::queue::{Delivery, DeliveryTag, Queue, QueueError, Settlement, Subscription};

/// The background lane is asked first every so many deliveries.
const BACKGROUND_EVERY: u32 = 10;

/// Subscriptions to both lanes.
#[derive(Clone)]
pub(super) struct Lanes {
    logins: Arc<dyn Subscription>,
    background: Arc<dyn Subscription>,
}

impl Lanes {
    pub(super) async fn open(queue: &dyn Queue, tenant: &TenantId, prefetch: usize) -> Result<Self, QueueError> {
        Ok(Self {
            logins: queue.subscribe(tenant, Lane::Logins, prefetch).await?,
            background: queue.subscribe(tenant, Lane::Background, prefetch).await?,
        })
    }

    /// Logins first; the background lane first at every tenth turn, so that it gets its tenth.
    pub(super) async fn receive(&self, turn: u32) -> Result<Delivery, QueueError> {
        let (first, second) = if turn % BACKGROUND_EVERY == BACKGROUND_EVERY - 1 {
            (&self.background, &self.logins)
        } else {
            (&self.logins, &self.background)
        };
        tokio::select! {
            biased;
            delivery = first.receive() => delivery,
            delivery = second.receive() => delivery,
        }
    }

    /// Settles with the lane that each delivery came from. One that was given back meanwhile will be looked at once
    /// more, which is harmless.
    pub(super) async fn settle(
        &self,
        delivered: &[Delivery],
        settlements: &[(DeliveryTag, Settlement)],
    ) -> Result<(), QueueError> {
        for (lane, subscription) in [(Lane::Logins, &self.logins), (Lane::Background, &self.background)] {
            let of_lane = |tag: &DeliveryTag| delivered.iter().any(|d| d.tag == *tag && d.event.reason.lane() == lane);
            let part: Vec<_> = settlements.iter().filter(|(tag, _)| of_lane(tag)).copied().collect();
            if part.is_empty() {
                continue;
            }
            match subscription.settle(&part).await {
                // All or none were settled: those that are still ours must not wait behind those that are not.
                Err(QueueError::StaleTag) => settle_one_by_one(&**subscription, &part).await?,
                settled => settled?,
            }
        }
        Ok(())
    }

    pub(super) async fn close(self) -> Result<(), QueueError> {
        self.logins.close().await?;
        self.background.close().await
    }
}

async fn settle_one_by_one(
    subscription: &dyn Subscription,
    settlements: &[(DeliveryTag, Settlement)],
) -> Result<(), QueueError> {
    for settlement in settlements {
        match subscription.settle(std::slice::from_ref(settlement)).await {
            Ok(()) | Err(QueueError::StaleTag) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::model::{EventId, LoginEvent, Reason, UserId};
    use crate::queue::embedded::{EmbeddedConfig, EmbeddedQueue};

    fn event(reason: Reason, number: u32) -> LoginEvent {
        LoginEvent {
            tenant: TenantId::default_tenant(),
            user: UserId::parse("ann").unwrap(),
            id: EventId::parse(&format!("{}-{number}", reason.as_str())).unwrap(),
            at: None,
            login_at: None,
            reason,
            accepted_at: None,
        }
    }

    async fn lanes_with(folder: &tempfile::TempDir, reasons: &[(Reason, u32)]) -> (Lanes, EmbeddedQueue) {
        let (queue, _thread) = EmbeddedQueue::open(&EmbeddedConfig::in_dir(folder.path()), Clock::start()).unwrap();
        for &(reason, many) in reasons {
            let events: Vec<_> = (0..many).map(|number| event(reason, number)).collect();
            queue.publish(&events).await.unwrap();
        }
        let lanes = Lanes::open(&queue, &TenantId::default_tenant(), 200).await.unwrap();
        // Lanes fill while others run; which goes first shows only where both have something.
        while queue.stats().await.unwrap().iter().any(|lane| lane.ready > 0) {
            tokio::task::yield_now().await;
        }
        (lanes, queue)
    }

    #[tokio::test]
    async fn background_gets_a_tenth_under_a_flood_of_logins() {
        let folder = tempfile::tempdir().unwrap();
        let (lanes, _queue) = lanes_with(&folder, &[(Reason::Login, 150), (Reason::Sweep, 30)]).await;
        let mut background = 0;
        for turn in 0..100 {
            background += u32::from(lanes.receive(turn).await.unwrap().event.reason == Reason::Sweep);
        }
        assert!(background >= 10, "{background} of 100");
    }

    #[tokio::test]
    async fn what_is_still_held_is_settled_beside_what_was_given_back() {
        let folder = tempfile::tempdir().unwrap();
        let (lanes, queue) = lanes_with(&folder, &[(Reason::Login, 2)]).await;
        let mut deliveries = vec![lanes.receive(0).await.unwrap(), lanes.receive(0).await.unwrap()];
        deliveries[0].tag.epoch += 1_000;
        let settlements: Vec<_> = deliveries.iter().map(|delivery| (delivery.tag, Settlement::Ack)).collect();
        lanes.settle(&deliveries, &settlements).await.unwrap();
        lanes.close().await.unwrap();
        assert_eq!(queue.stats().await.unwrap().iter().map(|lane| lane.ready).sum::<u64>(), 1);
    }
}
