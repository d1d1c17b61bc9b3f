//! What a provider call is for, which says when its turn comes.

use crate::model::Lane;

/// What a call is for. Revocations go first; logins before what apps ask, and that before background; and in each lane
/// what a step has begun before what begins one: else many steps would share a low rate until the deadline of them all
/// passes, and none would end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CallClass {
    Revocation,
    StartedLogins,
    Logins,
    /// An app or a person waits for the answer.
    Asked,
    StartedBackground,
    Background,
}

impl CallClass {
    pub(super) const COUNT: usize = 6;

    pub(super) fn of(lane: Lane) -> Self {
        match lane {
            Lane::Logins => Self::Logins,
            Lane::Background => Self::Background,
        }
    }

    /// The same for the further calls of a step.
    pub(super) fn started(self) -> Self {
        match self {
            Self::Logins => Self::StartedLogins,
            Self::Background => Self::StartedBackground,
            started => started,
        }
    }

    pub(super) fn index(self) -> usize {
        match self {
            Self::Revocation => 0,
            Self::StartedLogins => 1,
            Self::Logins => 2,
            Self::Asked => 3,
            Self::StartedBackground => 4,
            Self::Background => 5,
        }
    }

    pub(super) fn is_background(self) -> bool {
        matches!(self, Self::StartedBackground | Self::Background)
    }
}
