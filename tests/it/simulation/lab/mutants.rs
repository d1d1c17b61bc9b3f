//! Faults that are planted, one at a time, to see that the simulation finds them. None is in the program: each is what a
//! port says or does wrongly, so that the real step decides and acts as if it had the fault itself.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use soloist::config::{GuardAction, Rate};
use soloist::directives::Purse;
use soloist::worker::WorkerParts;

use super::hands::Life;
use super::planted::{Liar, Memory, OwnBudget, QueueWithFault};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Mutant {
    VictimsFromEvent,
    OrderByActivity,
    OrderByListing,
    TiesByTimeOnly,
    UnknownTimeIsOldest,
    UnknownDevicesAreOne,
    IncompleteIsComplete,
    FailureIsEmptyList,
    ReplayedDecision,
    NoSecondListing,
    AckBeforeRevoke,
    NoRecheck,
    SuccessorInMemory,
    NoSweep,
    NotSeen,
    GoneIsFailure,
    GuessedDirectives,
    GuessedProfile,
    NoIntent,
    ObserveEnds,
    GivesUpInOutage,
    AcceptsTooEarly,
    RateIgnored,
    BudgetIgnored,
    BudgetOfEachLife,
    NoGuard,
}

impl Mutant {
    pub(crate) const ALL: [Self; 26] = [
        Self::VictimsFromEvent,
        Self::OrderByActivity,
        Self::OrderByListing,
        Self::TiesByTimeOnly,
        Self::UnknownTimeIsOldest,
        Self::UnknownDevicesAreOne,
        Self::IncompleteIsComplete,
        Self::FailureIsEmptyList,
        Self::ReplayedDecision,
        Self::NoSecondListing,
        Self::AckBeforeRevoke,
        Self::NoRecheck,
        Self::SuccessorInMemory,
        Self::NoSweep,
        Self::NotSeen,
        Self::GoneIsFailure,
        Self::GuessedDirectives,
        Self::GuessedProfile,
        Self::NoIntent,
        Self::ObserveEnds,
        Self::GivesUpInOutage,
        Self::AcceptsTooEarly,
        Self::RateIgnored,
        Self::BudgetIgnored,
        Self::BudgetOfEachLife,
        Self::NoGuard,
    ];

    pub(crate) fn in_words(self) -> &'static str {
        match self {
            Self::VictimsFromEvent => "ends every session but the one that the event tells of",
            Self::OrderByActivity => "orders by last activity",
            Self::OrderByListing => "keeps the newest by their place in the list",
            Self::TiesByTimeOnly => "takes sessions of one instant for each other's witnesses",
            Self::UnknownTimeIsOldest => "takes an unknown time for the oldest",
            Self::UnknownDevicesAreOne => "takes all unknown devices for one",
            Self::IncompleteIsComplete => "takes an incomplete list for a complete one",
            Self::FailureIsEmptyList => "takes an answer that cannot be read for an empty list",
            Self::ReplayedDecision => "replays its decision at the next attempt",
            Self::NoSecondListing => "does not list again after it has revoked",
            Self::AckBeforeRevoke => "acks before it revokes",
            Self::NoRecheck => "drops re-checks",
            Self::SuccessorInMemory => "acks before the successor is durable",
            Self::NoSweep => "does not sweep",
            Self::NotSeen => "settles an event before its user is known to the sweep",
            Self::GoneIsFailure => "takes \"already gone\" for a failure",
            Self::GuessedDirectives => "guesses the policy when directives are stale",
            Self::GuessedProfile => "guesses the profile when it cannot be had",
            Self::NoIntent => "writes no intent",
            Self::ObserveEnds => "revokes in observe mode",
            Self::GivesUpInOutage => "gives up in an outage",
            Self::AcceptsTooEarly => "accepts an event before it is durable",
            Self::RateIgnored => "does not keep to the rate",
            Self::BudgetIgnored => "does not ask for its part of the budget",
            Self::BudgetOfEachLife => "begins a new budget with each start",
            Self::NoGuard => "does not notice that clients end each other for ever",
        }
    }

    /// The parts of a worker with the fault in them.
    pub(crate) fn dress(self, mut parts: WorkerParts, life: &Life) -> WorkerParts {
        let memory = Arc::new(Memory::default());
        let liar = Arc::new(Liar {
            mutant: self,
            life: life.clone(),
            provider: Arc::clone(&parts.provider),
            directives: Arc::clone(&parts.directives),
            ledger: Arc::clone(&parts.ledger),
            memory: Arc::clone(&memory),
        });
        (parts.provider, parts.directives, parts.ledger) = (liar.clone(), liar.clone(), liar);
        parts.queue = Arc::new(QueueWithFault { mutant: self, queue: Arc::clone(&parts.queue), memory });
        match self {
            Self::RateIgnored => parts.rate = Rate::Unlimited,
            Self::BudgetIgnored => parts.brakes.purse = Arc::new(Purse::unlimited()),
            Self::BudgetOfEachLife => {
                if let Some(budget) = life.world.plan.budget {
                    parts.brakes.purse = Arc::new(Purse::of(Arc::new(OwnBudget(AtomicU32::new(budget)))));
                }
            }
            Self::NoGuard => parts.brakes.guard.action = GuardAction::Continue,
            _ => {}
        }
        parts
    }
}
