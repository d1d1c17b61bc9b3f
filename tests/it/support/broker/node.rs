//! One private RabbitMQ node: started, killed, frozen and started again on its own folder and ports.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::home::{Home, free_port};
use super::{PROGRAMS, Vhost};
use crate::support::process::signal;
use crate::support::soon;

/// A start takes 5 to 10 seconds alone; several at once on two cores take their time.
const START_PATIENCE: Duration = Duration::from_mins(2);
pub(super) const PAUSE: Duration = Duration::from_millis(20);

/// How many vhosts are made at once when one is asked for and none is left; each takes the node 17 ms.
const VHOSTS_AT_ONCE: u32 = 16;

/// A node, alone or in a cluster. It ends when this is dropped, also by a panic.
pub(crate) struct Broker {
    pub(super) name: &'static str,
    pub(super) home: Arc<Home>,
    port: u16,
    dist_port: u16,
    running: Mutex<Option<Child>>,
    frozen: AtomicBool,
    vhosts: tokio::sync::Mutex<Vhosts>,
}

#[derive(Default)]
struct Vhosts {
    made: u32,
    used: u32,
}

impl Broker {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// With further lines of `rabbitmq.conf`.
    pub(crate) async fn start_with(conf: &[&str]) -> Self {
        let broker = Self::prepare("a", Arc::new(Home::make().await), conf);
        broker.restart().await;
        broker
    }

    /// A node that does not run yet.
    pub(super) fn prepare(name: &'static str, home: Arc<Home>, conf: &[&str]) -> Self {
        let (port, dist_port) = (free_port(), free_port());
        let (running, frozen, vhosts) = Default::default();
        let broker = Self { name, home, port, dist_port, running, frozen, vhosts };
        fs::create_dir(broker.dir()).unwrap();
        let mut cookie = fs::OpenOptions::new();
        let cookie = cookie.write(true).create_new(true).mode(0o600).open(broker.dir().join(".erlang.cookie"));
        cookie.unwrap().write_all(broker.home.cookie.as_bytes()).unwrap();
        fs::write(broker.dir().join("enabled_plugins"), "[].").unwrap();
        let own = [
            &format!("listeners.tcp.1 = 127.0.0.1:{port}"),
            "loopback_users = none",
            "log.console = false",
            "disk_free_limit.absolute = 50MB",
            "vm_memory_high_watermark.absolute = 1GB",
        ];
        let lines = [&own, conf].concat().join("\n");
        fs::write(broker.dir().join("rabbitmq.conf"), lines + "\n").unwrap();
        broker
    }

    fn dir(&self) -> PathBuf {
        self.home.dir().join(self.name)
    }

    /// Everything the node has on disk, its log for instance, while it is there.
    pub(crate) fn folder(&self) -> &Path {
        self.home.dir()
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    pub(crate) fn url(&self) -> String {
        self.url_of("/")
    }

    pub(crate) fn url_of(&self, vhost: &str) -> String {
        format!("amqp://guest:guest@{}/{}", self.addr(), vhost.replace('/', "%2f"))
    }

    /// An empty vhost in which `guest` may do everything.
    pub(crate) async fn fresh_vhost(&self) -> Vhost {
        let mut vhosts = self.vhosts.lock().await;
        if vhosts.used == vhosts.made {
            let numbers = vhosts.made + 1..=vhosts.made + VHOSTS_AT_ONCE;
            let names: Vec<String> = numbers.map(|number| self.vhost_name(number)).collect();
            self.make_vhosts(&names).await;
            vhosts.made += VHOSTS_AT_ONCE;
        }
        vhosts.used += 1;
        let name = self.vhost_name(vhosts.used);
        Vhost { url: self.url_of(&name), name, turn: None }
    }

    /// The node's name keeps those apart that the nodes of one cluster make.
    fn vhost_name(&self, number: u32) -> String {
        format!("{}-{number}", self.name)
    }

    /// Variables by which the scripts find this node and no other.
    pub(super) fn environment(&self) -> Vec<(&'static str, String)> {
        let path = |file: &str| self.dir().join(file).into_os_string().into_string().unwrap();
        vec![
            ("HOME", path("")),
            ("RABBITMQ_NODENAME", format!("{}@localhost", self.name)),
            ("RABBITMQ_CONFIG_FILE", path("rabbitmq.conf")),
            ("RABBITMQ_CONF_ENV_FILE", "/dev/null".to_owned()),
            ("RABBITMQ_MNESIA_BASE", path("mnesia")),
            ("RABBITMQ_LOG_BASE", path("log")),
            ("RABBITMQ_PID_FILE", path("pid")),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", path("enabled_plugins")),
            ("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1".to_owned()),
            ("RABBITMQ_NODE_PORT", self.port.to_string()),
            ("RABBITMQ_DIST_PORT", self.dist_port.to_string()),
            ("RABBITMQ_CTL_DIST_PORT_MIN", "32768".to_owned()),
            ("RABBITMQ_CTL_DIST_PORT_MAX", "60999".to_owned()),
            ("ERL_EPMD_PORT", self.home.epmd_port.to_string()),
            ("ERL_EPMD_ADDRESS", "127.0.0.1".to_owned()),
            ("ERL_CRASH_DUMP", "/dev/null".to_owned()),
            ("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "-kernel inet_dist_use_interface {127,0,0,1}".to_owned()),
        ]
    }

    /// Starts the node that was killed or stopped, on what it has kept.
    pub(crate) async fn restart(&self) {
        self.spawn();
        let started = tokio::time::timeout(START_PATIENCE, async {
            let mut pause = tokio::time::interval(PAUSE);
            while !self.answers().await {
                assert!(self.is_running(), "the node ended: {}", self.output());
                pause.tick().await;
            }
        });
        started.await.unwrap_or_else(|_| panic!("no node after {START_PATIENCE:?}: {}", self.output()));
    }

    fn spawn(&self) {
        assert!(!self.is_running(), "a node that runs cannot be started");
        self.frozen.store(false, Ordering::Relaxed);
        drop(fs::remove_file(self.dir().join("pid")));
        let output = fs::File::create(self.dir().join("output")).unwrap();
        let mut command = Command::new(format!("{PROGRAMS}/rabbitmq-server"));
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).envs(self.environment());
        command.current_dir(self.dir()).process_group(self.home.process_group());
        command.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output);
        *self.running.lock().unwrap() = Some(command.spawn().unwrap());
    }

    /// Whether the greeting of an AMQP client is answered: the last thing that a start makes possible.
    async fn answers(&self) -> bool {
        let greeted = tokio::time::timeout(Duration::from_secs(1), async {
            let mut stream = TcpStream::connect(self.addr()).await.ok()?;
            stream.write_all(b"AMQP\x00\x00\x09\x01").await.ok()?;
            stream.read_u8().await.ok()
        });
        // A frame of type 1, a method: `connection.start`.
        greeted.await == Ok(Some(1))
    }

    pub(crate) fn is_running(&self) -> bool {
        self.running.lock().unwrap().as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    /// What the node has printed, for the message of a failure.
    fn output(&self) -> String {
        fs::read_to_string(self.dir().join("output")).unwrap_or_default()
    }

    fn pid(&self) -> u32 {
        fs::read_to_string(self.dir().join("pid")).unwrap().trim().parse().unwrap()
    }

    /// `kill -9`. RabbitMQ 3.10 saves the list of its quorum queues up to half a second late, and a queue that is not
    /// in it comes back empty and without a leader. No test is about that, so the list is saved first.
    pub(crate) async fn kill(&self) {
        if self.is_awake() {
            self.eval("[dets:sync(Table) || Table <- dets:all()]").await;
        }
        signal(self.pid(), "KILL").await;
        self.ended().await;
    }

    /// Ends it as an operator would.
    pub(crate) async fn stop(&self) {
        signal(self.pid(), "TERM").await;
        self.ended().await;
    }

    async fn ended(&self) {
        soon("the node to end", async {
            let mut pause = tokio::time::interval(PAUSE);
            while self.is_running() {
                pause.tick().await;
            }
        })
        .await;
    }

    /// Stops it in its tracks; its connections stay open.
    pub(crate) async fn freeze(&self) {
        signal(self.pid(), "STOP").await;
        self.frozen.store(true, Ordering::Relaxed);
    }

    pub(crate) async fn thaw(&self) {
        signal(self.pid(), "CONT").await;
        self.frozen.store(false, Ordering::Relaxed);
    }

    /// Whether it can be asked.
    pub(super) fn is_awake(&self) -> bool {
        self.is_running() && !self.frozen.load(Ordering::Relaxed)
    }
}

impl Drop for Broker {
    /// Ends the script alone: its home's guard ends the node itself, which may not even have written its pid yet.
    fn drop(&mut self) {
        // Also after a panic of a test that held the lock.
        let running = self.running.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(child) = running {
            drop((child.kill(), child.wait()));
        }
    }
}
