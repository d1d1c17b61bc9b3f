//! Where the broker is and who we are, read from the configuration: URLs, password, files for TLS.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use lapin::tcp::{OwnedIdentity, OwnedTLSConfig};
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Connection, ConnectionProperties};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::time::timeout;

use super::trouble::Trouble;
use crate::config::RabbitmqConfig;

/// How long a connection may take to open, TLS and login included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often both sides must be heard of, in seconds.
const HEARTBEAT_SECONDS: u16 = 10;

/// Ready to connect.
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
