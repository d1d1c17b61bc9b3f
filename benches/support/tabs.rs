//! Open tabs: streams of `GET /v1/events` over bare sockets, which say when they heard that their session was ended.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use soloist::sandbox::Sandbox;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// As many as may listen for one session.
pub(crate) const TABS_A_SESSION: usize = 16;
/// Sessions whose tabs are opened side by side.
const OPENED_AT_ONCE: usize = 32;
/// Bytes that a tab reads at once.
const CHUNK_BYTES: usize = 1_024;
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Tabs {
    open: JoinSet<()>,
    heard: mpsc::UnboundedReceiver<(usize, Timestamp)>,
}

struct Tab {
    /// The place of its session.
    session: usize,
    stream: TcpStream,
    said: Vec<u8>,
}

impl Tabs {
    /// Opens all tabs of the sessions of these tokens.
    pub(crate) async fn open(addr: SocketAddr, tokens: &[String], sandbox: &Arc<Sandbox>) -> anyhow::Result<Self> {
        let opening = tokens.iter().enumerate().map(|(session, token)| async move {
            let mut tabs = Vec::new();
            for _ in 0..TABS_A_SESSION {
                tabs.push(Tab::open(addr, session, token).await?);
            }
            anyhow::Ok(tabs)
        });
        let opened: Vec<Vec<Tab>> = stream::iter(opening).buffer_unordered(OPENED_AT_ONCE).try_collect().await?;
        let (sender, heard) = mpsc::unbounded_channel();
        let mut open = JoinSet::new();
        for tab in opened.into_iter().flatten() {
            open.spawn(tab.listen(sender.clone(), Arc::clone(sandbox)));
        }
        Ok(Self { open, heard })
    }

    /// How many are still open.
    pub(crate) fn count(&mut self) -> usize {
        while self.open.try_join_next().is_some() {}
        self.open.len()
    }

    /// When the last tab of this session heard of its end, by the sandbox's clock.
    pub(crate) async fn last_of(&mut self, session: usize) -> anyhow::Result<Timestamp> {
        let mut last = Timestamp::MIN;
        for _ in 0..TABS_A_SESSION {
            let heard =
                timeout(PATIENCE, self.heard.recv()).await.context("not all tabs of a session heard of its end")?;
            let (of, at) = heard.context("all tabs are closed")?;
            anyhow::ensure!(of == session, "a tab of another session was signed out");
            last = last.max(at);
        }
        Ok(last)
    }
}

impl Tab {
    async fn open(addr: SocketAddr, session: usize, token: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(addr).await?;
        let mut tab = Self { session, stream, said: Vec::new() };
        let request = format!("GET /v1/events HTTP/1.1\r\nHost: soloist\r\nAuthorization: Bearer {token}\r\n\r\n");
        tab.stream.write_all(request.as_bytes()).await?;
        while !tab.has_heard(b"\r\n\r\n") {
            timeout(PATIENCE, tab.hear()).await.context("a stream does not begin")??;
        }
        let head = String::from_utf8_lossy(&tab.said);
        anyhow::ensure!(head.starts_with("HTTP/1.1 200"), "a stream is refused: {head}");
        Ok(tab)
    }

    fn has_heard(&self, words: &[u8]) -> bool {
        self.said.windows(words.len()).any(|window| window == words)
    }

    async fn hear(&mut self) -> anyhow::Result<()> {
        let mut chunk = [0; CHUNK_BYTES];
        let read = self.stream.read(&mut chunk).await?;
        anyhow::ensure!(read > 0, "the stream has ended");
        self.said.extend_from_slice(chunk.get(..read).unwrap_or_default());
        Ok(())
    }

    async fn listen(mut self, heard: mpsc::UnboundedSender<(usize, Timestamp)>, sandbox: Arc<Sandbox>) {
        while self.hear().await.is_ok() {
            if self.has_heard(b"session.revoked") {
                // Nobody may wait for it any more.
                heard.send((self.session, sandbox.now())).ok();
                return;
            }
        }
    }
}
