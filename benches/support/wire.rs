//! One kept-alive HTTP connection of a client that costs little.

use std::net::SocketAddr;
use std::ops::Range;

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Bytes of an answer with its headers.
const ANSWER_BYTES_MAX: usize = 16 * 1024;

pub(crate) struct Wire {
    stream: TcpStream,
    answer: Vec<u8>,
}

impl Wire {
    pub(crate) async fn open(addr: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, answer: vec![0; ANSWER_BYTES_MAX] })
    }

    /// Sends a request and reads its whole answer, of which it gives the body; any status but this one fails the benchmark.
    pub(crate) async fn ask(&mut self, request: &[u8], status: &str) -> anyhow::Result<&[u8]> {
        self.stream.write_all(request).await?;
        let mut length = 0;
        let body = loop {
            if let Some(body) = body_of(self.answer.get(..length).unwrap_or_default(), status)? {
                break body;
            }
            let room = self.answer.get_mut(length..).filter(|room| !room.is_empty()).context("a long answer")?;
            let read = self.stream.read(room).await?;
            anyhow::ensure!(read > 0, "the service closed a connection");
            length += read;
        };
        Ok(self.answer.get(body).unwrap_or_default())
    }
}

/// Where the body of a whole answer is.
fn body_of(answer: &[u8], status: &str) -> anyhow::Result<Option<Range<usize>>> {
    let Some(head_bytes) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(answer.get(..head_bytes).unwrap_or_default())?;
    let is_wanted = head.strip_prefix("HTTP/1.1 ").is_some_and(|rest| rest.starts_with(status));
    anyhow::ensure!(is_wanted, "an answer is not {status}: {head}");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).context("no length")?;
    let body = head_bytes + 4..head_bytes + 4 + length.parse::<usize>()?;
    Ok((answer.len() >= body.end).then_some(body))
}
