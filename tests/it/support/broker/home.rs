//! Where the nodes of a test live: a folder, an epmd, and a guard that removes both with every node, come what may.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use rand::RngExt as _;

use crate::support::process::signal;
use crate::support::soon;

/// Waits until the test has no more need, or is dead: both close the pipe. Then it ends the group of processes `$1`,
/// and removes the folder `$2`, into which the dying may still write for a moment. A terminal that is closed ends the
/// test and not the guard, nor the `cat` that it waits with.
const GUARD: &str = r#"
trap '' HUP
cat >/dev/null
kill -KILL "-$1"
tries=0
until rm -rf "$2" || [ $tries = 100 ]; do tries=$((tries + 1)); sleep 0.05; done
"#;

/// Below the ports that the system gives to outgoing connections, of which one could take the port of a dead node.
const PORTS: std::ops::Range<u16> = 10_000..32_000;

/// The leader of the process group of all nodes is their epmd, so that no other epmd is used or started.
pub(crate) struct Home {
    dir: PathBuf,
    pub(super) epmd_port: u16,
    pub(super) cookie: String,
    epmd: Child,
    guard: Child,
}

impl Home {
    pub(super) async fn make() -> Self {
        let dir = tempfile::Builder::new().prefix("soloist-rabbitmq-").tempdir().unwrap().keep();
        let epmd_port = free_port();
        let epmd = Command::new("epmd")
            .args(["-address", "127.0.0.1", "-port", &epmd_port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        // A group of its own, so that a Ctrl-C for the tests does not end the guard first.
        let guard = Command::new("sh")
            .args(["-c", GUARD, "guard", &epmd.id().to_string()])
            .arg(&dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        let home = Self { dir, epmd_port, cookie: uuid::Uuid::new_v4().simple().to_string(), epmd, guard };
        soon("epmd to listen", async {
            let mut pause = tokio::time::interval(Duration::from_millis(5));
            while tokio::net::TcpStream::connect(("127.0.0.1", epmd_port)).await.is_err() {
                pause.tick().await;
            }
        })
        .await;
        home
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The group that a node must be started in.
    pub(super) fn process_group(&self) -> i32 {
        self.epmd.id().try_into().unwrap()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        // Neither wait is long: the guard's work is bounded, and it has killed the epmd unless it could not be started.
        drop((self.guard.wait(), self.epmd.kill(), self.epmd.wait()));
    }
}

/// A port that nothing listens on and that no other caller gets.
pub(crate) fn free_port() -> u16 {
    static TAKEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut taken = TAKEN.lock().unwrap();
    let mut candidates = std::iter::repeat_with(|| rand::rng().random_range(PORTS));
    candidates.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok() && taken.insert(*port)).unwrap()
}

/// While the guard waits it has a child; before, it may not have heard of HUP yet.
#[tokio::test]
async fn a_closed_terminal_leaves_no_broker_behind() {
    if !super::rabbitmq_or_skip("a_closed_terminal_leaves_no_broker_behind") {
        return;
    }
    let home = Home::make().await;
    let (dir, guard) = (home.dir.clone(), home.guard.id());
    let children = format!("/proc/{guard}/task/{guard}/children");
    soon("the guard to wait", async {
        let mut pause = tokio::time::interval(Duration::from_millis(5));
        while std::fs::read_to_string(&children).unwrap().is_empty() {
            pause.tick().await;
        }
    })
    .await;
    let waiting = std::fs::read_to_string(&children).unwrap();
    for hung_up in std::iter::once(guard).chain(waiting.split_whitespace().map(|id| id.parse().unwrap())) {
        signal(hung_up, "HUP").await;
    }
    assert!(tokio::net::TcpStream::connect(("127.0.0.1", home.epmd_port)).await.is_ok(), "the test goes on");

    drop(home);

    assert!(!dir.exists());
}
