//! The client of the admin API: of the running instance, or of one that is made in this process where none runs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use axum::Router;
use axum::body::{Body, Bytes};
use clap::Args;
use http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt as _;
use reqwest::{Client, Url};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::ServiceExt as _;

use super::output;
use crate::app::{self, Core};
use crate::config::{self, Backend, Config, TelemetryConfig};
use crate::telemetry;

/// The longest answer that is read. A page of 1,000 dead letters has about 400 KiB.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// What the admin API may take on top of a step's own deadline.
const GRACE: Duration = Duration::from_secs(15);

/// How long an answer of many lines may take, to its end.
const LINES_TIMEOUT: Duration = Duration::from_hours(12);

/// Whether a command leaves data behind.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// It works on an empty folder of its own where there is no data folder yet.
    Read,
    Write,
}

/// Where a command's questions go. What they say is the same in both cases.
pub(super) enum AdminClient {
    /// A running instance holds the data folder.
    Running { client: Client, addr: SocketAddr, key: SecretString },
    /// Nobody does, so the parts are opened here.
    Local { router: Router, key: SecretString, core: Box<Core>, empty: Option<TempDir>, looked_in: PathBuf },
}

/// Who does something, and why. It is kept on record.
#[derive(Args)]
pub(super) struct Signed {
    /// Why; it is kept on record with your name
    #[arg(long)]
    reason: Option<String>,
}

impl Signed {
    /// The body of what changes something, with who does it and why.
    pub(super) fn sign(&self, mut body: Value) -> Value {
        if let Some(table) = body.as_object_mut() {
            table.insert("owner".to_owned(), json!(config::user_name()));
            table.insert("reason".to_owned(), json!(self.reason));
        }
        body
    }
}

/// One request to the admin API.
pub(super) struct Ask<'a> {
    method: Method,
    /// Segments behind `/admin/v1`.
    path: Vec<&'a str>,
    query: Vec<(&'static str, String)>,
    body: Option<Value>,
    patience: Option<Duration>,
}

impl<'a> Ask<'a> {
    pub(super) fn new<const N: usize>(method: Method, path: [&'a str; N]) -> Self {
        Self { method, path: path.to_vec(), query: Vec::new(), body: None, patience: None }
    }

    /// The same where the number of segments is not known.
    pub(super) fn at(method: Method, path: Vec<&'a str>) -> Self {
        Self { method, path, query: Vec::new(), body: None, patience: None }
    }

    pub(super) fn query(mut self, name: &'static str, value: Option<impl ToString>) -> Self {
        self.query.extend(value.map(|value| (name, value.to_string())));
        self
    }

    /// For what takes longer than a look at a user.
    pub(super) fn patient(self, patience: Duration) -> Self {
        Self { patience: Some(patience), ..self }
    }

    pub(super) fn body(self, body: Value) -> Self {
        Self { body: Some(body), ..self }
    }

    fn url(&self, base: &str) -> anyhow::Result<Url> {
        let mut url = Url::parse(base)?;
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.extend(["admin", "v1"]).extend(&self.path);
        }
        if !self.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&self.query);
        }
        Ok(url)
    }
}

impl AdminClient {
    pub(super) async fn open(config: &Config, access: Access) -> anyhow::Result<Self> {
        let is_new = !config.data_dir.join("queue.db").try_exists().with_context(|| {
            format!("cannot look into {}: run this as the user who runs soloist", config.data_dir.display())
        })?;
        let folder = (is_new && access == Access::Read)
            .then(|| tempfile::tempdir().context("cannot make a temporary folder"))
            .transpose()?;
        let decides = config.data_dir.join("directives.db").exists();
        if access == Access::Write && config.queue.backend == Backend::Rabbitmq && !decides {
            bail!(
                "{} is not the data folder of the control process, which alone knows what holds now: run this where \
                 `soloist serve --role control` runs",
                config.data_dir.display()
            );
        }
        let mut here = config.clone();
        if let Some(folder) = &folder {
            folder.path().clone_into(&mut here.data_dir);
        }
        // The parts log the cause of what their answers only sort.
        let logs = TelemetryConfig { log: "warn".to_owned(), ..config.telemetry.clone() };
        telemetry::set_up_logs(&logs).context("cannot set up logs")?;
        // Opening reads files, and a large queue takes a while.
        let opened = tokio::task::spawn_blocking(move || Core::open_unless_running(&here)).await?;
        let Some(core) = opened? else { return Self::running(config) };
        let key = SecretString::from(uuid::Uuid::new_v4().to_string());
        let router = core.admin_router(key.clone());
        Ok(Self::Local { router, key, core: Box::new(core), empty: folder, looked_in: config.data_dir.clone() })
    }

    fn running(config: &Config) -> anyhow::Result<Self> {
        let key = app::read_admin_key(&config.data_dir)?;
        let addr = app::read_admin_addr(&config.data_dir).unwrap_or(config.admin.listen);
        let timeout = config.worker.step_deadline + GRACE;
        let client = Client::builder().tls_certs_only([]).no_proxy().timeout(timeout).build();
        let client = client.context("cannot set up an HTTP client")?;
        Ok(Self::Running { client, addr: reachable(addr), key })
    }

    pub(super) async fn ask(&self, ask: Ask<'_>) -> anyhow::Result<Value> {
        let (status, mut body) = self.send(&ask).await?;
        let answer: Value = serde_json::from_slice(&body.whole().await?).unwrap_or(Value::Null);
        if status.is_success() { Ok(answer) } else { Err(refused(status, &answer)) }
    }

    /// Asks for lines of JSON and hands out each as it comes.
    pub(super) async fn lines(
        &self,
        ask: Ask<'_>,
        mut take: impl FnMut(&str) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let (status, mut body) = self.send(&ask.patient(LINES_TIMEOUT)).await?;
        if !status.is_success() {
            return Err(refused(status, &serde_json::from_slice(&body.whole().await?).unwrap_or(Value::Null)));
        }
        let mut begun: Vec<u8> = Vec::new();
        while let Some(piece) = body.piece().await? {
            begun.extend_from_slice(&piece);
            while let Some(end) = begun.iter().position(|byte| *byte == b'\n') {
                let rest = begun.split_off(end + 1);
                take(String::from_utf8_lossy(&begun).trim_end())?;
                begun = rest;
            }
        }
        anyhow::ensure!(begun.is_empty(), "the answer ended within a line: it is not whole");
        Ok(())
    }

    async fn send(&self, ask: &Ask<'_>) -> anyhow::Result<(StatusCode, AnswerBody)> {
        match self {
            Self::Running { client, addr, key } => {
                let mut request = client.request(ask.method.clone(), ask.url(&format!("http://{addr}"))?);
                if let Some(body) = &ask.body {
                    request = request.json(body);
                }
                if let Some(patience) = ask.patience {
                    request = request.timeout(patience);
                }
                let answer = request.bearer_auth(key.expose_secret()).send().await;
                let answer = answer.map_err(reqwest::Error::without_url).with_context(|| silent(*addr))?;
                Ok((answer.status(), AnswerBody::Far(Box::new(answer), *addr)))
            }
            Self::Local { router, key, .. } => {
                let answer = router.clone().oneshot(local_request(ask, key)?).await?;
                Ok((answer.status(), AnswerBody::Near(answer.into_body())))
            }
        }
    }

    /// Says so where there was no data folder to look into: nothing found would be taken for nothing there.
    pub(super) fn note_if_nothing_is_stored(&self) {
        if let Self::Local { empty: Some(_), looked_in, .. } = self {
            output::note(format_args!("there is no queue in {} yet: nothing has run there", looked_in.display()));
        }
    }

    /// Gives the data folder back.
    pub(super) async fn close(self) -> anyhow::Result<()> {
        match self {
            Self::Running { .. } => Ok(()),
            Self::Local { core, .. } => core.close().await.context("cannot close the queue"),
        }
    }
}

/// An answer that is read as it comes.
enum AnswerBody {
    Far(Box<reqwest::Response>, SocketAddr),
    Near(Body),
}

impl AnswerBody {
    async fn piece(&mut self) -> anyhow::Result<Option<Bytes>> {
        match self {
            Self::Far(answer, addr) => {
                let piece = answer.chunk().await.map_err(reqwest::Error::without_url);
                piece.with_context(|| silent(*addr))
            }
            Self::Near(body) => match body.frame().await {
                None => Ok(None),
                Some(frame) => {
                    let frame = frame.map_err(|error| anyhow!(error).context("the answer broke off"))?;
                    // An answer of ours has no trailers.
                    Ok(Some(frame.into_data().unwrap_or_default()))
                }
            },
        }
    }

    async fn whole(&mut self) -> anyhow::Result<Vec<u8>> {
        let mut whole = Vec::new();
        while let Some(piece) = self.piece().await? {
            whole.extend_from_slice(&piece);
            anyhow::ensure!(whole.len() <= ANSWER_BYTES_MAX, "the answer is longer than {ANSWER_BYTES_MAX} bytes");
        }
        Ok(whole)
    }
}

fn refused(status: StatusCode, answer: &Value) -> anyhow::Error {
    match answer.get("detail").and_then(Value::as_str) {
        _ if status == StatusCode::UNAUTHORIZED => {
            anyhow!("the running instance does not take the key in admin.key: restart it, which writes a new one")
        }
        Some(detail) => anyhow!("{detail}"),
        None => anyhow!("the admin API answered {status}"),
    }
}

fn local_request(ask: &Ask<'_>, key: &SecretString) -> anyhow::Result<Request<Body>> {
    let url = ask.url("http://localhost")?;
    let path = url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
    let mut request = Request::builder()
        .method(ask.method.clone())
        .uri(path)
        .header(header::HOST, "localhost")
        .header(header::AUTHORIZATION, format!("Bearer {}", key.expose_secret()));
    if ask.body.is_some() {
        request = request.header(header::CONTENT_TYPE, "application/json");
    }
    let body = ask.body.as_ref().map_or_else(Body::empty, |body| Body::from(body.to_string()));
    request.body(body).map_err(|error| anyhow!(error))
}

fn silent(addr: SocketAddr) -> String {
    format!(
        "soloist runs (it holds the lock of the data folder), but its admin API on {addr} does not answer; if it is \
         starting or stopping, try again, else restart it"
    )
}

/// An address that a listener is bound to, as a client on this machine reaches it.
pub(super) fn reachable(addr: SocketAddr) -> SocketAddr {
    let ip = match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, addr.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_encoded_into_its_path_and_query() {
        let ask =
            Ask::new(Method::GET, ["users", "a/b", "sessions"]).query("why", Some("a b&c")).query("id", None::<u8>);
        assert_eq!(
            ask.url("http://localhost").unwrap().as_str(),
            "http://localhost/admin/v1/users/a%2Fb/sessions?why=a+b%26c"
        );
    }

    #[test]
    fn a_wildcard_is_reached_by_loopback() {
        for (bound, reached) in [("0.0.0.0:1", "127.0.0.1:1"), ("[::]:1", "[::1]:1"), ("10.0.0.1:1", "10.0.0.1:1")] {
            assert_eq!(reachable(bound.parse().unwrap()), reached.parse().unwrap());
        }
    }
}
