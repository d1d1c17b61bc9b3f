//! A private RabbitMQ node on its own folder and ports, which no end of the benchmark leaves behind.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use lapin::options::{QueueDeclareOptions, QueuePurgeOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties};
use tokio::time::Instant;

/// The script itself: the wrapper in `/usr/sbin` changes the user.
const SERVER: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";
/// A start takes 5 to 10 seconds on an idle machine.
const START_PATIENCE: Duration = Duration::from_mins(2);
const STOP_PATIENCE: Duration = Duration::from_mins(1);
const PAUSE: Duration = Duration::from_millis(50);

/// Waits until the benchmark closes the pipe or is dead; then ends the group of processes `$1`, and removes the folder
/// `$2`, into which the dying may still write for a moment.
const GUARD: &str = r#"
cat >/dev/null
kill -KILL "-$1"
tries=0
until rm -rf "$2" || [ $tries = 100 ]; do tries=$((tries + 1)); sleep 0.05; done
"#;

pub(crate) struct Broker {
    folder: PathBuf,
    port: u16,
    /// The leader of the node's process group, so that no other epmd is used or started.
    epmd: Child,
    epmd_port: u16,
    dist_port: u16,
    guard: Child,
    node: Option<Child>,
}

impl Broker {
    /// Starts a node that keeps its data in `scratch`.
    pub(crate) fn start(scratch: &Path) -> anyhow::Result<Self> {
        anyhow::ensure!(
            Path::new(SERVER).exists(),
            "this benchmark starts a RabbitMQ of its own, and there is no {SERVER}: install the package rabbitmq-server"
        );
        let folder = scratch.join("broker");
        fs::create_dir(&folder)?;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;
        let [port, epmd_port, dist_port] = free_ports()?;
        let cookie = uuid::Uuid::new_v4().simple().to_string();
        let file = File::options().write(true).create_new(true).mode(0o600).open(folder.join(".erlang.cookie"));
        file?.write_all(cookie.as_bytes())?;
        fs::write(folder.join("enabled_plugins"), "[].")?;
        let conf = format!(
            "listeners.tcp.1 = 127.0.0.1:{port}\nloopback_users = none\nlog.console = false\n\
             disk_free_limit.absolute = 50MB\nvm_memory_high_watermark.absolute = 3GB\n"
        );
        fs::write(folder.join("rabbitmq.conf"), conf)?;
        let mut epmd = Command::new("epmd");
        epmd.args(["-address", "127.0.0.1", "-port", &epmd_port.to_string()]).process_group(0);
        let epmd = quiet(&mut epmd).spawn().context("cannot start epmd, a part of RabbitMQ's Erlang")?;
        let mut guard = Command::new("sh");
        guard.args(["-c", GUARD, "guard", &epmd.id().to_string()]).arg(&folder).process_group(0);
        let guard = quiet(&mut guard).stdin(Stdio::piped()).spawn()?;
        let mut broker = Self { folder, port, epmd, epmd_port, dist_port, guard, node: None };
        broker.restart()?;
        Ok(broker)
    }

    pub(crate) fn url(&self) -> String {
        format!("amqp://guest:guest@{}/%2f", self.addr())
    }

    fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Starts the node that was stopped, on what it has kept.
    #[expect(clippy::disallowed_methods, reason = "the benchmark has nothing else to do meanwhile")]
    pub(crate) fn restart(&mut self) -> anyhow::Result<()> {
        let output = File::create(self.folder.join("output"))?;
        let mut server = Command::new(SERVER);
        server.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).envs(self.environment());
        server.current_dir(&self.folder).process_group(self.group()?);
        let spawned = server.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).spawn()?;
        let node = self.node.insert(spawned);
        let from = Instant::now();
        let addr = (Ipv4Addr::LOCALHOST, self.port).into();
        while !answers(addr) {
            let said = || fs::read_to_string(self.folder.join("output")).unwrap_or_default();
            anyhow::ensure!(node.try_wait()?.is_none(), "RabbitMQ ended: {}", said());
            anyhow::ensure!(from.elapsed() < START_PATIENCE, "RabbitMQ does not answer: {}", said());
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// Ends the node as an operator would; its clients see their connections end.
    #[expect(clippy::disallowed_methods, reason = "the benchmark has nothing else to do meanwhile")]
    pub(crate) fn stop(&mut self) -> anyhow::Result<()> {
        let pid = fs::read_to_string(self.folder.join("pid"))?;
        Command::new("kill").args(["-TERM", pid.trim()]).status()?;
        let mut node = self.node.take().context("the node does not run")?;
        let from = Instant::now();
        while node.try_wait()?.is_none() {
            anyhow::ensure!(from.elapsed() < STOP_PATIENCE, "RabbitMQ does not end");
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    fn group(&self) -> anyhow::Result<i32> {
        Ok(self.epmd.id().try_into()?)
    }

    fn environment(&self) -> Vec<(&'static str, String)> {
        let path = |file: &str| self.folder.join(file).to_string_lossy().into_owned();
        vec![
            ("HOME", path("")),
            ("RABBITMQ_NODENAME", "bench@localhost".to_owned()),
            ("RABBITMQ_CONFIG_FILE", path("rabbitmq.conf")),
            ("RABBITMQ_CONF_ENV_FILE", "/dev/null".to_owned()),
            ("RABBITMQ_MNESIA_BASE", path("mnesia")),
            ("RABBITMQ_LOG_BASE", path("log")),
            ("RABBITMQ_PID_FILE", path("pid")),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", path("enabled_plugins")),
            ("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1".to_owned()),
            ("RABBITMQ_NODE_PORT", self.port.to_string()),
            ("RABBITMQ_DIST_PORT", self.dist_port.to_string()),
            ("ERL_EPMD_PORT", self.epmd_port.to_string()),
            ("ERL_EPMD_ADDRESS", "127.0.0.1".to_owned()),
            ("ERL_CRASH_DUMP", "/dev/null".to_owned()),
            ("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "-kernel inet_dist_use_interface {127,0,0,1}".to_owned()),
        ]
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        // The guard has killed them all, unless it could not be started.
        for child in [Some(&mut self.guard), Some(&mut self.epmd), self.node.as_mut()].into_iter().flatten() {
            if child.id() != 0 {
                child.wait().ok();
            }
        }
    }
}

fn quiet(command: &mut Command) -> &mut Command {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null())
}

/// Ports that nothing listens on now.
fn free_ports() -> anyhow::Result<[u16; 3]> {
    let listen = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let listeners = [listen()?, listen()?, listen()?];
    let [a, b, c] = listeners.each_ref().map(|listener| listener.local_addr().map(|addr| addr.port()));
    Ok([a?, b?, c?])
}

/// Whether the greeting of an AMQP client is answered with `connection.start`: the last thing that a start makes
/// possible.
fn answers(addr: SocketAddr) -> bool {
    let greet = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(addr)?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"AMQP\x00\x00\x09\x01")?;
        let mut kind = [0];
        stream.read_exact(&mut kind)?;
        Ok(kind == [1])
    };
    greet().unwrap_or(false)
}

/// Looks into the broker's queues, from a connection of its own.
pub(crate) struct Inspector {
    runtime: tokio::runtime::Runtime,
    _connection: Connection,
    channel: Channel,
}

impl Inspector {
    pub(crate) fn connect(url: &str) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let (connection, channel) = runtime.block_on(async {
            let connection = Connection::connect(url, ConnectionProperties::default()).await?;
            let channel = connection.create_channel().await?;
            anyhow::Ok((connection, channel))
        })?;
        Ok(Self { runtime, _connection: connection, channel })
    }

    /// Messages that wait to be handed out.
    pub(crate) fn depth(&self, queue: &str) -> anyhow::Result<u32> {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let found = self.channel.queue_declare(queue.into(), options, FieldTable::default());
        Ok(self.runtime.block_on(found)?.message_count())
    }

    /// Takes all messages out of a queue; returns how many there were.
    pub(crate) fn purge(&self, queue: &str) -> anyhow::Result<u32> {
        Ok(self.runtime.block_on(self.channel.queue_purge(queue.into(), QueuePurgeOptions::default()))?)
    }
}
