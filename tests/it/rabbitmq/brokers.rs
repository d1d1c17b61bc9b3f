//! Brokers to break. A start takes long, so the next test gets the one that the last has left in order.

use std::ops::Deref;
use std::sync::Mutex;

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::support::broker::{Broker, Vhost, rabbitmq_or_skip};

/// Each takes 140 MB, and two cores do not serve more.
const BROKERS_MAX: usize = 2;

static PLACES: Semaphore = Semaphore::const_new(BROKERS_MAX);
static IDLE: Mutex<Vec<Broker>> = Mutex::new(Vec::new());

/// A broker that belongs to one test for as long as this is held.
pub(crate) struct Lent {
    broker: Option<Broker>,
    _place: SemaphorePermit<'static>,
}

/// `None` where there is no RabbitMQ and none is required.
pub(crate) async fn broker_or_skip(test: &str) -> Option<Lent> {
    if !rabbitmq_or_skip(test) {
        return None;
    }
    let place = tokio::time::timeout(crate::support::broker::TURN_PATIENCE, PLACES.acquire());
    let place = place.await.expect("the other tests to end").unwrap();
    let idle = IDLE.lock().unwrap().pop();
    let broker = match idle {
        Some(broker) => broker,
        None => Broker::start().await,
    };
    Some(Lent { broker: Some(broker), _place: place })
}

impl Deref for Lent {
    type Target = Broker;

    fn deref(&self) -> &Broker {
        self.broker.as_ref().unwrap()
    }
}

impl Drop for Lent {
    /// A test that failed leaves it in a state that nobody knows.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            IDLE.lock().unwrap().extend(self.broker.take());
        }
    }
}

/// Where an installation's queues are: what its processes connect to, and what the test asks the broker about.
pub(super) struct Site {
    /// One URL, or a list as the configuration takes it.
    pub(super) url: String,
    pub(super) vhost: String,
}

impl From<Vhost> for Site {
    fn from(vhost: Vhost) -> Self {
        Self { url: vhost.url.clone(), vhost: vhost.name }
    }
}
