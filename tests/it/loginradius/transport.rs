//! Sockets that misbehave, bodies that do not end, redirects, compression, certificates.

use std::collections::HashSet;
use std::io::Write as _;
use std::time::Duration;

use axum::body::{Body, Bytes};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::stream::{self, StreamExt as _};
use serde_json::json;
use soloist::provider::SessionProvider as _;
use soloist::provider::loginradius::{LoginRadius, LoginRadiusConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

#[tokio::test]
async fn a_vendor_that_says_nothing_is_unavailable_after_the_timeout() {
    let vendor = Vendor::new([Reply::Silence]).await;
    let client = LoginRadius::new(LoginRadiusConfig { timeout: Duration::from_millis(50), ..vendor.config() }).unwrap();
    assert_eq!(client.list(&ann()).await.unwrap_err().class(), "unavailable");
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = Vendor::new([ok(&json!({"data": []}))]).await;
    let vendor =
        Vendor::new([302, 301, 307, 308].map(|status| with_header(reply(status, ""), "location", &elsewhere.url)))
            .await;
    for _ in 0..4 {
        assert_eq!(vendor.client().list(&ann()).await.unwrap_err().class(), "unavailable");
    }
    assert!(elsewhere.seen().is_empty());
}

#[tokio::test]
async fn an_answer_that_stops_half_way_is_unavailable() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = client_at(listener.local_addr().unwrap());
    let mut half = JoinSet::new();
    half.spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        socket.read_buf(&mut Vec::with_capacity(4096)).await.unwrap();
        socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{\"data\":[]").await.unwrap();
    });
    let error = client.list(&ann()).await.unwrap_err();
    assert_eq!((error.class(), text(error).contains("broke off")), ("unavailable", true));

    let half = stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(br#"{"nextCursor":0,"data":["#))]);
    let vendor = Vendor::new([reply(200, Body::from_stream(half.chain(stream::pending())))]).await;
    let client = LoginRadius::new(LoginRadiusConfig { timeout: Duration::from_millis(50), ..vendor.config() }).unwrap();
    let error = client.list(&ann()).await.unwrap_err();
    assert_eq!((error.class(), text(error).contains("no answer in time")), ("unavailable", true));
}

#[tokio::test]
async fn a_vendor_that_cannot_be_reached_or_hangs_up_is_unavailable() {
    // Bound and not listening: nobody else gets the port, and connecting to it is refused.
    let closed = tokio::net::TcpSocket::new_v4().unwrap();
    closed.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let error = client_at(closed.local_addr().unwrap()).list(&ann()).await.unwrap_err();
    assert_eq!((error.class(), text(error).contains("cannot connect")), ("unavailable", true));

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = client_at(listener.local_addr().unwrap());
    let mut hanging_up = JoinSet::new();
    hanging_up.spawn(async move { while listener.accept().await.is_ok() {} });
    assert_eq!(client.list(&ann()).await.unwrap_err().class(), "unavailable");
    assert_eq!(client.revoke(&token()).await.unwrap_err().class(), "unavailable");
}

fn client_at(address: SocketAddr) -> LoginRadius {
    let api_url = ApiUrl::parse(&format!("http://{address}")).unwrap();
    LoginRadius::new(LoginRadiusConfig::new(api_url, KEY.into(), SECRET.into())).unwrap()
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

fn gzipped(body: Vec<u8>) -> Reply {
    with_header(reply(200, body), "content-encoding", "gzip")
}

#[tokio::test]
async fn a_compressed_answer_is_read() {
    let body = gzip(json!({"data": [row("a")]}).to_string().as_bytes());
    let vendor =
        Vendor::new([gzipped(body.clone()), gzipped(body[..body.len() - 20].to_vec()), gzipped(b"no gzip".to_vec())])
            .await;

    assert_eq!(tokens(&vendor.client().list(&ann()).await.unwrap()), ["a"]);
    assert_eq!(vendor.client().list(&ann()).await.unwrap_err().class(), "unavailable", "cut off");
    assert_eq!(vendor.client().list(&ann()).await.unwrap_err().class(), "unavailable", "not compressed");
    assert!(vendor.seen().iter().all(|request| request.header("accept-encoding") == Some("gzip")));
}

/// A valid listing of exactly so many bytes.
fn listing_of(bytes: usize) -> Vec<u8> {
    let mut body = br#"{"data":[]"#.to_vec();
    body.resize(bytes - 1, b' ');
    body.push(b'}');
    body
}

#[tokio::test]
async fn an_answer_may_have_four_mebibytes_and_not_one_byte_more() {
    const LIMIT: usize = 4 * 1024 * 1024;
    assert!(list([reply(200, listing_of(LIMIT))]).await.unwrap().complete);
    for reply in [
        reply(200, listing_of(LIMIT + 1)),
        reply(200, Body::from_stream(stream::iter([Ok::<_, std::io::Error>(Bytes::from(listing_of(LIMIT + 1)))]))),
        gzipped(gzip(&listing_of(4 * LIMIT))),
    ] {
        let error = list([reply]).await.unwrap_err();
        assert_eq!((error.class(), text(error).contains("larger than 4194304 bytes")), ("unavailable", true));
    }
}

#[tokio::test]
async fn one_connection_serves_many_calls_in_a_row() {
    let vendor = Vendor::new((0..20).map(|_| ok(&json!({"data": []})))).await;
    let client = vendor.client();
    for _ in 0..20 {
        client.list(&ann()).await.unwrap();
    }
    let peers: HashSet<_> = vendor.seen().iter().map(|request| request.peer).collect();
    assert_eq!(peers.len(), 1);
}

#[tokio::test]
async fn a_burst_of_calls_is_answered_in_parallel_and_its_connections_are_kept() {
    let vendor = Vendor::new((0..200).map(|_| ok(&json!({"data": []})))).await;
    let client = Arc::new(vendor.client());
    for _ in 0..2 {
        let mut burst = JoinSet::new();
        for _ in 0..100 {
            let client = Arc::clone(&client);
            burst.spawn(async move { client.list(&ann()).await.unwrap() });
        }
        assert_eq!(burst.join_all().await.len(), 100);
    }
    let seen = vendor.seen();
    let (first, second) = seen.split_at(100);
    let opened: HashSet<_> = first.iter().map(|request| request.peer).collect();
    assert!(second.iter().all(|request| opened.contains(&request.peer)), "the second burst opened connections");
}
