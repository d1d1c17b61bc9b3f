//! A burst of messages about one user costs at most two steps: one that runs, one more that starts after all came.

use std::collections::HashMap;

use crate::model::UserId;
use crate::queue::Delivery;

/// What waits for each user whose step runs.
#[derive(Default)]
pub(super) struct Coalescer {
    waiting: HashMap<UserId, Vec<Delivery>>,
}

impl Coalescer {
    /// Takes a delivery in: `Some` starts a step for it now, `None` keeps it until the running one has ended.
    pub(super) fn arrived(&mut self, delivery: Delivery) -> Option<Vec<Delivery>> {
        if let Some(waiting) = self.waiting.get_mut(&delivery.event.user) {
            waiting.push(delivery);
            return None;
        }
        self.waiting.insert(delivery.event.user.clone(), Vec::new());
        Some(vec![delivery])
    }

    /// A user's step has ended: what came meanwhile starts the next, together.
    pub(super) fn finished(&mut self, user: &UserId) -> Option<Vec<Delivery>> {
        let waiting = self.waiting.remove(user)?;
        if waiting.is_empty() {
            return None;
        }
        self.waiting.insert(user.clone(), Vec::new());
        Some(waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{EventId, LoginEvent, Reason, TenantId};
    use crate::queue::DeliveryTag;

    fn delivery(user: &str, number: u64) -> Delivery {
        let event = LoginEvent {
            tenant: TenantId::default_tenant(),
            user: UserId::parse(user).unwrap(),
            id: EventId::parse("h").unwrap(),
            at: None,
            login_at: None,
            reason: Reason::Login,
            accepted_at: None,
        };
        Delivery { tag: DeliveryTag { epoch: 1, number }, event, attempt: 1, redelivered: false }
    }

    #[test]
    fn a_burst_costs_two_steps_and_the_second_starts_after_all_came() {
        let mut coalescer = Coalescer::default();
        assert_eq!(coalescer.arrived(delivery("ann", 1)).map(|d| d.len()), Some(1));
        for number in 2..=50 {
            assert_eq!(coalescer.arrived(delivery("ann", number)), None);
        }
        assert_eq!(coalescer.arrived(delivery("bob", 51)).map(|d| d.len()), Some(1));
        let ann = UserId::parse("ann").unwrap();
        assert_eq!(coalescer.finished(&ann).map(|d| d.len()), Some(49));
        assert_eq!(coalescer.finished(&ann), None);
        assert_eq!(coalescer.arrived(delivery("ann", 52)).map(|d| d.len()), Some(1));
    }
}
