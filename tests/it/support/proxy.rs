//! A TCP proxy that breaks connections in the ways that networks do.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::broker::free_port;
use super::soon;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Its tasks end when it is dropped.
pub(crate) struct Proxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
    /// Holds the task that accepts, which holds those of the connections.
    _tasks: JoinSet<()>,
}

struct Shared {
    target: SocketAddr,
    stalled: watch::Sender<bool>,
    refusing: watch::Sender<bool>,
    listening: watch::Sender<bool>,
    /// The connections since the last cut.
    open: Mutex<Connections>,
}

#[derive(Clone, Default)]
struct Connections {
    cut: CancellationToken,
    half_close: CancellationToken,
    tracker: TaskTracker,
}

impl Proxy {
    pub(crate) async fn start(target: SocketAddr) -> Self {
        // Not one that the system chooses: it could give it to another while this proxy refuses.
        let addr = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let (stalled, refusing) = (watch::Sender::new(false), watch::Sender::new(false));
        let listening = watch::Sender::new(false);
        let shared = Arc::new(Shared { target, stalled, refusing, listening, open: Mutex::default() });
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(addr, Arc::clone(&shared)));
        let proxy = Self { addr, shared, _tasks: tasks };
        proxy.listens(true).await;
        proxy
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// How many connections are open.
    pub(crate) fn connections(&self) -> usize {
        self.shared.open.lock().unwrap().tracker.len()
    }

    /// Resets every connection; new ones may come.
    pub(crate) async fn cut_all(&self) {
        let old = std::mem::take(&mut *self.shared.open.lock().unwrap());
        old.cut.cancel();
        old.tracker.close();
        soon("the connections to be cut", old.tracker.wait()).await;
    }

    /// While it is on, connections are accepted and kept, and nothing is forwarded.
    pub(crate) fn stall(&self, on: bool) {
        self.shared.stalled.send_replace(on);
    }

    /// The client of every open connection reads the end of the stream; what it writes still arrives.
    pub(crate) fn half_close(&self) {
        std::mem::take(&mut self.shared.open.lock().unwrap().half_close).cancel();
    }

    /// While it is on, nobody can connect; open connections stay.
    pub(crate) async fn refuse(&self, on: bool) {
        self.shared.refusing.send_replace(on);
        self.listens(!on).await;
    }

    async fn listens(&self, on: bool) {
        let mut listening = self.shared.listening.subscribe();
        soon("the proxy", listening.wait_for(|now| *now == on)).await.unwrap();
    }
}

async fn accept(addr: SocketAddr, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    let mut refusing = shared.refusing.subscribe();
    loop {
        refusing.wait_for(|refusing| !refusing).await.unwrap();
        let listener = TcpListener::bind(addr).await.unwrap();
        shared.listening.send_replace(true);
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let open = shared.open.lock().unwrap().clone();
                    let tracked = open.tracker.clone();
                    let connection = serve(accepted.unwrap().0, Arc::clone(&shared), open);
                    connections.spawn(tracked.track_future(connection));
                }
                Some(ended) = connections.join_next() => ended.unwrap(),
                _ = refusing.wait_for(|refusing| *refusing) => break,
            }
        }
        drop(listener);
        shared.listening.send_replace(false);
    }
}

async fn serve(client: TcpStream, shared: Arc<Shared>, open: Connections) {
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(shared.target));
    let Ok(Ok(target)) = connected.await else { return };
    let ((mut from_client, mut to_client), (mut from_target, mut to_target)) =
        (client.into_split(), target.into_split());
    let never = CancellationToken::new();
    let relayed = async {
        tokio::try_join!(
            relay(&mut from_client, &mut to_target, shared.stalled.subscribe(), &never),
            relay(&mut from_target, &mut to_client, shared.stalled.subscribe(), &open.half_close),
        )
        .is_ok()
    };
    let ended_well = tokio::select! {
        ended_well = relayed => ended_well,
        () = open.cut.cancelled() => false,
    };
    // The reset by one side, for instance, becomes one for the other.
    if !ended_well {
        reset(to_client);
        reset(to_target);
    }
}

/// Makes the system send a reset when the reading half is dropped, too.
fn reset(half: OwnedWriteHalf) {
    // It fails when the other side has reset the connection before.
    drop(half.as_ref().set_zero_linger());
    // Dropped, it would say first that the stream ends here.
    half.forget();
}

/// Forwards one direction up to its end, or until it is to be `closed` before.
async fn relay(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    mut stalled: watch::Receiver<bool>,
    closed: &CancellationToken,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let piece = tokio::select! {
            piece = from.read(&mut buffer) => piece?,
            () = closed.cancelled() => 0,
        };
        drop(stalled.wait_for(|stalled| !stalled).await);
        if piece == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..piece]).await?;
    }
}
