//! As much of an AMQP client as it takes to be a connection.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::soon;

pub(super) const GREETING: &[u8] = b"AMQP\x00\x00\x09\x01";
pub(super) const CONNECTION_CLOSE: (u16, u16) = (10, 50);

/// An open connection, or the method that the broker sent instead of `connection.open-ok`.
pub(super) async fn open(url: &str) -> Result<TcpStream, (u16, u16)> {
    let (user, rest) = url.strip_prefix("amqp://").unwrap().split_once('@').unwrap();
    let (addr, vhost) = rest.split_once('/').unwrap();
    let vhost = vhost.replace("%2f", "/");
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(GREETING).await.unwrap();
    assert_eq!(method(&mut stream).await, (10, 10));
    let response = format!("\0{}", user.replace(':', "\0"));
    let start_ok = [&[0; 4], short("PLAIN").as_slice(), &long(&response), &short("en_US")].concat();
    send(&mut stream, 11, &start_ok).await;
    match method(&mut stream).await {
        // What the broker offers: 2047 channels, frames of 128 KiB; and no heartbeats.
        (10, 30) => send(&mut stream, 31, b"\x07\xff\x00\x02\x00\x00\x00\x00").await,
        refusal => return Err(refusal),
    }
    send(&mut stream, 40, &[short(&vhost).as_slice(), &[0, 0]].concat()).await;
    match method(&mut stream).await {
        (10, 41) => Ok(stream),
        refusal => Err(refusal),
    }
}

/// Class and method of the next frame; `(0, 0)` when the other side has closed instead.
pub(super) async fn method(stream: &mut TcpStream) -> (u16, u16) {
    let frame = soon("a frame", async {
        let (_kind, _channel) = (stream.read_u8().await?, stream.read_u16().await?);
        let size = stream.read_u32().await?;
        let mut rest = vec![0; size as usize + 1];
        stream.read_exact(&mut rest).await?;
        Ok::<_, std::io::Error>(rest)
    });
    frame
        .await
        .map_or((0, 0), |frame| (u16::from_be_bytes([frame[0], frame[1]]), u16::from_be_bytes([frame[2], frame[3]])))
}

async fn send(stream: &mut TcpStream, method: u16, arguments: &[u8]) {
    let payload = [&10_u16.to_be_bytes(), method.to_be_bytes().as_slice(), arguments].concat();
    let size = u32::try_from(payload.len()).unwrap().to_be_bytes();
    stream.write_all(&[&[1, 0, 0], size.as_slice(), &payload, &[0xCE]].concat()).await.unwrap();
}

fn short(text: &str) -> Vec<u8> {
    [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat()
}

fn long(text: &str) -> Vec<u8> {
    [u32::try_from(text.len()).unwrap().to_be_bytes().as_slice(), text.as_bytes()].concat()
}
