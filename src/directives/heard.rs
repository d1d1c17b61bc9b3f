//! A worker that is told what was decided: it keeps the last snapshot on disk, and asks for grants.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::budget::HEARD_GRANT_LIFE;
use super::entry::Entry;
use super::live::LiveDirectives;
use super::told::{Asked, Told};
use super::{Granted, Granter, NoLeave};
use crate::clock::Clock;
use crate::config::WrittenPolicies;
use crate::model::TenantId;

const FILE: &str = "directives.json";
/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a worker waits for the first snapshot before it begins without one.
const FIRST_SNAPSHOT_WAIT: Duration = Duration::from_secs(10);
/// Questions that wait to be sent.
const QUESTIONS_MAX: usize = 1_000;
/// After how long without a snapshot it is asked for: two were missed.
const DEAF_AFTER: Duration = Duration::from_secs(65);
/// How often an unchanged snapshot is written again, so that its age on disk is about right.
const SAVE_EVERY: Duration = Duration::from_secs(30);

/// The directives of a process that does not decide.
pub struct Heard {
    live: Arc<LiveDirectives>,
    max_age: Duration,
    file: PathBuf,
    /// Names this run of the process.
    us: String,
    next_ask: AtomicU64,
    waiting: Mutex<HashMap<u64, oneshot::Sender<Option<u32>>>>,
    questions: mpsc::Sender<Vec<u8>>,
    saved: Mutex<Option<(i64, Instant)>>,
    heard_at: watch::Sender<Option<Instant>>,
    clock: Clock,
}

/// A snapshot as it lies on disk.
#[derive(Serialize, Deserialize)]
struct Saved {
    heard_at: Timestamp,
    version: i64,
    entries: Vec<Value>,
}

impl Heard {
    /// Begins with the snapshot on disk, as old as it is; the questions for the deciding process come out of the other
    /// half.
    ///
    /// # Errors
    /// When the written policies cannot be read; none for a configuration that was loaded.
    pub fn open(
        data_dir: &Path,
        written: WrittenPolicies,
        max_age: Duration,
        clock: Clock,
    ) -> anyhow::Result<(Self, mpsc::Receiver<Vec<u8>>)> {
        let (questions, to_send) = mpsc::channel(QUESTIONS_MAX);
        let heard = Self {
            live: Arc::new(LiveDirectives::heard(written, max_age, clock)?),
            max_age,
            file: data_dir.join(FILE),
            us: uuid::Uuid::new_v4().to_string(),
            next_ask: AtomicU64::new(1),
            waiting: Mutex::default(),
            questions,
            saved: Mutex::default(),
            heard_at: watch::Sender::default(),
            clock,
        };
        heard.restore();
        Ok((heard, to_send))
    }

    pub fn live(&self) -> Arc<LiveDirectives> {
        Arc::clone(&self.live)
    }

    /// Waits for the first snapshot, some seconds at most: whoever begins without one decides, but ends nobody.
    pub async fn first_snapshot(&self, stop: &CancellationToken) {
        let mut heard_at = self.heard_at.subscribe();
        tokio::select! {
            () = stop.cancelled() => {}
            _heard = heard_at.wait_for(Option::is_some) => {}
            () = tokio::time::sleep(FIRST_SNAPSHOT_WAIT) => {
                tracing::error!(
                    alarm = "directives_stale",
                    "no control process tells what to obey: nobody is ended by what is older than directives.max_age"
                );
            }
        }
    }

    /// The question for a snapshot, where none has come lately.
    pub fn question(&self) -> Option<Vec<u8>> {
        let is_deaf = self.heard_at.borrow().is_none_or(|at| at.elapsed() >= DEAF_AFTER);
        is_deaf.then(|| Asked::Snapshot.to_bytes())
    }

    /// Takes in what the deciding process tells.
    pub fn hear(&self, told: &[u8]) {
        match Told::read(told) {
            Some(Told::Snapshot { version, entries }) => {
                if self.obey(&entries, Duration::ZERO) {
                    self.heard_at.send_replace(Some(Instant::now()));
                    self.save(version, entries);
                }
            }
            Some(Told::Granted { to, ask, amount }) if to == self.us => {
                if let Some(waiting) = lock(&self.waiting).remove(&ask) {
                    // Who asked may not wait any more: then the grant counts as spent.
                    waiting.send(amount).ok();
                }
            }
            Some(Told::Granted { .. }) => {}
            None => tracing::debug!("what the control process tells cannot be read"),
        }
    }

    /// Puts a snapshot in force as of `age` ago; one that cannot be read is none.
    fn obey(&self, entries: &[Value], age: Duration) -> bool {
        let read: Result<Vec<Entry>, _> =
            entries.iter().map(|written| Entry::read(written.clone(), Timestamp::UNIX_EPOCH)).collect();
        match read {
            Ok(entries) => {
                self.live.replace(entries, age);
                true
            }
            Err(bad) => {
                tracing::error!(
                    alarm = "directives_broken",
                    "the control process tells directives that this version cannot read, so they are not obeyed and \
                     nobody is ended once the last ones are too old: {bad}"
                );
                false
            }
        }
    }

    fn restore(&self) {
        let saved = std::fs::read(&self.file).ok().and_then(|raw| serde_json::from_slice::<Saved>(&raw).ok());
        let Some(saved) = saved else { return };
        // A file from the future was written under another clock: its age is not known.
        if let Ok(age) = Duration::try_from(self.clock.now().duration_since(saved.heard_at))
            && self.obey(&saved.entries, age)
            && age < self.max_age
        {
            self.heard_at.send_replace(Instant::now().checked_sub(age));
        }
    }

    /// Keeps a snapshot for the next start. Without it the next start waits until it hears one.
    fn save(&self, version: i64, entries: Vec<Value>) {
        let mut saved = lock(&self.saved);
        if saved.is_some_and(|(last, at)| last == version && at.elapsed() < SAVE_EVERY) {
            return;
        }
        let written = write(&self.file, &Saved { heard_at: self.clock.now(), version, entries });
        match written {
            Ok(()) => *saved = Some((version, Instant::now())),
            Err(error) => tracing::warn!("the directives are not on disk: {error:#}"),
        }
    }
}

fn write(file: &Path, saved: &Saved) -> anyhow::Result<()> {
    let fresh = file.with_extension("json.new");
    std::fs::write(&fresh, serde_json::to_vec(saved)?).with_context(|| format!("cannot write {}", fresh.display()))?;
    std::fs::rename(&fresh, file).with_context(|| format!("cannot write {}", file.display()))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl Granter for Heard {
    async fn grant(&self, tenant: &TenantId, unspent: u32) -> Result<Granted, NoLeave> {
        let unreachable = |why: &str| NoLeave::Unreachable(anyhow::anyhow!("the control process {why}"));
        let ask = self.next_ask.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        lock(&self.waiting).insert(ask, answer);
        let question = Asked::Grant { from: self.us.clone(), ask, tenant: tenant.as_str().to_owned(), unspent };
        if self.questions.try_send(question.to_bytes()).is_err() {
            lock(&self.waiting).remove(&ask);
            return Err(unreachable("cannot be asked: too many questions wait"));
        }
        let answered = timeout(ANSWER_TIMEOUT, answered).await;
        lock(&self.waiting).remove(&ask);
        match answered {
            Ok(Ok(Some(amount))) => Ok(Granted { amount, valid_for: HEARD_GRANT_LIFE }),
            Ok(Ok(None)) => Err(NoLeave::Exhausted),
            _ => Err(unreachable("did not answer in time")),
        }
    }
}
