//! Judges afterwards what revokers did. It knows every session that ever was, so it needs no help from them.
//!
//! The rule: with a limit of N, the N newest sessions of a user stay. *Newest* is by the instant that rows show
//! (a revoker cannot know more), then by the SHA-256 of the token; greater is newer.
//!
//! A revocation of session s at instant T is **right** if at least N sessions of the same user are witnesses: newer than
//! s, made at or before T, and alive at some instant of the window that ends at T. The window begins with the earliest
//! listing of that user that was answered within `revocation_window` before T; without such a listing it is T alone. So
//! a revoker is not blamed when a witness is logged out, expires or is revoked by another revoker between its listing
//! and its revocation, but it is blamed when it acts on an older listing, or on none at all. A witness that was itself
//! revoked before the window does not count: by then the rule has to be applied afresh.
//!
//! Where rows of expired tokens stay listed, a revocation that has enough witnesses only if such rows count is
//! **misled**: wrong in truth, but nobody could have known better.
//!
//! With `Keep::Oldest` the same holds with *older* for *newer*.
//!
//! A user is **emptied** if no session of his is alive, although one would be but for a wrong revocation, and he has not
//! logged out since that revocation. What a user or his support asked for by hand is a wrong revocation too, because
//! the sandbox cannot know of it; so are revocations by a rule that counts devices.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::{
    config::ExpiredRows,
    report::{Keep, Report, UserReport, Wrong},
    session::{Credentials, End, Ending, Moment, Session},
    user::User,
    world::World,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Right,
    Misled,
    Wrong,
}

impl World {
    /// Fills in everything that the world knows; calls and webhooks are added by others.
    pub(super) fn report(&self, limit: usize, keep: Keep, now: Timestamp) -> Report {
        let mut report = Report { limit, keep, users: self.users.len(), ..Report::default() };
        for session in &self.sessions {
            add(&mut report.sessions_by_state, session.state(now));
            report.live_sessions = report.live_sessions.saturating_add(usize::from(session.is_live(now)));
        }
        for user in self.users.values() {
            self.report_user(user, now, &mut report);
        }
        report
    }

    fn report_user(&self, user: &User, now: Timestamp, report: &mut Report) {
        let sessions: Vec<&Session> = self.sessions_of(user).collect();
        let live = sessions.iter().filter(|session| session.is_live(now)).count();
        let (mut revoked, mut wrong, mut emptied) = (0_usize, 0_usize, false);
        for session in &sessions {
            let Some(End { moment, how: Ending::Revoked { credentials, prevent_refresh, listed } }) = session.end
            else {
                continue;
            };
            revoked = revoked.saturating_add(1);
            add(&mut report.revocations_by_credentials, credentials.name());
            report.refreshable_after_revocation += usize::from(!prevent_refresh);
            let window = (listed, moment);
            let (verdict, witnesses) = self.judge(session, &sessions, window, report.limit, report.keep);
            let (at, listed_at) = (moment.at, listed.at);
            let finding = Wrong { uid: user.uid.clone(), session: session.id(), at, listed_at, witnesses, credentials };
            match verdict {
                Verdict::Right => {}
                Verdict::Misled => report.misled_revocations.push(finding),
                Verdict::Wrong => {
                    wrong = wrong.saturating_add(1);
                    let logged_out_since = user.last_logout.is_some_and(|logout| logout.place > moment.place);
                    emptied |= live == 0 && session.expires_at > now && !logged_out_since;
                    report.wrong_revocations.push(finding);
                }
            }
        }
        let uid = user.uid.clone();
        let over_limit = live > report.limit;
        if over_limit {
            report.over_limit.push(uid.clone());
        }
        if emptied {
            report.emptied.push(uid.clone());
        }
        report.by_user.push(UserReport { uid, live, over_limit, emptied, revoked, wrong });
    }

    /// Judges one revocation; see the top of this file. Also says how many witnesses there were.
    fn judge(
        &self,
        revoked: &Session,
        sessions: &[&Session],
        (listed, at): (Moment, Moment),
        limit: usize,
        keep: Keep,
    ) -> (Verdict, usize) {
        let displaces = |other: &&&Session| match keep {
            Keep::Newest => self.rank(other) > self.rank(revoked),
            Keep::Oldest => self.rank(other) < self.rank(revoked),
        };
        let made_in_time = |other: &&&Session| other.made.place < at.place && other.root != revoked.root;
        let others = || sessions.iter().filter(displaces).filter(made_in_time);
        // It was alive when the window began, or was made within it.
        let alive = |other: &&&Session| other.was_live(listed) || other.made.place > listed.place;
        let had_a_row = |other: &&&Session| {
            self.config.expired_rows == ExpiredRows::Listed
                && other.end.is_none_or(|end| end.moment.place > listed.place)
        };
        let witnesses = roots(others().filter(alive));
        let verdict = if witnesses >= limit {
            Verdict::Right
        } else if roots(others().filter(had_a_row)) >= limit {
            Verdict::Misled
        } else {
            Verdict::Wrong
        };
        (verdict, witnesses)
    }
}

/// A session and the one that took its place by refresh are one witness.
fn roots<'a>(sessions: impl Iterator<Item = &'a &'a Session>) -> usize {
    sessions.map(|session| session.root).collect::<BTreeSet<_>>().len()
}

fn add(counts: &mut BTreeMap<String, usize>, name: &str) {
    let count = counts.entry(name.to_owned()).or_default();
    *count = count.saturating_add(1);
}

impl Credentials {
    fn name(self) -> &'static str {
        match self {
            Self::SecretInHeaders => "secret_in_headers",
            Self::SecretInQuery => "secret_in_query",
            Self::Bearer => "bearer",
            Self::TokenInQuery => "token_in_query",
            Self::InProcess => "in_process",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::sandbox::{
        config::SandboxConfig,
        world::{Lookup, later},
    };

    /// A world in which `ann` acts; instants are seconds since its beginning.
    struct Ann(World);

    fn at(second: u64) -> Timestamp {
        later("2030-01-01T00:00:00Z".parse().unwrap(), Duration::from_secs(second))
    }

    impl Ann {
        fn new(config: SandboxConfig) -> Self {
            Self(World::new(config))
        }

        fn login(&mut self, second: u64) -> String {
            self.0.login("ann", None, at(second)).unwrap().0.access_token
        }

        fn list(&mut self, second: u64) {
            self.0.list(&Lookup::Account("ann".to_owned()), None, at(second)).unwrap();
        }

        fn revoke(&mut self, token: &str, second: u64) {
            self.0.invalidate(token, true, Credentials::Bearer, at(second)).unwrap();
        }

        /// Wrong, misled, emptied.
        fn findings(&self, limit: usize, second: u64) -> (usize, usize, usize) {
            let report = self.0.report(limit, Keep::Newest, at(second));
            (report.wrong_revocations.len(), report.misled_revocations.len(), report.emptied.len())
        }
    }

    #[test]
    fn revoking_the_older_of_two_is_right_with_a_limit_of_one_and_wrong_with_two() {
        let mut ann = Ann::new(SandboxConfig::default());
        let (old, _new) = (ann.login(1), ann.login(2));
        ann.list(3);
        ann.revoke(&old, 4);

        assert_eq!(ann.findings(1, 5), (0, 0, 0));
        assert_eq!(ann.findings(2, 5), (1, 0, 0));
    }

    #[test]
    fn revoking_the_newest_is_wrong() {
        let mut ann = Ann::new(SandboxConfig::default());
        let (_old, new) = (ann.login(1), ann.login(2));
        ann.list(3);
        ann.revoke(&new, 4);

        assert_eq!(ann.findings(1, 5), (1, 0, 0));
    }

    #[test]
    fn two_sessions_that_end_each_other_leave_an_emptied_user_whichever_dies_first() {
        for newest_first in [false, true] {
            let mut ann = Ann::new(SandboxConfig::default());
            let mut tokens = [ann.login(1), ann.login(2)];
            ann.list(3);
            if newest_first {
                tokens.reverse();
            }
            ann.revoke(&tokens[0], 4);
            ann.revoke(&tokens[1], 5);

            assert_eq!(ann.findings(1, 6), (1, 0, 1), "newest first: {newest_first}");
        }
    }

    #[test]
    fn a_revoker_is_not_blamed_for_a_logout_after_its_listing() {
        let mut ann = Ann::new(SandboxConfig::default());
        let (old, new) = (ann.login(1), ann.login(2));
        ann.list(3);
        ann.0.logout(&new, at(4));
        ann.revoke(&old, 5);

        assert_eq!(ann.findings(1, 6), (0, 0, 0));
    }

    #[test]
    fn a_revoker_is_blamed_when_its_listing_was_after_the_logout_or_too_long_ago() {
        for (listed_at, revoked_at) in [(5, 6), (3, 19)] {
            let mut ann = Ann::new(SandboxConfig::default());
            let (old, new) = (ann.login(1), ann.login(2));
            if listed_at < 4 {
                ann.list(listed_at);
            }
            ann.0.logout(&new, at(4));
            ann.list(listed_at.max(4));
            ann.revoke(&old, revoked_at);

            assert_eq!(ann.findings(1, 60), (1, 0, 1), "listed at {listed_at}");
        }
    }

    #[test]
    fn of_logins_at_one_instant_the_greatest_digest_is_the_newest() {
        let mut ann = Ann::new(SandboxConfig::default());
        let mut tokens = [ann.login(1), ann.login(1), ann.login(1)];
        tokens.sort_by_key(|token| crate::sandbox::session::digest(token));
        ann.list(2);
        ann.revoke(&tokens[0], 3);
        ann.revoke(&tokens[1], 3);
        assert_eq!(ann.findings(1, 4), (0, 0, 0));

        ann.revoke(&tokens[2], 3);
        assert_eq!(ann.findings(1, 4), (1, 0, 1));
    }

    #[test]
    fn rows_of_expired_tokens_mislead() {
        let config = SandboxConfig {
            expired_rows: ExpiredRows::Listed,
            token_lifetime: Duration::from_secs(100),
            ..SandboxConfig::default()
        };
        let mut ann = Ann::new(config);
        let old = ann.login(1);
        let ghost = ann.login(2);
        let renewed = ann.0.refresh(&old, at(90)).unwrap().access_token;
        ann.list(150);
        assert!(ann.0.live(&ghost, at(150)).is_err());
        ann.revoke(&renewed, 151);

        assert_eq!(ann.findings(1, 152), (0, 1, 0));
    }

    #[test]
    fn a_session_and_its_refreshed_successor_are_one_witness() {
        let mut ann = Ann::new(SandboxConfig::default());
        let (old, new) = (ann.login(1), ann.login(2));
        ann.list(3);
        ann.0.refresh(&new, at(4)).unwrap();
        ann.revoke(&old, 5);

        assert_eq!(ann.findings(1, 6), (0, 0, 0));
        assert_eq!(ann.findings(2, 6), (1, 0, 0));
    }

    #[test]
    fn a_session_is_no_witness_against_its_own_successor() {
        // Whichever of the two has the greater digest, over several draws of tokens.
        for seed in 0..8 {
            let mut ann = Ann::new(SandboxConfig { seed, ..SandboxConfig::default() });
            let old = ann.login(1);
            ann.list(2);
            let new = ann.0.refresh(&old, at(3)).unwrap().access_token;
            ann.revoke(&new, 4);

            assert_eq!(ann.findings(1, 5), (1, 0, 1), "seed {seed}");
        }
    }

    #[test]
    fn the_rule_that_keeps_the_oldest_is_judged_the_other_way_round() {
        let mut ann = Ann::new(SandboxConfig::default());
        let (_old, new) = (ann.login(1), ann.login(2));
        ann.list(3);
        ann.revoke(&new, 4);

        assert!(ann.0.report(1, Keep::Oldest, at(5)).wrong_revocations.is_empty());
    }
}
