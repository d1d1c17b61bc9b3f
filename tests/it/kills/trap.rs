//! Kills a process at a moment that was chosen before, from wherever that moment is seen.

use std::sync::Mutex;

use tokio::sync::Notify;

use crate::support::process::Serving;
use crate::support::soon;

/// What the process has just done. All but the first are of one user's step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Answered 202: the event is durable, and perhaps nothing more.
    Published,
    /// Listed and written its intent: its first revocation arrives, and is not carried out.
    Listed,
    /// Revoked: the session is ended, and the process will never read so.
    Revoked,
    /// Looked again and found nothing left to do: all but the settlement.
    LookedAgain,
}

/// One process at a time is in it.
#[derive(Default)]
pub(super) struct Trap {
    armed: Mutex<Option<Armed>>,
    sprung: Notify,
}

struct Armed {
    victim: Serving,
    step: Option<Step>,
    passes_left: usize,
}

impl Trap {
    /// Kills the process when it takes this step, after it has taken it so often. Without a step only [`Self::spring`]
    /// does.
    pub(super) fn arm(&self, victim: Serving, step: Option<Step>, passes_left: usize) {
        *self.armed.lock().unwrap() = Some(Armed { victim, step, passes_left });
    }

    /// The process has taken a step. When this returns true it has just been killed.
    pub(super) fn passed(&self, step: Step) -> bool {
        let mut armed = self.armed.lock().unwrap();
        let Some(waiting) = armed.as_mut().filter(|armed| armed.step == Some(step)) else { return false };
        if waiting.passes_left > 0 {
            waiting.passes_left -= 1;
            return false;
        }
        waiting.step = None;
        waiting.victim.strike();
        self.sprung.notify_one();
        true
    }

    /// Waits until the process is killed, and takes it out; what it had logged.
    pub(super) async fn sprung(&self) -> Vec<String> {
        soon("the step at which the process is killed", self.sprung.notified()).await;
        self.spring().await
    }

    /// Kills the process, if it is not dead yet.
    pub(super) async fn spring(&self) -> Vec<String> {
        let armed = self.armed.lock().unwrap().take();
        armed.unwrap().victim.kill().await
    }
}
