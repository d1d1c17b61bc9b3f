//! What keeps a mistake from spreading: directives that age, the revocation budget, the guard against ping-pong.

use std::num::NonZeroU32;
use std::time::Duration;

use super::reader::Reader;

/// `[directives]`: what was decided at run time.
#[derive(Clone, Copy, Debug)]
pub struct DirectivesConfig {
    /// A worker whose directives are older ends nobody.
    pub max_age: Duration,
}

/// `[budget]`: how many sessions may be ended.
#[derive(Clone, Copy, Debug)]
pub struct BudgetConfig {
    /// Per tenant and hour.
    pub revocations: Revocations,
}

/// How many sessions of a tenant may be ended in an hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revocations {
    AtMost(NonZeroU32),
    Unlimited,
}

/// `[guard]`: when a user's devices kick each other for ever.
#[derive(Clone, Copy, Debug)]
pub struct GuardConfig {
    /// Evictions of one user within `window` that alternate between the same devices.
    pub evictions: u32,
    pub window: Duration,
    pub action: GuardAction,
    /// How long evictions of such a user pause, with [`GuardAction::Hold`].
    pub hold_for: Duration,
}

/// What is done about a user whose devices kick each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuardAction {
    /// Pause the evictions of that user.
    Hold,
    /// Say so, and go on.
    Notify,
    /// Go on.
    Continue,
}

pub(super) fn read_directives(reader: &mut Reader) -> DirectivesConfig {
    DirectivesConfig { max_age: reader.take("directives.max_age") }
}

pub(super) fn read_budget(reader: &mut Reader) -> BudgetConfig {
    BudgetConfig { revocations: reader.take("budget.revocations") }
}

pub(super) fn read_guard(reader: &mut Reader) -> GuardConfig {
    GuardConfig {
        evictions: reader.take("guard.evictions"),
        window: reader.take("guard.window"),
        action: reader.take("guard.action"),
        hold_for: reader.take("guard.hold_for"),
    }
}
