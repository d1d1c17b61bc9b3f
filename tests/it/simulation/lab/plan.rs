//! What happens in one run, as data: it can be printed, repeated and made smaller.

use std::fmt;

/// Everything that a run depends on.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Of the small dice: latencies, the order of rows, jitter.
    pub(crate) seed: u64,
    pub(crate) rules: Rules,
    pub(crate) habits: Habits,
    pub(crate) workers: usize,
    /// A worker that dies takes the queue with it, as where all is one process.
    pub(crate) is_one_process: bool,
    pub(crate) requests_per_second: Option<u32>,
    pub(crate) attempts_max: u32,
    /// Revocations an hour.
    pub(crate) budget: Option<u32>,
    /// So many evictions of one user that alternate make a pause.
    pub(crate) guard_evictions: u32,
    /// How far the workers' clock is off the provider's.
    pub(crate) clock_off_hours: i64,
    pub(crate) users: Vec<Standing>,
    pub(crate) acts: Vec<Act>,
    pub(crate) faults: Vec<Fault>,
    pub(crate) crashes: Vec<Crash>,
    /// When the queue's process dies, and for how long it is away.
    pub(crate) queue_crashes: Vec<(u64, u64)>,
}

/// The policy of the plain user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    pub(crate) mode: &'static str,
    pub(crate) limit: u32,
    pub(crate) strategy: &'static str,
    pub(crate) by_device: bool,
    pub(crate) bucketed: bool,
    pub(crate) session_lifetime: &'static str,
}

/// How the provider behaves all the time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Habits {
    pub(crate) listed_times: Cut,
    /// Events carry the login's time; otherwise only the second in which they were made.
    pub(crate) events_tell_login: bool,
    /// A refresh ends the old token; otherwise its row stays as a ghost.
    pub(crate) refresh_replaces: bool,
    /// A refresh stamps a new login time.
    pub(crate) refresh_restamps: bool,
    /// How long rows stay listed whose session the user has ended.
    pub(crate) ghosts_ms: u64,
    /// How long rows stay listed whose session was revoked.
    pub(crate) revoked_listed_ms: u64,
    pub(crate) latency_ms: u64,
    /// How many sessions their clients refresh while their revocation is on its way.
    pub(crate) refreshes_at_revoke: u32,
}

/// How exactly listings tell login times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    Nanos,
    Millis,
    Seconds,
}

/// What holds for a user besides the plain rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Plain,
    /// An override with this limit.
    Override(u32),
    /// An exemption by role: only the profile tells.
    Exempt,
    /// Whose clients log in again whenever they are ended.
    Stubborn,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Act {
    pub(crate) at_ms: u64,
    pub(crate) user: usize,
    pub(crate) what: What,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum What {
    Login {
        device: u64,
        lag_ms: u64,
        time_known: bool,
        event: Event,
    },
    /// The living session at this place, modulo their number.
    Logout {
        which: usize,
    },
    Refresh {
        which: usize,
        lag_ms: u64,
    },
    /// It is used: its last activity is now.
    Use {
        which: usize,
    },
}

/// What becomes of a login's webhook.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event {
    pub(crate) delay_ms: u64,
    pub(crate) copies: u64,
    pub(crate) is_lost: bool,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub(crate) from_ms: u64,
    pub(crate) to_ms: u64,
    /// `None`: of all.
    pub(crate) user: Option<usize>,
    pub(crate) percent: u64,
    pub(crate) kind: FaultKind,
}

/// Every class of failure that the provider's port knows, and what else may be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum FaultKind {
    Timeout,
    Throttled,
    ServerError,
    Garbage,
    AnswerLost,
    RefusedCredentials,
    UserUnknown,
    Refused,
    IncompleteList,
    StaleDirectives,
}

impl FaultKind {
    pub(crate) const ALL: [Self; 10] = [
        Self::Timeout,
        Self::Throttled,
        Self::ServerError,
        Self::Garbage,
        Self::AnswerLost,
        Self::RefusedCredentials,
        Self::UserUnknown,
        Self::Refused,
        Self::IncompleteList,
        Self::StaleDirectives,
    ];

    /// Whether the provider does not answer.
    pub(crate) fn is_outage(self) -> bool {
        matches!(self, Self::Timeout | Self::ServerError | Self::Garbage)
    }
}

/// What a worker does to the world outside of it. It may die right before and right after each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Effect {
    Receive,
    Seen,
    List,
    Profile,
    Intend,
    Revoke,
    Outcome,
    Settle,
    /// The successor of a delivery is durable, and the delivery itself is not acked yet.
    Successor,
}

impl Effect {
    pub(crate) const ALL: [Self; 9] = [
        Self::Receive,
        Self::Seen,
        Self::List,
        Self::Profile,
        Self::Intend,
        Self::Revoke,
        Self::Outcome,
        Self::Settle,
        Self::Successor,
    ];
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Before,
    After,
}

/// A worker dies at its `nth` effect of this kind, counted over all its lives.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crash {
    pub(crate) worker: usize,
    pub(crate) effect: Effect,
    pub(crate) nth: u32,
    pub(crate) side: Side,
    pub(crate) down_ms: u64,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  policy   {:?}", self.rules)?;
        writeln!(f, "  provider {:?}", self.habits)?;
        let process = if self.is_one_process { "one process with the queue" } else { "beside the queue" };
        let rate = self.requests_per_second.map_or("no".to_owned(), |rate| format!("{rate}/s"));
        let (workers, attempts, off) = (self.workers, self.attempts_max, self.clock_off_hours);
        writeln!(f, "  workers  {workers}, {process}; rate {rate}; attempts {attempts}; clock off by {off} h")?;
        let budget = self.budget.map_or("no".to_owned(), |budget| format!("{budget} an hour"));
        writeln!(f, "  brakes   budget {budget}; guard after {} evictions", self.guard_evictions)?;
        writeln!(f, "  users    {:?}", self.users)?;
        for Act { at_ms, user, what } in &self.acts {
            writeln!(f, "  at {at_ms:>7} ms  user-{user}  {what:?}")?;
        }
        for Fault { from_ms, to_ms, user, percent, kind } in &self.faults {
            let whose = user.map_or("all users".to_owned(), |user| format!("user-{user}"));
            writeln!(f, "  fault {from_ms}..{to_ms} ms  {kind:?}, {percent} % of the calls for {whose}")?;
        }
        for Crash { worker, effect, nth, side, down_ms } in &self.crashes {
            writeln!(f, "  crash of worker {worker}  {side:?} {effect:?} number {nth}, down for {down_ms} ms")?;
        }
        for (at, down) in &self.queue_crashes {
            writeln!(f, "  crash of the queue at {at} ms, down for {down} ms")?;
        }
        Ok(())
    }
}
