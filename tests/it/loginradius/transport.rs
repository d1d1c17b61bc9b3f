//! Sockets that misbehave, bodies that do not end, redirects, compression, certificates.

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
    let peers: std::collections::HashSet<_> = vendor.seen().iter().map(|request| request.peer).collect();
    assert_eq!(peers.len(), 1);
}

/// Runs itself again as a process that is given an empty CA store.
#[tokio::test]
async fn without_ca_certificates_https_says_what_to_install_and_loopback_works() {
    const CHILD: &str = "SOLOIST_TEST_WITHOUT_CA_STORE";
    if std::env::var_os(CHILD).is_none() {
        let empty = tempfile::tempdir().unwrap();
        std::fs::write(empty.path().join("empty.pem"), "").unwrap();
        let this_test = "loginradius::transport::without_ca_certificates_https_says_what_to_install_and_loopback_works";
        let child = tokio::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", this_test])
            .env(CHILD, "1")
            .env("SSL_CERT_FILE", empty.path().join("empty.pem"))
            .env("SSL_CERT_DIR", empty.path())
            .output();
        let output = child.await.unwrap();
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && stdout.contains("1 passed"), "{stdout}");
        return;
    }
    assert!(list([ok(&json!({"data": []}))]).await.unwrap().complete);
    let api_url = ApiUrl::parse(ApiUrl::DEFAULT).unwrap();
    let error = LoginRadius::new(LoginRadiusConfig::new(api_url, KEY.into(), SECRET.into())).unwrap_err();
    assert!(format!("{error:#}").contains("install `ca-certificates`"), "{error:#}");
}
