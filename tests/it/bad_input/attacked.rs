//! A service under attack: what it still does for others, and what the attack costs it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use soloist::sandbox::{Sandbox, SandboxConfig};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::support::process::{self, Serving, command};
use crate::support::soon;

/// The longest that a login's 202 may take while the service is attacked, on a machine that tests and attackers share.
const ANSWER_MAX: Duration = Duration::from_secs(20);
/// How long an attacker waits for a service that takes nothing more.
const ATTACKER_PATIENCE: Duration = Duration::from_secs(2);

/// The real binary in a process of its own, so that its memory can be told from the attacker's.
pub(super) struct Attacked {
    serving: Serving,
    sandbox: Sandbox,
    data_dir: TempDir,
    client: reqwest::Client,
    url: String,
    /// In KiB, before the attack.
    memory_before: u64,
}

impl Attacked {
    pub(super) async fn start(variables: &[(&str, &str)]) -> Self {
        let data_dir = tempfile::tempdir().unwrap();
        Self::start_in(data_dir, variables, reqwest::Client::builder(), "http://127.0.0.1").await
    }

    /// With a certificate of its own on the public listener.
    pub(super) async fn start_with_tls() -> Self {
        let data_dir = tempfile::tempdir().unwrap();
        let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let (cert, key) = (certificate_in(data_dir.path()), data_dir.path().join("key.pem"));
        std::fs::write(&cert, certified.cert.pem()).unwrap();
        std::fs::write(&key, certified.signing_key.serialize_pem()).unwrap();
        let variables = [
            ("SOLOIST_WEBHOOK__TLS_CERT", cert.to_str().unwrap()),
            ("SOLOIST_WEBHOOK__TLS_KEY", key.to_str().unwrap()),
        ];
        let trusted = reqwest::Certificate::from_pem(certified.cert.pem().as_bytes()).unwrap();
        let builder = reqwest::Client::builder().tls_certs_only([trusted]);
        Self::start_in(data_dir, &variables, builder, "https://localhost").await
    }

    async fn start_in(
        data_dir: TempDir,
        variables: &[(&str, &str)],
        client: reqwest::ClientBuilder,
        origin: &str,
    ) -> Self {
        let sandbox = Sandbox::start(SandboxConfig::default()).await.unwrap();
        let serving = Serving::start(command(data_dir.path(), &sandbox.url(), variables), data_dir.path()).await;
        let url = serving.webhook_url.replace("http://127.0.0.1", origin);
        Self::with(serving, sandbox, data_dir, client, url).await
    }

    /// A service that was started otherwise.
    pub(super) async fn of(serving: Serving, sandbox: Sandbox, data_dir: TempDir) -> Self {
        let url = serving.webhook_url.clone();
        Self::with(serving, sandbox, data_dir, reqwest::Client::builder(), url).await
    }

    async fn with(
        serving: Serving,
        sandbox: Sandbox,
        data_dir: TempDir,
        client: reqwest::ClientBuilder,
        url: String,
    ) -> Self {
        let client = client.no_proxy().timeout(ANSWER_MAX).build().unwrap();
        let mut attacked = Self { serving, sandbox, data_dir, client, url, memory_before: 0 };
        attacked.answers(50).await;
        attacked.memory_before = attacked.memory_kib();
        attacked
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.serving.webhook_url.split('/').nth(2).unwrap().parse().unwrap()
    }

    /// Logins of others are accepted, each by a connection of its own, and within the time.
    pub(super) async fn answers(&self, logins: usize) {
        for n in 0..logins {
            let body = serde_json::json!({ "HookName": "login", "Data": { "Uid": format!("user-{n}") } }).to_string();
            let asked = Instant::now();
            let request = self.client.post(&self.url).header("signature", process::signature(&body));
            let answer = request.header("connection", "close").body(body).send().await;
            let status = answer.map(|answer| answer.status().as_u16());
            assert!(matches!(status, Ok(202)), "after {:?} login {n} got {status:?}", asked.elapsed());
        }
    }

    /// What the attack has cost so far, in KiB of resident memory.
    pub(super) fn memory_grown_kib(&self) -> u64 {
        self.memory_kib().saturating_sub(self.memory_before)
    }

    fn memory_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.serving.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Waits until it has at least so many files open, connections included.
    pub(super) async fn has_open_files(&self, at_least: usize) {
        let folder = format!("/proc/{}/fd", self.serving.id());
        soon("the connections to be accepted", async {
            let mut pause = tokio::time::interval(Duration::from_millis(20));
            while std::fs::read_dir(&folder).unwrap().count() < at_least {
                pause.tick().await;
            }
        })
        .await;
    }

    /// A connection of an attacker, over TLS where the service speaks it, with ALPN for HTTP/2.
    pub(super) fn attacker(&self) -> Attacker {
        let certificate = certificate_in(self.data_dir.path());
        Attacker { addr: self.addr(), certificate: certificate.exists().then_some(certificate) }
    }

    /// What it logged; it must stop as asked.
    pub(super) async fn stop(self) -> Vec<String> {
        let (code, log) = self.serving.stop().await;
        assert_eq!(code, 0, "{log:?}");
        drop(self.sandbox);
        log
    }
}

fn certificate_in(folder: &Path) -> std::path::PathBuf {
    folder.join("cert.pem")
}

/// Where to connect, and how.
#[derive(Clone)]
pub(super) struct Attacker {
    addr: SocketAddr,
    certificate: Option<std::path::PathBuf>,
}

pub(super) trait Wire: Read + Write {}
impl<W: Read + Write> Wire for W {}

impl Attacker {
    /// Blocks, as all that attackers do.
    pub(super) fn connect(&self) -> Box<dyn Wire> {
        let tcp = TcpStream::connect(self.addr).unwrap();
        tcp.set_read_timeout(Some(ATTACKER_PATIENCE)).unwrap();
        tcp.set_write_timeout(Some(ATTACKER_PATIENCE)).unwrap();
        let Some(certificate) = &self.certificate else { return Box::new(tcp) };
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(certificate).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let name = ServerName::try_from("localhost").unwrap();
        Box::new(StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), tcp))
    }
}
