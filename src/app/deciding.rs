//! Where this process has its directives from: it decides them itself, or hears them from the process that does.

use std::sync::Arc;

use crate::clock::Clock;
use crate::config::{Config, Revocations};
use crate::directives::{Control, Heard, LiveDirectives, Purse, Questions};
use crate::telemetry::Metrics;
use crate::worker::Brakes;

/// The directives of a process, and how it came by them.
pub(super) struct Deciding {
    pub(super) live: Arc<LiveDirectives>,
    pub(super) source: Source,
    pub(super) brakes: Brakes,
}

pub(super) enum Source {
    Own(Arc<Control>),
    /// With the questions that are to be sent to the process that decides.
    Elsewhere(Arc<Heard>, Option<Questions>),
}

impl Deciding {
    /// `decides`: no other process does.
    pub(super) fn open(config: &Config, decides: bool, clock: Clock, metrics: &Metrics) -> anyhow::Result<Self> {
        let (written, budget) = (config.written_policies(), config.budget.revocations);
        let (live, source, granter) = if decides {
            let control = Control::open(&config.data_dir, written, budget, clock, metrics.clone())?;
            let control = Arc::new(control);
            (control.live(), Source::Own(Arc::clone(&control)), control as _)
        } else {
            let (heard, questions) = Heard::open(&config.data_dir, written, config.directives.max_age, clock)?;
            let heard = Arc::new(heard);
            (heard.live(), Source::Elsewhere(Arc::clone(&heard), Some(questions)), heard as _)
        };
        let purse = match budget {
            Revocations::Unlimited => Purse::unlimited(),
            Revocations::AtMost(_) => Purse::of(granter),
        };
        let control = match &source {
            Source::Own(control) => Some(Arc::clone(control)),
            Source::Elsewhere(..) => None,
        };
        Ok(Self { live, source, brakes: Brakes { purse: Arc::new(purse), guard: config.guard, control } })
    }

    /// Where another process decides.
    pub(super) fn heard(&self) -> Option<Arc<Heard>> {
        match &self.source {
            Source::Own(_) => None,
            Source::Elsewhere(heard, _) => Some(Arc::clone(heard)),
        }
    }

    pub(super) fn control(&self) -> Option<Arc<Control>> {
        self.brakes.control.clone()
    }
}
