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
use super::{Granted, Granter, NoLeave, Unspent};
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

/// How many sessions were granted, and the minute that they count in; `None`: the budget is used up.
type Answer = Option<(u32, i64)>;

/// The directives of a process that does not decide.
pub struct Heard {
    live: Arc<LiveDirectives>,
    file: PathBuf,
    /// The number of the last change that was obeyed.
    version: Mutex<i64>,
    /// Names this run of the process.
    us: String,
    next_ask: AtomicU64,
    waiting: Mutex<HashMap<u64, oneshot::Sender<Answer>>>,
    questions: mpsc::Sender<(Instant, Vec<u8>)>,
    saved: Mutex<Option<(i64, Instant)>>,
    heard_at: watch::Sender<Option<Instant>>,
    clock: Clock,
}

/// What is to be asked of the deciding process.
pub struct Questions(mpsc::Receiver<(Instant, Vec<u8>)>);

impl Questions {
    /// The next one whose asker still waits; `None` when there will be none. Cancel-safe.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            let (asked_at, question) = self.0.recv().await?;
            if asked_at.elapsed() < ANSWER_TIMEOUT {
                return Some(question);
            }
        }
    }
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
    ) -> anyhow::Result<(Self, Questions)> {
        let (questions, to_send) = mpsc::channel(QUESTIONS_MAX);
        let heard = Self {
            live: Arc::new(LiveDirectives::heard(written, max_age, clock)?),
            file: data_dir.join(FILE),
            version: Mutex::default(),
            us: uuid::Uuid::new_v4().to_string(),
            next_ask: AtomicU64::new(1),
            waiting: Mutex::default(),
            questions,
            saved: Mutex::default(),
            heard_at: watch::Sender::default(),
            clock,
        };
        heard.restore();
        Ok((heard, Questions(to_send)))
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
                if self.has_regressed(version) {
                    return;
                }
                if self.obey(&entries, Duration::ZERO) {
                    *lock(&self.version) = version;
                    self.heard_at.send_replace(Some(Instant::now()));
                    self.save(version, entries);
                }
            }
            Some(Told::Granted { to, ask, amount, minute }) if to == self.us => {
                if let Some(waiting) = lock(&self.waiting).remove(&ask) {
                    // Who asked may not wait any more: then the grant counts as spent.
                    waiting.send(amount.map(|amount| (amount, minute))).ok();
                }
            }
            Some(Told::Granted { .. }) => {}
            None => tracing::debug!("what the control process tells cannot be read"),
        }
    }

    /// Whether the deciding process has fewer changes than it had: then its file is not the one that it was, and the
    /// exemptions in the old one may be missing. So nobody is ended by it.
    fn has_regressed(&self, version: i64) -> bool {
        let known = *lock(&self.version);
        if version < known {
            tracing::error!(
                alarm = "directives_regressed",
                "the control process tells {version} changes where it had told {known}: its directives.db is not the one \
                 it had, so it is not obeyed. Restore that file; or, if it is meant to begin anew, remove {} and start \
                 this process again",
                self.file.display()
            );
        }
        version < known
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
        *lock(&self.version) = saved.version;
        // A file from the future was written under another clock: its age is not known.
        if let Ok(age) = Duration::try_from(self.clock.now().duration_since(saved.heard_at)) {
            self.obey(&saved.entries, age);
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
    async fn grant(&self, tenant: &TenantId, unspent: Unspent) -> Result<Granted, NoLeave> {
        let unreachable = |why: &str| NoLeave::Unreachable(anyhow::anyhow!("the control process {why}"));
        let ask = self.next_ask.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        lock(&self.waiting).insert(ask, answer);
        let Unspent { amount: unspent, of_minute } = unspent;
        let tenant = tenant.as_str().to_owned();
        let question = Asked::Grant { from: self.us.clone(), ask, tenant, unspent, of_minute };
        if self.questions.try_send((Instant::now(), question.to_bytes())).is_err() {
            lock(&self.waiting).remove(&ask);
            return Err(unreachable("cannot be asked: too many questions wait"));
        }
        let answered = timeout(ANSWER_TIMEOUT, answered).await;
        lock(&self.waiting).remove(&ask);
        match answered {
            Ok(Ok(Some((amount, minute)))) => Ok(Granted { amount, minute, valid_for: HEARD_GRANT_LIFE }),
            Ok(Ok(None)) => Err(NoLeave::Exhausted),
            _ => Err(unreachable("did not answer in time")),
        }
    }
}
