//! What all listeners share: problem details, and a server with deadlines and limits.

use std::future::{Ready, ready};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::response::{IntoResponse, Response};
use axum_server::Handle;
use axum_server::accept::Accept;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use http::{HeaderValue, StatusCode, header};
use hyper_util::rt::TokioTimer;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower::Service;

/// Streams that one HTTP/2 connection may have open. Each takes some KiB for as long as its client takes no answer, which
/// HTTP/2 lets it put off for ever; a sender of webhooks that waits for a free one loses milliseconds.
const STREAMS_MAX: u32 = 64;
/// Bytes of request headers that are read before a request is refused.
const HEADER_BYTES_MAX: u32 = 16 * 1024;
/// How long a connection may rest between two requests. Longer than clients keep theirs (.NET: 60 s), so that it is the
/// client who closes: a request that meets a connection being closed would be lost, and LoginRadius sends none again.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// [`ServerConfig::stall_timeout`] of our listeners: longer than a network is usually away.
pub const STALL_TIMEOUT: Duration = Duration::from_mins(1);
/// How often an idle HTTP/2 connection is asked whether it is still there.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// Connections that the private listener keeps open at once.
pub const ADMIN_CONNECTIONS_MAX: usize = 256;

/// Open files that are no public connections: those of the private listener, calls to LoginRadius, the broker, databases.
/// Were all taken by connections, no worker could call and no file be opened.
const OTHER_FILES: u64 = 1024;

/// How many of the wanted connections the limit of open files has room for. Raises the limit where that is allowed:
/// outside of a service manager it often is 1,024, which a single attacker can use up.
pub fn connections_that_fit(wanted: usize) -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    let needed = (wanted as u64).saturating_add(OTHER_FILES);
    if limit.current.is_some_and(|soft| soft < needed) {
        let raised = limit.maximum.map_or(needed, |hard| hard.min(needed));
        let as_before = limit.current.replace(raised);
        if setrlimit(Resource::Nofile, limit).is_err() {
            limit.current = as_before;
        }
    }
    let files = limit.current.unwrap_or(u64::MAX);
    let room = files.saturating_sub(OTHER_FILES).max(files / 2);
    usize::try_from(room).map_or(wanted, |room| room.min(wanted))
}

/// An error answer after RFC 9457. Its text is fixed: nothing of the request or of the inside goes into it.
#[derive(Clone, Copy, Debug)]
pub struct Problem {
    pub status: StatusCode,
    /// Stable; the answer's `type` is `urn:soloist:problem:<name>`.
    pub name: &'static str,
    pub detail: &'static str,
    /// In seconds; 0 for none.
    pub retry_after: u32,
}

impl Problem {
    pub const fn new(status: StatusCode, name: &'static str, detail: &'static str) -> Self {
        Self { status, name, detail, retry_after: 0 }
    }
}

/// What every listener answers to a path that it does not know.
pub const NO_ROUTE: Problem = Problem::new(StatusCode::NOT_FOUND, "no_route", "there is no such route");
/// What every listener answers to a known path with another method.
pub const WRONG_METHOD: Problem =
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "wrong_method", "this route does not take this method");

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        self.saying(self.detail)
    }
}

impl Problem {
    /// The answer with a text of its own; it must quote nothing that is secret.
    pub fn saying(self, detail: &str) -> Response {
        let body = serde_json::json!({
            "type": format!("urn:soloist:problem:{}", self.name),
            "title": self.status.canonical_reason().unwrap_or_default(),
            "status": self.status.as_u16(),
            "detail": detail,
        });
        let mut response = (self.status, body.to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.retry_after > 0 {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(self.retry_after));
        }
        response
    }
}

/// How a listener speaks.
pub struct ServerConfig {
    /// From accepting a connection to the end of its first request's headers; the handshake has as much again.
    pub header_timeout: Duration,
    /// How long what was sent may wait for a client to take it. HTTP has no deadline for this.
    pub stall_timeout: Duration,
    /// Connections that may be open at once; further ones are closed.
    pub connections_max: usize,
    pub tls: Option<RustlsConfig>,
}

/// Certificate chain and key from PEM files.
pub async fn tls_from_files(cert: &Path, key: &Path) -> anyhow::Result<RustlsConfig> {
    RustlsConfig::from_pem_file(cert, key)
        .await
        .with_context(|| format!("cannot read the certificate {} with the key {}", cert.display(), key.display()))
}

/// A listening socket; port 0 takes a free one.
pub fn bind(addr: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(addr).with_context(|| format!("cannot listen on {addr}"))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Serves HTTP/1 and HTTP/2 until the handle stops it.
///
/// A client that does not finish its first headers within the deadline is cut off, so slow clients cannot hold
/// connections.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    config: ServerConfig,
    handle: Handle<SocketAddr>,
) -> anyhow::Result<()> {
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    let free = Arc::new(Semaphore::new(config.connections_max));
    let limited = LimitedAcceptor { free, stall_timeout: config.stall_timeout };
    match config.tls {
        None => {
            let server = axum_server::from_tcp(listener)?.acceptor(limited).handle(handle);
            let mut server = server.first_request_timeout(config.header_timeout);
            limit(server.http_builder());
            server.serve(service).await?;
        }
        Some(tls) => {
            let acceptor = RustlsAcceptor::new(tls).handshake_timeout(config.header_timeout).acceptor(limited);
            let server = axum_server::from_tcp(listener)?.acceptor(acceptor).handle(handle);
            let mut server = server.first_request_timeout(config.header_timeout);
            limit(server.http_builder());
            server.serve(service).await?;
        }
    }
    Ok(())
}

fn limit<E>(builder: &mut hyper_util::server::conn::auto::Builder<E>) {
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_TIMEOUT)
        .max_buf_size(HEADER_BYTES_MAX as usize)
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADER_BYTES_MAX)
        .keep_alive_interval(KEEP_ALIVE_INTERVAL);
}

/// Closes connections beyond the limit at once, so that they cost neither memory nor file handles.
#[derive(Clone)]
struct LimitedAcceptor {
    free: Arc<Semaphore>,
    stall_timeout: Duration,
}

impl<S> Accept<TcpStream, S> for LimitedAcceptor {
    type Stream = TcpStream;
    type Service = Counted<S>;
    type Future = Ready<io::Result<(TcpStream, Counted<S>)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let place = Arc::clone(&self.free).try_acquire_owned();
        ready(match place {
            Ok(place) => end_when_stalled(&stream, self.stall_timeout)
                .map(|()| (stream, Counted { service, _place: Arc::new(place) })),
            Err(_all_taken) => Err(io::Error::other("the limit of open connections is reached")),
        })
    }
}

/// Has the system end a connection whose client takes nothing for so long, though it still answers on the line.
#[cfg(target_os = "linux")]
fn end_when_stalled(stream: &TcpStream, timeout: Duration) -> io::Result<()> {
    let milliseconds = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
    Ok(rustix::net::sockopt::set_tcp_user_timeout(stream, milliseconds)?)
}

/// Other systems have no such option: there a stalled client keeps its place until it goes.
#[cfg(not(target_os = "linux"))]
#[expect(clippy::unnecessary_wraps, reason = "as on Linux")]
fn end_when_stalled(_: &TcpStream, _: Duration) -> io::Result<()> {
    Ok(())
}

/// A connection's service, holding the connection's place until it is dropped.
#[derive(Clone)]
struct Counted<S> {
    service: S,
    _place: Arc<OwnedSemaphorePermit>,
}

impl<R, S: Service<R>> Service<R> for Counted<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> S::Future {
        self.service.call(request)
    }
}
