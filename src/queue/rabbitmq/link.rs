//! One connection, kept alive: connect, say so, run, and on any error drop all, wait, again.
//!
//! The client's own recovery is off: when its attempts are used up it goes silent, and confirms never end.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::StreamExt as _;
use lapin::tcp::{OwnedIdentity, OwnedTLSConfig};
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Connection, ConnectionProperties, Event};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::topology;
use super::trouble::Trouble;
use crate::config::RabbitmqConfig;
use crate::model::TenantId;
use crate::retry;

/// How long a connection may take to open, TLS and login included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long declaring or looking at the topology may take: some steps for each tenant. A broker that says nothing at all
/// is found out by its missing heartbeats before.
const PREPARE_TIMEOUT: Duration = Duration::from_mins(1);
/// How often both sides must be heard of, in seconds.
const HEARTBEAT_SECONDS: u16 = 10;
/// How often a connection is asked whether it still stands, should it die without an event.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long closing may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Where the broker is and who we are, ready to connect.
#[derive(Clone)]
pub(super) struct Target {
    uris: Vec<AMQPUri>,
    tls: Arc<OwnedTLSConfig>,
}

impl Target {
    /// # Errors
    /// When a URL is none, or a file cannot be read. No password is in the text.
    pub(super) fn new(config: &RabbitmqConfig) -> anyhow::Result<Self> {
        let uris: Vec<_> =
            config.urls.iter().map(|url| uri(url, config.password.as_ref())).collect::<Result<_, _>>()?;
        let user = |uri: &AMQPUri| uri.authority.userinfo.username.clone();
        // Messages name their user, and a broker takes none that names another.
        let users: BTreeSet<String> = uris.iter().map(user).collect();
        anyhow::ensure!(users.len() <= 1, "queue.rabbitmq.url names several users; all its hosts need the same");
        Ok(Self { uris, tls: Arc::new(tls(config)?) })
    }

    /// The name that the broker knows us by, which it lets no message claim falsely.
    pub(super) fn user(&self) -> &str {
        self.uris.first().map_or("", |uri| uri.authority.userinfo.username.as_str())
    }

    /// Hosts, port and virtual host, for people.
    pub(super) fn shown(&self) -> String {
        self.places().join(", ")
    }

    /// The same, one by one, in the order of their turns.
    pub(super) fn places(&self) -> Vec<String> {
        let shown = |uri: &AMQPUri| {
            let tls = if uri.scheme == AMQPScheme::AMQPS { " (TLS)" } else { "" };
            let host = &uri.authority.host;
            let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
            format!("{host}:{}{tls} virtual host `{}`", uri.authority.port, uri.vhost)
        };
        self.uris.iter().map(shown).collect()
    }

    /// Connects to the host whose turn it is.
    pub(super) async fn connect(&self, name: &str, turn: usize) -> Result<Connection, Trouble> {
        let uri = self.uris.get(turn % self.uris.len().max(1)).cloned();
        let uri = uri.ok_or_else(|| Trouble::new("no broker is configured", "set queue.rabbitmq.url"))?;
        let host = format!("connecting to {}:{}", uri.authority.host, uri.authority.port);
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let runtime = lapin::runtime::default_runtime()?;
        let connecting = Connection::connect_uri_with_config(uri, properties, (*self.tls).clone(), runtime);
        match timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(connected) => Ok(connected?),
            Err(_late) => Err(Trouble::timed_out(&host)),
        }
    }
}

fn tls(config: &RabbitmqConfig) -> anyhow::Result<OwnedTLSConfig> {
    let identity = match (&config.cert_file, &config.key_file) {
        (Some(cert), Some(key)) => {
            let (pem, key) = (pem::<CertificateDer<'_>>(cert, "certificate")?, pem::<PrivateKeyDer<'_>>(key, "key")?);
            Some(OwnedIdentity::PKCS8 { pem: pem.into_bytes(), key: key.into_bytes() })
        }
        _ => None,
    };
    let ca = config.ca_file.as_ref().map(|file| pem::<CertificateDer<'_>>(file, "certificate")).transpose()?;
    Ok(OwnedTLSConfig { identity, cert_chain: ca })
}

/// The text of a file that has one of these. The client would go on without a word when it has none.
fn pem<T: PemObject>(file: &Path, what: &str) -> anyhow::Result<String> {
    let shown = file.display();
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {shown}"))?;
    anyhow::ensure!(T::from_pem_slice(text.as_bytes()).is_ok(), "{shown} has no {what} in PEM form");
    Ok(text)
}

fn uri(url: &SecretString, password: Option<&SecretString>) -> anyhow::Result<AMQPUri> {
    let parsed: Result<AMQPUri, String> = url.expose_secret().parse();
    let mut uri = parsed.map_err(|error| anyhow::anyhow!("queue.rabbitmq.url is no AMQP URL: {error}"))?;
    // The client takes an IPv6 address for no host at all, and would go to `localhost`.
    let host = url.expose_secret().parse::<http::Uri>().ok().and_then(|url| url.host().map(str::to_owned));
    if let Some(address) = host.as_deref().and_then(|host| host.strip_prefix('[')?.strip_suffix(']')) {
        address.clone_into(&mut uri.authority.host);
    }
    uri.query.heartbeat = Some(HEARTBEAT_SECONDS);
    if let Some(password) = password {
        password.expose_secret().clone_into(&mut uri.authority.userinfo.password);
    }
    Ok(uri)
}

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
        match timeout(PREPARE_TIMEOUT, self.prepare(&connection)).await {
            Ok(prepared) => prepared.map(|()| connection),
            Err(_late) => Err(Trouble::timed_out("declaring the topology")),
        }
    }

    async fn prepare(&self, connection: &Connection) -> Result<(), Trouble> {
        if self.declare {
            topology::declare(connection, &self.tenants).await
        } else {
            topology::look(connection, &self.tenants).await
        }
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
        let trouble = loop {
            tokio::select! {
                () = stop.cancelled() => break Trouble::new("we stop", "nothing"),
                event = events.next() => match event {
                    Some(Event::ConnectionBlocked(why)) => self.note_blocked(Some(&why)),
                    Some(Event::ConnectionUnblocked) => self.note_blocked(None),
                    Some(Event::Error(error)) => break error.into(),
                    Some(_) => {}
                    None => break Trouble::new("the connection ended", "see the broker's log"),
                },
                _asked = restarts.changed() => {
                    break Trouble::new("the connection went silent", "see the broker's log");
                }
                _tick = look.tick() => if !connection.status().connected() {
                    break Trouble::new("the connection was lost", "see the broker's log");
                },
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

#[cfg(test)]
mod tests {
    use super::*;

    fn target(urls: &[&str]) -> anyhow::Result<Target> {
        Target::new(&config(urls))
    }

    fn config(urls: &[&str]) -> RabbitmqConfig {
        RabbitmqConfig {
            urls: urls.iter().map(|url| SecretString::from(*url)).collect(),
            password: Some("planted-password".into()),
            ca_file: None,
            cert_file: None,
            key_file: None,
            declare: true,
            confirm_timeout: CONNECT_TIMEOUT,
            publish_channels: 1,
            spool_bytes_max: 1,
        }
    }

    #[test]
    fn a_file_for_tls_that_does_not_hold_what_it_should_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &[u8]| {
            std::fs::write(folder.path().join(name), text).unwrap();
            folder.path().join(name)
        };
        for (ca_file, expected) in [
            (folder.path().join("none.pem"), "cannot read "),
            (file("empty.pem", b""), "empty.pem has no certificate in PEM form"),
            (
                file("key.pem", b"-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n"),
                "key.pem has no certificate",
            ),
            (file("binary.pem", b"\xff\xfe"), "cannot read "),
        ] {
            let config = RabbitmqConfig { ca_file: Some(ca_file), ..config(&["amqps://rabbit"]) };
            let error = format!("{:#}", Target::new(&config).err().unwrap());
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_place_is_shown_as_it_is_meant_and_without_a_password() {
        for (url, place) in [
            ("amqp://worker:secret@rabbit", "rabbit:5672 virtual host `/`"),
            ("amqps://worker@10.0.0.1:1/%2f", "10.0.0.1:1 (TLS) virtual host `/`"),
            ("amqps://worker@[fd00::1]/soloist", "[fd00::1]:5671 (TLS) virtual host `soloist`"),
        ] {
            assert_eq!(target(&[url]).unwrap().places(), [place]);
        }
    }

    #[test]
    fn all_hosts_are_used_by_the_same_user() {
        assert_eq!(target(&["amqp://worker:a@one", "amqp://worker:b@two"]).unwrap().user(), "worker");
        let error = target(&["amqp://worker@one", "amqp://control@two"]).err().unwrap().to_string();
        assert!(error.contains("names several users") && !error.contains("planted"), "{error}");
    }
}
