//! Real RabbitMQ brokers for tests: who may have one, and the one that all tests of a run share.

mod admin;
mod cluster;
mod home;
mod node;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard, OnceCell};

pub(crate) use admin::{binary, resource};
pub(crate) use cluster::Cluster;
pub(crate) use home::free_port;
pub(crate) use node::Broker;

use super::report;

/// The scripts themselves: the wrappers in `/usr/sbin` change the user.
const PROGRAMS: &str = "/usr/lib/rabbitmq/bin";

/// The longest that a test waits for a broker that is not its own: as long as all other tests together may take.
pub(crate) const TURN_PATIENCE: Duration = Duration::from_mins(10);

static SHARED: OnceCell<SharedBroker> = OnceCell::const_new();

/// Our own beside one that was given.
static OWN: OnceCell<Broker> = OnceCell::const_new();

/// Whose turn it is on a broker that was given to us with a single vhost.
static TURN: Mutex<()> = Mutex::const_new(());

/// Whether this machine can start brokers. Without one a test passes, saying so, unless brokers are `required`.
pub(crate) fn rabbitmq_or_skip(test: &str) -> bool {
    let is_there = Path::new(PROGRAMS).join("rabbitmq-server").exists();
    if !is_there_or_skip(test, is_there, requirement().as_deref()) {
        report::skipped(test, "no rabbitmq-server here");
    }
    is_there
}

/// The same for tests that only need [`shared_broker`], which may be one that was given.
pub(crate) fn shared_rabbitmq_or_skip(test: &str) -> bool {
    given_url().is_some() || rabbitmq_or_skip(test)
}

pub(crate) fn is_there_or_skip(test: &str, is_there: bool, requirement: Option<&str>) -> bool {
    assert!(
        is_there || requirement != Some("required"),
        "{test} needs RabbitMQ: install rabbitmq-server, or run `cargo test` without SOLOIST_TEST_RABBITMQ=required"
    );
    is_there
}

fn requirement() -> Option<String> {
    std::env::var_os("SOLOIST_TEST_RABBITMQ").map(|value| value.into_string().unwrap())
}

fn given_url() -> Option<String> {
    let url = std::env::var_os("AMQP_URL").map(|value| value.into_string().unwrap());
    url.filter(|url| !url.is_empty())
}

/// The broker that tests share which break nothing: started by the first that asks, ended with the test binary.
pub(crate) async fn shared_broker() -> &'static SharedBroker {
    SHARED
        .get_or_init(async || match given_url() {
            Some(url) => SharedBroker::Given(url),
            None => SharedBroker::Own(Broker::start().await),
        })
        .await
}

/// A broker for tests that make accounts or ask what only its owner may: the shared one, unless that is somebody else's.
pub(crate) async fn own_broker(test: &str) -> Option<&'static Broker> {
    if !rabbitmq_or_skip(test) {
        return None;
    }
    match shared_broker().await {
        SharedBroker::Own(broker) => Some(broker),
        SharedBroker::Given(_) => Some(OWN.get_or_init(Broker::start).await),
    }
}

pub(crate) enum SharedBroker {
    Own(Broker),
    /// The URL of somebody else's, in `AMQP_URL`.
    Given(String),
}

impl SharedBroker {
    /// An empty vhost; on a given broker the only one, for one test at a time.
    pub(crate) async fn fresh_vhost(&self) -> Vhost {
        match self {
            Self::Own(broker) => broker.fresh_vhost().await,
            Self::Given(url) => {
                let turn = tokio::time::timeout(TURN_PATIENCE, TURN.lock()).await.expect("the other tests to end");
                let name = url.rsplit_once('/').map_or("/", |(_, path)| path).replace("%2f", "/").replace("%2F", "/");
                Vhost { url: url.clone(), name, turn: Some(turn) }
            }
        }
    }

    /// The broker itself, for what only its owner may ask; `None` when it is somebody else's.
    pub(crate) fn own(&self) -> Option<&Broker> {
        match self {
            Self::Own(broker) => Some(broker),
            Self::Given(_) => None,
        }
    }
}

/// A vhost that belongs to one test for as long as this is held.
pub(crate) struct Vhost {
    pub(crate) url: String,
    pub(crate) name: String,
    turn: Option<MutexGuard<'static, ()>>,
}

impl Vhost {
    /// Whether earlier tests have used it, so that what they left must be removed first.
    pub(crate) fn is_shared(&self) -> bool {
        self.turn.is_some()
    }

    /// The same vhost by another way, such as a proxy.
    pub(crate) fn url_through(&self, addr: SocketAddr) -> String {
        let (user, rest) = self.url.split_once('@').unwrap();
        let (_, path) = rest.split_once('/').unwrap();
        format!("{user}@{addr}/{path}")
    }
}
