//! Whether what was done is right, by the provider's own truth.
//!
//! A revocation is right if the rule ends that session in two lists: in the one that this worker was given last, no
//! longer ago than a step may take; and, where the oldest go first, in the full one of that moment, with the rows that a
//! lag hid, too. Rows of sessions that are dead already are in both while the provider lists them: it counts them as
//! devices, and who reads its lists cannot tell them from others.

use std::collections::HashSet;
use std::time::Duration;

use soloist::model::TokenDigest;
use soloist::policy::{Mode, Policy, Strategy};
use tokio::time::Instant;

use super::counts::Violation;
use super::rule::{self, Row};
use super::world::{BEGIN, End, Session, State, Told, World};

/// A step's deadline: what was listed longer ago is no ground for a revocation.
pub(crate) const STEP_DEADLINE: Duration = Duration::from_secs(15);
/// From the first look on, the re-checks go on for 156 s; a login whose second alone is known gets one after 5 s.
const LADDER_MS: u64 = 150_000;
const ONE_RECHECK_MS: u64 = 4_500;

/// What a worker was given, and what was true.
pub(crate) struct Listing {
    pub(crate) at: Instant,
    pub(crate) given: Vec<Row>,
    pub(crate) is_complete: bool,
    /// Living sessions and rows of dead ones, those too that a lag hides.
    pub(crate) truth: Vec<Row>,
    pub(crate) alive: Vec<TokenDigest>,
    pub(crate) has_ghosts: bool,
    /// What the worker wrote down before it ended anybody.
    pub(crate) intended: HashSet<TokenDigest>,
}

impl State {
    pub(crate) fn violated(&mut self, property: &'static str, text: String) {
        self.counts.violations += 1;
        self.violations.push(Violation { property, text });
    }
}

impl World {
    /// Judges the end of a living session by a worker, right after it.
    pub(crate) fn judge_revocation(&self, state: &mut State, worker: usize, user: usize, session: &Session) {
        let who = format!("worker {worker} ended session {:?} of user-{user}", session.row.digest);
        let Some(policy) = self.policy_of(user) else {
            return state.violated("P9 exempt", format!("{who}, who is exempt"));
        };
        if policy.mode != Mode::Enforce {
            state.violated("P17 observe", format!("{who} in mode {}", policy.mode.as_str()));
        }
        let Some(listing) = state.listings.get(&(worker, user)) else {
            return state.violated("no list, no revocation", who);
        };
        let problem = wrong(listing, &policy, session.row.digest);
        let alive = |digest: &TokenDigest| {
            let same = state.users[user].sessions.iter().find(|other| other.row.digest == *digest);
            same.is_some_and(|other| !matches!(other.ended, Some((_, End::Revoked))))
        };
        let is_nobody_left = !listing.has_ghosts && !listing.alive.iter().any(alive);
        if let Some(problem) = problem {
            state.violated("wrong revocation", format!("{who}: {problem}"));
        }
        if is_nobody_left {
            state.violated("P12 never none", format!("{who}: nobody of that list is left"));
        }
    }

    /// Looks at every user when all is quiet. Before the sweep less is promised than after it.
    pub(crate) fn judge_end(&self, is_swept: bool) {
        let mut state = self.lock();
        for user in 0..self.plan.users.len() {
            let Some(policy) = self.policy_of(user) else { continue };
            if !state.users[user].is_known || (!is_swept && !self.is_promised_before_sweep(&state, user)) {
                continue;
            }
            let sessions = &state.users[user].sessions;
            let alive: Vec<Row> = sessions.iter().filter(|s| s.is_alive()).map(|s| s.row.clone()).collect();
            let surplus = rule::over(&alive, &policy);
            match (policy.mode, policy.strategy) {
                (Mode::Enforce, Strategy::EvictOldest) if !surplus.is_empty() => {
                    let when = if is_swept { "P12 converged" } else { "converged before the sweep" };
                    let text = format!("user-{user} has {} sessions, too many: {surplus:?}", alive.len());
                    state.violated(when, text);
                }
                (Mode::Enforce, Strategy::RejectNewest) if !surplus.is_empty() => {
                    self.judge_rejection(&mut state, user, &surplus);
                }
                (Mode::Observe, Strategy::EvictOldest) if is_swept => self.judge_observed(&mut state, user, &policy),
                _ => {}
            }
        }
    }

    /// Under `reject_newest` only the look for a login ends that login. So of what a lag hid then, of a login whose event
    /// was lost, and of a row that came about by a refresh nothing is promised.
    fn judge_rejection(&self, state: &mut State, user: usize, surplus: &HashSet<TokenDigest>) {
        let of = &state.users[user];
        let is_plain =
            |s: &Session| s.row.at.is_some() && s.visible_from <= self.instant_of(s) && s.event == Told::Accepted;
        if of.excuses.is_empty() && of.sessions.iter().all(is_plain) {
            state.violated("P12 converged", format!("user-{user} was to be kept out, but is in: {surplus:?}"));
        }
    }

    fn instant_of(&self, session: &Session) -> Instant {
        let since = session.logged_in.duration_since(BEGIN);
        self.began + Duration::try_from(since).unwrap_or_default()
    }

    /// The last decision that was written down after the sweep began is the rule's.
    fn judge_observed(&self, state: &mut State, user: usize, policy: &Policy) {
        let of = &state.users[user];
        let listed: Vec<Row> = of.sessions.iter().filter(|s| self.is_listed(s)).map(|s| s.row.clone()).collect();
        let wanted = rule::over(&listed, policy);
        let recorded = of.recorded.as_ref().filter(|(at, _)| state.sweeping_since.is_some_and(|since| *at >= since));
        let written: HashSet<TokenDigest> = recorded.map(|(_, all)| all.iter().copied().collect()).unwrap_or_default();
        if written != wanted {
            let text = format!("of user-{user} it would end {written:?}, and the rule says {wanted:?}");
            state.violated("P17 observe", text);
        }
    }

    /// Whether this user's surplus must be gone before the sweep: the newest login was told of and comes to be listed
    /// while there are re-checks, and everything older was listed before it. Of two logins within one millisecond, which is
    /// as exactly as a listing need tell, one stands for the other.
    fn is_promised_before_sweep(&self, state: &State, user: usize) -> bool {
        let of = &state.users[user];
        let Some(newest) = of.sessions.iter().filter(|s| s.event != Told::Refresh).max_by_key(|s| s.logged_in) else {
            return false;
        };
        let at = self.instant_of(newest);
        let longest = if self.plan.habits.events_tell_login { LADDER_MS } else { ONE_RECHECK_MS };
        let is_listed_in_time = newest.visible_from <= at + Duration::from_millis(longest);
        let others = of.sessions.iter().filter(|s| s.row.digest != newest.row.digest);
        let is_before = |s: &Session| s.logged_in.as_millisecond() < newest.logged_in.as_millisecond();
        let mut others_are_listed = others.map(|s| s.visible_from <= at && is_before(s));
        let is_told = newest.event == Told::Accepted && newest.row.at.is_some();
        is_told && is_listed_in_time && others_are_listed.all(|listed| listed) && of.excuses.is_empty()
    }
}

/// What is wrong with ending this session on the grounds of this listing.
fn wrong(listing: &Listing, policy: &Policy, digest: TokenDigest) -> Option<&'static str> {
    if listing.at.elapsed() > STEP_DEADLINE {
        return Some("the list it goes by is older than a step may take");
    }
    if !listing.intended.contains(&digest) {
        return Some("no intent was written before");
    }
    let rejects = policy.strategy == Strategy::RejectNewest;
    if rejects && (!listing.is_complete || listing.given.iter().any(|row| row.at.is_none())) {
        return Some("the list does not tell who is the newest");
    }
    if !rule::over(&listing.given, policy).contains(&digest) {
        return Some("the rule keeps it in the list that was given");
    }
    // Under `reject_newest` a row that was hidden may have taken away a witness.
    let is_right = rejects || rule::over(&listing.truth, policy).contains(&digest);
    (!is_right).then_some("the rule keeps it in the full list of that moment")
}
