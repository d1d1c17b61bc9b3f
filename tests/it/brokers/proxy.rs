//! The proxy in front of a server that sends back what it gets.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::support::proxy::Proxy;
use crate::support::soon;

/// Long enough for loopback, short enough to wait for nothing.
const NOTHING_COMES: Duration = Duration::from_millis(200);

/// An echo server with what its connections have read in all, and a proxy in front.
async fn echo() -> (JoinSet<()>, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let mut server = JoinSet::new();
    server.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            connections.spawn(async move {
                let (mut from, mut to) = stream.into_split();
                tokio::io::copy(&mut from, &mut to).await.ok()
            });
        }
    });
    (server, addr)
}

async fn exchange(stream: &mut TcpStream) -> std::io::Result<[u8; 4]> {
    stream.write_all(b"ping").await?;
    let mut answer = [0; 4];
    soon("an answer", stream.read_exact(&mut answer)).await?;
    Ok(answer)
}

#[tokio::test]
async fn the_proxy_forwards_both_ways_and_ends_with_its_connections() {
    let (_server, target) = echo().await;
    let proxy = Proxy::start(target).await;
    let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
    assert_eq!(&exchange(&mut stream).await.unwrap(), b"ping");
    assert_eq!(proxy.connections(), 1);

    stream.shutdown().await.unwrap();
    assert_eq!(soon("the end", stream.read(&mut [0])).await.unwrap(), 0);
    soon("the proxy to forget it", async {
        let mut pause = tokio::time::interval(Duration::from_millis(5));
        while proxy.connections() > 0 {
            pause.tick().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_cut_resets_the_open_connections_alone() {
    let (_server, target) = echo().await;
    let proxy = Proxy::start(target).await;
    let mut old = TcpStream::connect(proxy.addr()).await.unwrap();
    exchange(&mut old).await.unwrap();

    proxy.cut_all().await;

    assert_eq!(proxy.connections(), 0);
    let error = soon("the reset", old.read(&mut [0])).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let mut new = TcpStream::connect(proxy.addr()).await.unwrap();
    assert_eq!(&exchange(&mut new).await.unwrap(), b"ping");
}

#[tokio::test]
async fn a_stalled_proxy_accepts_and_forwards_nothing_until_it_goes_on() {
    let (_server, target) = echo().await;
    let proxy = Proxy::start(target).await;
    proxy.stall(true);
    let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
    stream.write_all(b"ping").await.unwrap();
    let mut answer = [0; 4];
    tokio::time::timeout(NOTHING_COMES, stream.read_exact(&mut answer)).await.unwrap_err();

    proxy.stall(false);

    soon("the answer", stream.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"ping");
}

#[tokio::test]
async fn a_half_closed_connection_still_carries_what_the_client_writes() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Proxy::start(listener.local_addr().unwrap()).await;
    let mut client = TcpStream::connect(proxy.addr()).await.unwrap();
    let (mut server, _) = soon("the connection", listener.accept()).await.unwrap();
    server.write_all(b"hi").await.unwrap();
    soon("the greeting", client.read_exact(&mut [0; 2])).await.unwrap();

    proxy.half_close();

    assert_eq!(soon("the end", client.read(&mut [0])).await.unwrap(), 0);
    client.write_all(b"ping").await.unwrap();
    let mut heard = [0; 4];
    soon("what the client wrote", server.read_exact(&mut heard)).await.unwrap();
    assert_eq!((&heard, proxy.connections()), (b"ping", 1));
}

#[tokio::test]
async fn a_refusing_proxy_keeps_the_connections_it_has() {
    let (_server, target) = echo().await;
    let proxy = Proxy::start(target).await;
    let mut old = TcpStream::connect(proxy.addr()).await.unwrap();
    exchange(&mut old).await.unwrap();

    proxy.refuse(true).await;
    let error = TcpStream::connect(proxy.addr()).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    assert_eq!(&exchange(&mut old).await.unwrap(), b"ping");

    proxy.refuse(false).await;
    let mut new = TcpStream::connect(proxy.addr()).await.unwrap();
    assert_eq!(&exchange(&mut new).await.unwrap(), b"ping");
}

#[tokio::test]
async fn nobody_behind_the_proxy_is_a_closed_connection() {
    let target = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let proxy = Proxy::start(target).await;
    let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
    assert!(exchange(&mut stream).await.is_err());
}
