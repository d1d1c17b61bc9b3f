//! One connection, kept alive: connect, say so, run, and on any error drop all, wait, again.
//!
//! The client's own recovery is off: when its attempts are used up it goes silent, and confirms never end.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::{Connection, Event};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::target::Target;
use super::topology;
use super::trouble::Trouble;
use crate::model::TenantId;
use crate::retry;

/// How long declaring or looking at the topology may take: some steps for each tenant. A broker that says nothing at all
/// is found out by its missing heartbeats before.
const PREPARE_TIMEOUT: Duration = Duration::from_mins(1);
/// How often a connection is asked whether it still stands, should it die without an event.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long closing may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// What is known of the connection.
#[derive(Clone)]
pub(super) enum State {
    Down(Arc<Trouble>),
    Up(Up),
}

#[derive(Clone)]
pub(super) struct Up {
    pub(super) connection: Arc<Connection>,
    /// The broker has an alarm: it reads nothing that we publish.
    pub(super) blocked: bool,
}

fn is_usable(state: &State) -> bool {
    matches!(state, State::Up(Up { blocked: false, .. }))
}

/// Keeps one connection up. [`Link::run`] does the work; [`Link::state`] tells the others.
#[derive(Clone)]
pub(super) struct Link {
    target: Target,
    name: String,
    /// What must be there before anybody sees the connection.
    tenants: Arc<BTreeSet<TenantId>>,
    /// Whether it is declared, or only looked for.
    declare: bool,
    state: watch::Sender<State>,
    /// Counts requests to begin anew, from those who find that the connection has gone silent.
    restarts: watch::Sender<u64>,
}

impl Link {
    pub(super) fn new(target: Target, name: String, tenants: Arc<BTreeSet<TenantId>>, declare: bool) -> Self {
        let trouble = Trouble::new("not connected yet", "wait a moment");
        Self {
            target,
            name,
            tenants,
            declare,
            state: watch::Sender::new(State::Down(Arc::new(trouble))),
            restarts: watch::Sender::new(0),
        }
    }

    pub(super) fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// The connection, if messages can be published on it now.
    pub(super) fn usable(&self) -> Option<Arc<Connection>> {
        match &*self.state.borrow() {
            State::Up(Up { connection, blocked: false }) => Some(Arc::clone(connection)),
            _ => None,
        }
    }

    pub(super) fn is_usable(&self) -> bool {
        is_usable(&self.state.borrow())
    }

    /// Waits until there is a connection. Cancel-safe.
    pub(super) async fn up(&self) -> Arc<Connection> {
        let mut state = self.state.subscribe();
        loop {
            if let State::Up(up) = &*state.borrow_and_update() {
                return Arc::clone(&up.connection);
            }
            if state.changed().await.is_err() {
                // The sender is ours, so this cannot be; waiting is all that is left.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits until messages can be published. Cancel-safe.
    pub(super) async fn until_usable(&self) {
        let mut state = self.state.subscribe();
        // The sender is ours, so it cannot be gone.
        state.wait_for(is_usable).await.ok();
    }

    /// Waits until the broker takes no messages although there is a connection. Cancel-safe.
    pub(super) async fn until_blocked(&self) {
        let mut state = self.state.subscribe();
        // The sender is ours, so it cannot be gone.
        state.wait_for(|state| matches!(state, State::Up(Up { blocked: true, .. }))).await.ok();
    }

    /// Drops the connection and makes a new one.
    pub(super) fn restart(&self) {
        self.restarts.send_modify(|restarts| *restarts += 1);
    }

    /// Keeps the connection until `stop`.
    pub(super) async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut failures = 0_u32;
        let mut turn = 0_usize;
        while !stop.is_cancelled() {
            let connected = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                connected = self.connect(turn) => connected,
            };
            let trouble = match connected {
                Ok(connection) => {
                    if failures > 0 {
                        tracing::info!("the broker answers again: {}", self.target.shown());
                    }
                    failures = 0;
                    let trouble = self.keep(connection, &stop).await;
                    if stop.is_cancelled() {
                        return Ok(());
                    }
                    trouble
                }
                Err(trouble) => trouble,
            };
            // Once an outage, not once an attempt.
            if failures == 0 {
                tracing::error!(
                    alarm = "broker",
                    "the broker cannot be used ({}): {trouble}. {}",
                    self.name,
                    trouble.remedy()
                );
            }
            self.state.send_replace(State::Down(Arc::new(trouble)));
            failures = failures.saturating_add(1);
            turn = turn.wrapping_add(1);
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(retry::reconnect_delay(failures)) => {}
            }
        }
        Ok(())
    }

    async fn connect(&self, turn: usize) -> Result<Connection, Trouble> {
        let connection = self.target.connect(&self.name, turn).await?;
        self.prepare(&connection).await.map(|()| connection)
    }

    async fn prepare(&self, connection: &Connection) -> Result<(), Trouble> {
        let prepared = async {
            if self.declare {
                topology::declare(connection, &self.tenants).await
            } else {
                topology::look(connection, &self.tenants).await
            }
        };
        let late = |_late| Err(Trouble::timed_out("declaring the topology"));
        timeout(PREPARE_TIMEOUT, prepared).await.unwrap_or_else(late)
    }

    /// Shows the connection to the others until it breaks or must stop.
    async fn keep(&self, connection: Connection, stop: &CancellationToken) -> Trouble {
        let mut events = connection.events_listener();
        let connection = Arc::new(connection);
        let mut restarts = self.restarts.subscribe();
        restarts.borrow_and_update();
        let blocked = connection.status().blocked();
        self.state.send_replace(State::Up(Up { connection: Arc::clone(&connection), blocked }));
        let mut look = tokio::time::interval(LOOK_INTERVAL);
        let mut declare_at = None;
        let trouble = loop {
            tokio::select! {
                () = stop.cancelled() => break Trouble::new("we stop", "nothing"),
                event = events.next() => match event {
                    Some(Event::ConnectionBlocked(why)) => self.note_blocked(Some(&why)),
                    Some(Event::ConnectionUnblocked) => self.note_blocked(None),
                    // Of one channel alone: its owner deals with it, and nobody else is disturbed.
                    Some(Event::Error(error)) if error.is_amqp_soft_error() => {
                        if error.to_string().contains("NOT_FOUND") {
                            declare_at.get_or_insert_with(|| Instant::now() + topology::GONE_WAIT);
                        }
                    }
                    Some(Event::Error(error)) => break error.into(),
                    Some(_) => {}
                    None => break Trouble::new("the connection ended", "see the broker's log"),
                },
                _asked = restarts.changed() => {
                    break Trouble::new("the connection went silent", "see the broker's log");
                }
                _tick = look.tick() => {
                    if !connection.status().connected() {
                        break Trouble::new("the connection was lost", "see the broker's log");
                    }
                    // What somebody has deleted is declared again.
                    if declare_at.take_if(|at| *at <= Instant::now()).is_some() && self.declare {
                        tokio::select! {
                            () = stop.cancelled() => break Trouble::new("we stop", "nothing"),
                            declared = self.prepare(&connection) => if let Err(trouble) = declared { break trouble },
                        }
                    }
                }
            }
        };
        self.state.send_replace(State::Down(Arc::new(trouble.clone())));
        timeout(CLOSE_TIMEOUT, connection.close(200, "done".into())).await.ok();
        trouble
    }

    fn note_blocked(&self, why: Option<&str>) {
        self.state.send_modify(|state| {
            if let State::Up(up) = state {
                up.blocked = why.is_some();
            }
        });
        if let Some(why) = why {
            tracing::error!(
                alarm = "broker_blocked",
                "the broker takes no messages ({}): {why}; give it room",
                self.name
            );
        } else {
            tracing::info!("the broker takes messages again ({})", self.name);
        }
    }
}
