//! A second process of the same benchmark, so that its memory and processor time are told apart from ours.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

use anyhow::Context as _;
use tokio::sync::mpsc;

/// Clock ticks a second in `/proc/<pid>/stat`, on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// The running child: one line in asks, one line out answers. It is ended by closing its input.
pub(crate) struct Child {
    process: std::process::Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Child {
    /// Starts this very benchmark with other arguments.
    pub(crate) fn start(arguments: &[&str]) -> anyhow::Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the second process")?;
        let input = process.stdin.take();
        let output = BufReader::new(process.stdout.take().context("it has no output")?);
        Ok(Self { process, input, output })
    }

    pub(crate) fn read(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        anyhow::ensure!(line.ends_with('\n'), "the second process ended early");
        Ok(line.trim().to_owned())
    }

    pub(crate) fn ask(&mut self, line: &str) -> anyhow::Result<String> {
        self.tell(line)?;
        self.read()
    }

    pub(crate) fn tell(&mut self, line: &str) -> anyhow::Result<()> {
        let input = self.input.as_mut().context("it was told to end")?;
        writeln!(input, "{line}")?;
        Ok(input.flush()?)
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Lets it end by itself.
    pub(crate) fn end(mut self) -> anyhow::Result<()> {
        self.input = None;
        anyhow::ensure!(self.process.wait()?.success(), "the second process failed");
        Ok(())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // It has ended, or a failed benchmark leaves nothing behind.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// In the child: the lines that it is asked with, until its input ends.
pub(crate) fn input() -> mpsc::UnboundedReceiver<String> {
    let (sender, lines) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    lines
}

/// Seconds of processor time that a process has used.
pub(crate) fn cpu_seconds(process: u32) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name in parentheses may hold anything; user and system time are the 14th and 15th field.
    let (_, fields) = stat.rsplit_once(')').context("no name in stat")?;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<f64>);
    Ok(ticks.sum::<Result<f64, _>>()? / TICKS_PER_SECOND)
}

/// A line of `/proc/self/status` that counts in KiB, in MiB.
pub(crate) fn memory_mib(name: &str) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kib: f64 = line.context("no such line")?.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1024.0)
}
