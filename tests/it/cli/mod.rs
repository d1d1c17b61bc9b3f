//! The command line, by the real binary: what it prints, and with which code it ends.

mod data;
mod directives;
mod offline;
mod probe;
mod service;
mod users;

use std::path::Path;
use std::process::Stdio;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::support::soon;

/// How a command ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) code: Option<i32>,
    pub(super) out: String,
    pub(super) err: String,
}

/// The binary with an environment of its own, in an empty folder.
pub(super) struct Soloist {
    env: Vec<(String, String)>,
    folder: TempDir,
}

impl Soloist {
    /// Without any configuration.
    pub(super) fn bare() -> Self {
        Self { env: Vec::new(), folder: tempfile::tempdir().unwrap() }
    }

    /// Configured for an API, with free ports.
    pub(super) fn for_api(api_url: &str) -> Self {
        let mut soloist = Self::bare();
        let data_dir = soloist.data_dir().to_str().unwrap().to_owned();
        for (name, value) in [
            ("DATA_DIR", data_dir.as_str()),
            ("WEBHOOK__LISTEN", "127.0.0.1:0"),
            ("ADMIN__LISTEN", "127.0.0.1:0"),
            ("LOGINRADIUS__API_URL", api_url),
            ("LOGINRADIUS__API_KEY", "sandbox-key"),
            ("LOGINRADIUS__API_SECRET", "sandbox-secret"),
        ] {
            soloist.set(name, value);
        }
        soloist
    }

    pub(super) fn set(&mut self, option: &str, value: &str) {
        self.env.push((format!("SOLOIST_{option}"), value.to_owned()));
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn data_dir(&self) -> std::path::PathBuf {
        self.folder().join("data")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_soloist"));
        command.args(args).env_clear().envs(self.env.iter().cloned()).current_dir(self.folder());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    /// Runs a command to its end. What is piped has no control codes.
    pub(super) async fn run(&self, args: &[&str]) -> Ended {
        self.run_with(args, "").await
    }

    pub(super) async fn run_with(&self, args: &[&str], input: &str) -> Ended {
        let mut child = self.command(args).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // A command that does not read closes its end.
        stdin.write_all(input.as_bytes()).await.ok();
        drop(stdin);
        let output = soon("a command to end", child.wait_with_output()).await.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let ended = Ended { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) };
        assert!(!ended.out.contains('\u{1b}') && !ended.err.contains('\u{1b}'), "{args:?}: {ended:?}");
        ended
    }

    /// Runs a command on a terminal of its own, where somebody has typed this; all that the terminal showed.
    ///
    /// `script` is in Debian's `bsdutils`, which every Debian has; without it the test fails.
    pub(super) async fn run_on_a_terminal(&self, args: &[&str], typed: &str) -> Ended {
        let mut command = Command::new("script");
        let words = [&[env!("CARGO_BIN_EXE_soloist")], args].concat().join(" ");
        command.args(["--quiet", "--return", "--command", &words, "/dev/null"]);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).envs(self.env.iter().cloned());
        command.current_dir(self.folder()).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(typed.as_bytes()).await.unwrap();
        // Kept open until it has ended: its end would be typed, too.
        let output = soon("a command on a terminal to end", child.wait_with_output()).await.unwrap();
        drop(stdin);
        let out = String::from_utf8(output.stdout).unwrap();
        Ended { code: output.status.code(), out, err: String::new() }
    }

    /// Runs a command that has to succeed; its output.
    pub(super) async fn done(&self, args: &[&str]) -> String {
        let ended = self.run(args).await;
        assert_eq!(ended.code, Some(0), "{args:?}: {ended:?}");
        ended.out
    }

    /// Starts a command that goes on until it is told to stop.
    pub(super) fn start(&self, args: &[&str]) -> Running {
        Running::start(self.command(args))
    }
}

async fn read_lines(from: impl AsyncRead + Unpin, to: mpsc::UnboundedSender<String>) {
    let mut lines = BufReader::new(from).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        assert!(!line.contains('\u{1b}'), "{line}");
        to.send(line).ok();
    }
}

/// A command that runs. Dropping it kills it.
pub(super) struct Running {
    child: Child,
    lines: mpsc::UnboundedReceiver<String>,
    _readers: JoinSet<()>,
}

impl Running {
    /// Starts any command, with its streams in our hands.
    pub(super) fn start(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let (sender, lines) = mpsc::unbounded_channel();
        let mut readers = JoinSet::new();
        readers.spawn(read_lines(child.stdout.take().unwrap(), sender.clone()));
        readers.spawn(read_lines(child.stderr.take().unwrap(), sender));
        Self { child, lines, _readers: readers }
    }

    /// Types a line.
    pub(super) async fn hears(&mut self, line: &str) {
        let typed = self.child.stdin.as_mut().unwrap();
        typed.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    /// Waits for a line that contains `marker`; what stands behind it.
    pub(super) async fn says(&mut self, marker: &str) -> String {
        let said = soon(marker, async {
            loop {
                let line = self.lines.recv().await.unwrap_or_else(|| panic!("it ended before it said {marker:?}"));
                if let Some((_, rest)) = line.split_once(marker) {
                    return rest.trim().to_owned();
                }
            }
        });
        said.await
    }

    /// What it says until it ends, behind what was waited for.
    pub(super) async fn rest(&mut self) -> Vec<String> {
        let mut rest = Vec::new();
        soon("the end of what a process says", async {
            while let Some(line) = self.lines.recv().await {
                rest.push(line);
            }
        })
        .await;
        rest
    }

    /// Sends it a signal by name.
    pub(super) async fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.child.id().unwrap());
        assert!(Command::new("sh").args(["-c", &kill]).status().await.unwrap().success());
    }

    /// Its exit code.
    pub(super) async fn ended(&mut self) -> Option<i32> {
        soon("a process to end", self.child.wait()).await.unwrap().code()
    }
}
