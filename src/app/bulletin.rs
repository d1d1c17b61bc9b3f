//! What the control process tells the workers: all directives at every change and twice a minute, and grants.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::time::MissedTickBehavior;

use crate::directives::{Control, Heard};
use crate::queue::rabbitmq::Announcements;

/// How often the directives are told though nothing has changed.
const TELL_EVERY: Duration = Duration::from_secs(30);
/// Questions of workers that wait to be answered.
pub(super) const QUESTIONS_MAX: usize = 1_000;

/// The voice of the process that decides.
pub(super) struct Bulletin {
    control: Arc<Control>,
    telling: Mutex<Telling>,
}

struct Telling {
    tick: tokio::time::Interval,
    versions: watch::Receiver<i64>,
    questions: mpsc::Receiver<Vec<u8>>,
}

impl Bulletin {
    pub(super) fn new(control: Arc<Control>, questions: mpsc::Receiver<Vec<u8>>) -> Self {
        let mut tick = tokio::time::interval(TELL_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let telling = Telling { tick, versions: control.versions(), questions };
        Self { control, telling: Mutex::new(telling) }
    }
}

#[async_trait]
impl Announcements for Bulletin {
    async fn next(&self) -> Vec<u8> {
        let mut telling = self.telling.lock().await;
        let Telling { tick, versions, questions } = &mut *telling;
        loop {
            tokio::select! {
                _ = tick.tick() => return self.control.snapshot(),
                // The sender lives in the control.
                _ = versions.changed() => return self.control.snapshot(),
                Some(question) = questions.recv() => {
                    if let Some(answer) = self.control.answer(&question).await {
                        return answer;
                    }
                }
            }
        }
    }

    fn heard(&self, _announcement: &[u8]) {}
}

/// The ear of a process that does not decide.
pub(super) struct Ear(pub(super) Arc<Heard>);

#[async_trait]
impl Announcements for Ear {
    async fn next(&self) -> Vec<u8> {
        std::future::pending().await
    }

    fn heard(&self, announcement: &[u8]) {
        self.0.hear(announcement);
    }
}
