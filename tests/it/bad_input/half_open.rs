//! Connections that are opened and not used: silent, in the middle of their headers, or one byte now and then.

use std::time::Duration;

use axum::Router;
use axum::routing::get;
use axum_server::Handle;
use rustix::process::{Resource, getrlimit, setrlimit};
use soloist::http::{self, ServerConfig};
use soloist::sandbox::{Sandbox, SandboxConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

use super::attacked::Attacked;
use crate::support::process::{self, Serving};
use crate::support::soon;

/// Connections that are held at once.
const HALF_OPEN: usize = 10_000;
/// Connections that are opened at once: about what a listener's queue takes.
const AT_A_TIME: usize = 100;
/// What one of them may cost the service, its share of buffers and tasks included.
const CONNECTION_KIB_MAX: u64 = 32;
/// Files of this process besides the connections: those of the tests that run beside this one.
const OTHER_FILES: u64 = 1_000;

/// Raises this process's limit of open files, which the service inherits.
fn allow_open_files() {
    let wanted = HALF_OPEN as u64 + OTHER_FILES;
    let mut limit = getrlimit(Resource::Nofile);
    let hard = limit.maximum.unwrap_or(u64::MAX);
    assert!(hard >= wanted, "this test needs {wanted} open files; `ulimit -Hn` says {hard}: raise it");
    if limit.current.is_some_and(|soft| soft < wanted) {
        limit.current = Some(wanted);
        setrlimit(Resource::Nofile, limit).unwrap();
    }
}

/// Nothing, a line, or nearly all the header bytes that are allowed.
fn beginning(n: usize) -> Vec<u8> {
    const START: &[u8] = b"POST /webhooks/loginradius HTTP/1.1\r\nhost: x\r\n";
    match n % 3 {
        0 => Vec::new(),
        1 => START.to_vec(),
        _ => [START, b"x: ", &[b'a'; 8 * 1024]].concat(),
    }
}

async fn half_open(attacked: &Attacked, n: usize) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    // An address of its own leaves the ports of the usual one to others.
    socket.bind("127.0.0.9:0".parse().unwrap()).unwrap();
    let mut stream = socket.connect(attacked.addr()).await.unwrap();
    stream.write_all(&beginning(n)).await.unwrap();
    stream
}

#[tokio::test]
async fn ten_thousand_half_open_connections_keep_no_login_out() {
    allow_open_files();
    // Longer than it may take to open them all.
    let attacked = Attacked::start(&[("SOLOIST_WEBHOOK__HEADER_TIMEOUT", "10m")]).await;
    let mut held = Vec::with_capacity(HALF_OPEN);
    while held.len() < HALF_OPEN {
        let first = held.len();
        let opened = (first..first + AT_A_TIME).map(|n| half_open(&attacked, n));
        held.extend(soon("connections", futures_util::future::join_all(opened)).await);
    }
    attacked.has_open_files(HALF_OPEN).await;

    attacked.answers(50).await;

    let grown = attacked.memory_grown_kib();
    println!("{HALF_OPEN} half-open connections: {grown} KiB more");
    assert!(grown <= HALF_OPEN as u64 * CONNECTION_KIB_MAX, "{grown} KiB more for {HALF_OPEN} connections");
    drop(held);
    attacked.stop().await;
}

/// Sends a byte now and then until the connection ends; what was answered.
async fn drip(attacked_addr: std::net::SocketAddr, head: &'static [u8]) -> Vec<u8> {
    let stream = TcpStream::connect(attacked_addr).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    writer.write_all(head).await.unwrap();
    let mut answer = Vec::new();
    let dripping = async {
        let mut now_and_then = tokio::time::interval(Duration::from_millis(50));
        while writer.write_all(b"a").await.is_ok() {
            now_and_then.tick().await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        _ended = reader.read_to_end(&mut answer) => {}
        () = dripping => {}
    }
    answer
}

#[tokio::test]
async fn clients_that_send_a_byte_now_and_then_are_cut_off_in_the_headers_and_in_the_body() {
    const EACH: usize = 200;
    let deadlines = [("SOLOIST_WEBHOOK__HEADER_TIMEOUT", "2s"), ("SOLOIST_WEBHOOK__BODY_TIMEOUT", "2s")];
    let attacked = Attacked::start(&deadlines).await;
    let mut dripping = JoinSet::new();
    for _ in 0..EACH {
        dripping.spawn(drip(attacked.addr(), b""));
        dripping.spawn(drip(attacked.addr(), b"POST /webhooks/loginradius HTTP/1.1\r\nhost: x\r\nx: "));
        let body = b"POST /webhooks/loginradius HTTP/1.1\r\nhost: x\r\ncontent-length: 9000\r\n\r\n{";
        dripping.spawn(drip(attacked.addr(), body));
    }

    attacked.answers(20).await;

    let answers = soon("every one of them to be cut off", dripping.join_all()).await;
    // A byte that meets the closing connection takes the answer with it, so not every slow body is told.
    let told = answers.iter().filter(|answer| answer.starts_with(b"HTTP/1.1 408")).count();
    assert_eq!(answers.len(), 3 * EACH);
    assert!((EACH / 2..=EACH).contains(&told), "{told} of {EACH} slow bodies were told so");
    attacked.stop().await;
}

#[tokio::test]
async fn a_service_that_was_given_few_open_files_takes_as_many_as_it_may() {
    let (data_dir, sandbox) = (tempfile::tempdir().unwrap(), Sandbox::start(SandboxConfig::default()).await.unwrap());
    let mut command = tokio::process::Command::new("sh");
    command.args(["-c", "ulimit -Sn 256 && exec \"$0\" serve", env!("CARGO_BIN_EXE_soloist")]);
    process::with_environment(&mut command, data_dir.path(), &sandbox.url(), &[]);
    let attacked = Attacked::of(Serving::start(command, data_dir.path()).await, sandbox, data_dir).await;
    let mut held = Vec::new();
    for n in 0..400 {
        held.push(soon("a connection", half_open(&attacked, n)).await);
    }
    attacked.has_open_files(held.len()).await;
    attacked.answers(5).await;
    attacked.stop().await;
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_its_answers_is_cut_off() {
    let listener = http::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let addr = listener.local_addr().unwrap();
    let config = ServerConfig {
        header_timeout: Duration::from_secs(5),
        stall_timeout: Duration::from_millis(500),
        connections_max: 10,
        tls: None,
    };
    let large = Router::new().route("/", get(async || "a".repeat(64 << 20)));
    let handle = Handle::new();
    let mut serving = JoinSet::new();
    serving.spawn(http::serve(listener, large, config, handle.clone()));
    let mut stalled = TcpStream::connect(addr).await.unwrap();
    stalled.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    soon("the beginning of the answer", stalled.readable()).await.unwrap();
    assert_eq!(handle.connection_count(), 1);

    soon("the end of the connection", async {
        let mut pause = tokio::time::interval(Duration::from_millis(20));
        while handle.connection_count() > 0 {
            pause.tick().await;
        }
    })
    .await;
}
