//! The queue on a task of its caller's runtime instead of a thread of its own, for simulations: it follows tokio's clock,
//! which tests pause, and when the task is dropped the queue dies as its process would. The engine and the file are the
//! same.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc as thread;

use tokio::sync::mpsc;
use tokio::time::timeout;

use super::engine::{Command, Engine};
use super::{EmbeddedConfig, EmbeddedQueue, FolderLock, IDLE_MAX, open_engine};
use crate::clock::Clock;

/// The way of commands to whoever owns the file.
#[derive(Clone)]
pub(super) enum Commands {
    Thread(thread::Sender<Command>),
    Task(mpsc::UnboundedSender<Command>),
}

impl Commands {
    /// Whether there is still somebody to take it.
    pub(super) fn send(&self, command: Command) -> bool {
        match self {
            Self::Thread(thread) => thread.send(command).is_ok(),
            Self::Task(task) => task.send(command).is_ok(),
        }
    }
}

/// Owns the file while it runs.
pub struct QueueTask {
    engine: Engine,
    commands: mpsc::UnboundedReceiver<Command>,
    clock: Clock,
    batch_max: usize,
    waiting: Arc<AtomicUsize>,
    _lock: FolderLock,
}

impl EmbeddedQueue {
    /// Opens the queue in a folder; it works while [`QueueTask::run`] does. No thread keeps its log short.
    pub fn open_on_task(config: &EmbeddedConfig, clock: Clock) -> anyhow::Result<(Self, QueueTask)> {
        let (engine, lock, _path) = open_engine(config, clock)?;
        let (sender, commands) = mpsc::unbounded_channel();
        let queue = Self::new(Commands::Task(sender));
        let (waiting, batch_max) = (queue.waiting.clone(), config.batch_max.max(1));
        Ok((queue, QueueTask { engine, commands, clock, batch_max, waiting, _lock: lock }))
    }
}

impl QueueTask {
    /// Works until it is stopped, or until nobody is left to ask.
    pub async fn run(mut self) -> anyhow::Result<()> {
        loop {
            let wait = self.engine.idle_for(self.clock.now_ms()).unwrap_or(IDLE_MAX).min(IDLE_MAX);
            let mut next = match timeout(wait, self.commands.recv()).await {
                Ok(None | Some(Command::Stop)) => return Ok(()),
                Ok(command) => command,
                Err(_due) => None,
            };
            let mut batch = Vec::new();
            while let Some(command) = next.take() {
                self.waiting.fetch_sub(1, Ordering::Relaxed);
                batch.push(command);
                next = if batch.len() < self.batch_max { self.commands.try_recv().ok() } else { None };
            }
            let now_ms = self.clock.now_ms();
            self.engine.apply(batch, now_ms)?;
            self.engine.hand_out(now_ms)?;
        }
    }
}
