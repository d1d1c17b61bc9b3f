//! What came of runs.

use std::fmt;
use std::ops::AddAssign;

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) seeds: u64,
    pub(crate) logins: u64,
    pub(crate) logouts: u64,
    pub(crate) refreshes: u64,
    pub(crate) faults: u64,
    pub(crate) crashes: u64,
    pub(crate) calls: u64,
    pub(crate) revocations: u64,
    pub(crate) violations: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.seeds += other.seeds;
        self.logins += other.logins;
        self.logouts += other.logouts;
        self.refreshes += other.refreshes;
        self.faults += other.faults;
        self.crashes += other.crashes;
        self.calls += other.calls;
        self.revocations += other.revocations;
        self.violations += other.violations;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seeds, logins, logouts, refreshes, faults, crashes, calls, revocations, violations } = self;
        write!(
            f,
            "{seeds} seeds: {logins} logins, {logouts} logouts, {refreshes} refreshes, {faults} faults, {crashes} crashes, \
             {calls} provider calls, {revocations} revocations; violations {violations}"
        )
    }
}

/// A property that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) property: &'static str,
    pub(crate) text: String,
}
