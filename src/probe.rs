//! Measures at a tenant what its vendor leaves open, with the sessions that one test user begins for it.
//!
//! Key, secret and uid are enough: a listing shows the tokens of its sessions. Only the login itself needs somebody who
//! logs in. The probe touches no session that was there before, except that it may ask whether one is still alive.

use std::collections::HashSet;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use tokio::time::{Instant, sleep, sleep_until};

use crate::model::{AccessToken, Session, TokenDigest, UserId, View};
use crate::provider::loginradius::{LoginRadius, ProbedProfile, Said};
use crate::provider::{ProviderError, SessionProvider as _};

/// Between two looks. Two calls each: below the five a second that the vendor allows development tenants.
pub const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long somebody may take to log in.
pub const LOGIN_PATIENCE: Duration = Duration::from_mins(2);
/// How long a change may take to show in a listing.
const LIST_PATIENCE: Duration = Duration::from_secs(30);
/// How long a row must stay to count as staying: at least so long, and twice as long as a login took to be listed.
const STAYS_AFTER: Duration = Duration::from_secs(3);
/// Between a login and its refresh, so that whole seconds can tell them apart.
const REFRESH_AFTER: Duration = Duration::from_millis(1_500);
/// Listed sessions that are asked whether they are alive.
const ASKED_ALIVE_MAX: usize = 20;
/// Tries of a call that the provider could not answer.
const TRIES: u32 = 4;

/// Everything that was measured; what could not be is `None`.
#[derive(Debug, Default, Serialize)]
pub struct Measured {
    pub sessions_before: usize,
    /// Listed sessions whose tokens are dead, of those that were asked.
    pub dead_listed: Option<usize>,
    /// The vendor's own limit, where the profile has one.
    pub sessions_limit: Option<u32>,
    pub login: Option<LoginSeen>,
    pub refresh: Option<RefreshSeen>,
    pub end: Option<EndSeen>,
}

/// How a login showed.
#[derive(Clone, Debug, Serialize)]
pub struct LoginSeen {
    /// From the look that saw the login in the profile to the one that saw its row; `None` where no profile told of it.
    pub listed_after_ms: Option<u64>,
    pub login_date: Option<Timestamp>,
    /// `LastLoginDate`, which the login event carries.
    pub last_login_date: Option<Timestamp>,
}

impl LoginSeen {
    /// How far the row's time is behind the event's, in milliseconds as rows show them; negative: it is ahead.
    pub fn behind_event_ms(&self) -> Option<i64> {
        Some(self.last_login_date?.as_millisecond() - self.login_date?.as_millisecond())
    }
}

/// What became of a session's row when its token was refreshed.
#[derive(Clone, Debug, Serialize)]
pub struct RefreshSeen {
    pub row: RefreshedRow,
    pub time: Option<RefreshedTime>,
    /// The vendor's no, where it gave one.
    pub refused: Option<Said>,
    /// The old row and the new one, where both are listed.
    #[serde(skip)]
    pub twins: View,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RefreshedRow {
    /// The new token's row took the place of the old one's.
    Replaced,
    /// Both are listed.
    Duplicated,
    /// There is no new token: the old one lives longer.
    SameToken,
    /// The new token is not listed.
    Unlisted,
    /// The vendor refused to refresh.
    Refused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RefreshedTime {
    Kept,
    Restamped,
    /// Earlier than the login, or one of both is unknown.
    Other,
}

/// What became of a session that was ended.
#[derive(Clone, Debug, Serialize)]
pub struct EndSeen {
    pub first: Said,
    pub second: Said,
    /// `None`: it was still listed when patience ended.
    pub unlisted_after_ms: Option<u64>,
    /// Whether its token could be refreshed afterwards; `None` where refreshing was refused before.
    pub comes_back: Option<bool>,
}

/// One probe of one user.
pub struct Prober {
    client: LoginRadius,
    user: UserId,
    before: View,
    profile_before: Option<ProbedProfile>,
    /// The session that began for this probe, as it was listed last.
    own: Option<Session>,
    /// Tokens of sessions that began for this probe and may still be alive.
    to_end: Vec<AccessToken>,
    lag: Duration,
    pub measured: Measured,
}

impl Prober {
    /// Looks at the user as he is before.
    pub async fn begin(client: LoginRadius, user: UserId) -> Result<Self, ProviderError> {
        let before = listing(&client, &user).await?;
        let profile_before = match client.probed_profile(&user).await {
            Ok(profile) => Some(profile),
            Err(ProviderError::UserUnknown(_)) => Some(ProbedProfile::default()),
            // An additional secret may not be allowed to read profiles: then less is measured.
            Err(_) => None,
        };
        let measured = Measured {
            sessions_before: before.sessions.len(),
            sessions_limit: profile_before.and_then(|profile| profile.sessions_limit),
            ..Measured::default()
        };
        let lag = Duration::ZERO;
        Ok(Self { client, user, before, profile_before, own: None, to_end: Vec::new(), lag, measured })
    }

    /// Asks of the sessions that are listed already whether they are alive. A tenant with sliding expiration may
    /// prolong them by that.
    pub async fn look_for_dead(&mut self) -> Result<(), ProviderError> {
        let mut dead = 0;
        for session in self.before.sessions.iter().take(ASKED_ALIVE_MAX) {
            dead += usize::from(self.client.is_dead(&session.token).await?);
            sleep(LOOK_EVERY / 2).await;
        }
        self.measured.dead_listed = Some(dead);
        Ok(())
    }

    /// Waits for a login of the user. False: none was listed in time.
    pub async fn wait_for_login(&mut self) -> Result<bool, ProviderError> {
        let known: HashSet<TokenDigest> = self.before.sessions.iter().map(|session| session.digest).collect();
        let patience = Instant::now() + LOGIN_PATIENCE;
        let mut told_at = None;
        while Instant::now() < patience {
            let looked_at = Instant::now();
            let last_login_date = self.new_last_login().await;
            if last_login_date.is_some() {
                told_at.get_or_insert(looked_at);
            }
            let view = listing(&self.client, &self.user).await?;
            let fresh = view.sessions.into_iter().filter(|session| !known.contains(&session.digest));
            if let Some(session) = fresh.max_by_key(|session| (session.login_at, session.digest)) {
                let lag = told_at.map(|at| looked_at.saturating_duration_since(at));
                self.lag = lag.unwrap_or_default();
                let last_login_date = self.last_login_of(last_login_date).await;
                self.measured.login =
                    Some(LoginSeen { listed_after_ms: lag.map(millis), login_date: session.login_at, last_login_date });
                self.to_end.push(session.token.clone());
                self.own = Some(session);
                return Ok(true);
            }
            sleep_until(looked_at + LOOK_EVERY).await;
        }
        Ok(false)
    }

    /// `LastLoginDate`, if it has changed.
    async fn new_last_login(&self) -> Option<Timestamp> {
        let before = self.profile_before?.last_login_at;
        let now = self.client.probed_profile(&self.user).await.ok()?.last_login_at;
        now.filter(|_| now != before)
    }

    /// The same of a login that is listed already: the profile may be behind the list.
    async fn last_login_of(&self, seen: Option<Timestamp>) -> Option<Timestamp> {
        let patience = Instant::now() + STAYS_AFTER;
        let mut seen = seen;
        while seen.is_none() && self.profile_before.is_some() && Instant::now() < patience {
            sleep(LOOK_EVERY).await;
            seen = self.new_last_login().await;
        }
        seen
    }

    /// Refreshes the probe's own session, and sees what becomes of its row.
    pub async fn refresh(&mut self) -> Result<(), ProviderError> {
        let Some(old) = self.own.clone() else { return Ok(()) };
        sleep(REFRESH_AFTER).await;
        let token = match self.client.refresh(&old.token).await? {
            Ok(token) => token,
            Err(no) => {
                self.measured.refresh = Some(seen(RefreshedRow::Refused, None, Some(no)));
                return Ok(());
            }
        };
        self.to_end.push(token.clone());
        self.measured.refresh = Some(self.refreshed(&old, &token).await?);
        Ok(())
    }

    async fn refreshed(&mut self, old: &Session, token: &AccessToken) -> Result<RefreshSeen, ProviderError> {
        let (digest, same_token) = (token.digest(), *token == old.token);
        let Some((new, _)) = self.until_listed(digest).await? else {
            return Ok(seen(RefreshedRow::Unlisted, None, None));
        };
        let time = Some(match (old.login_at, new.login_at) {
            (Some(before), Some(after)) if before == after => RefreshedTime::Kept,
            (Some(before), Some(after)) if before < after => RefreshedTime::Restamped,
            _ => RefreshedTime::Other,
        });
        self.own = Some(new.clone());
        if same_token {
            return Ok(seen(RefreshedRow::SameToken, time, None));
        }
        let patience = STAYS_AFTER.max(self.lag * 2);
        if self.until_unlisted(old.digest, patience).await?.is_some() {
            return Ok(seen(RefreshedRow::Replaced, time, None));
        }
        let twins = View { sessions: vec![old.clone(), new], complete: true };
        Ok(RefreshSeen { twins, ..seen(RefreshedRow::Duplicated, time, None) })
    }

    /// Ends the probe's own session, twice, and tries to bring it back; then whatever else began for this probe.
    pub async fn end(&mut self) -> Result<(), ProviderError> {
        if let Some(own) = self.own.clone() {
            let first = self.client.invalidate(&own.token).await?;
            let unlisted = self.until_unlisted(own.digest, LIST_PATIENCE).await?;
            let second = self.client.invalidate(&own.token).await?;
            let can_refresh = self.measured.refresh.as_ref().is_some_and(|refresh| refresh.refused.is_none());
            let comes_back = if can_refresh { Some(self.comes_back(&own.token).await?) } else { None };
            self.measured.end = Some(EndSeen { first, second, unlisted_after_ms: unlisted.map(millis), comes_back });
        }
        for token in std::mem::take(&mut self.to_end) {
            self.client.invalidate(&token).await?;
        }
        Ok(())
    }

    async fn comes_back(&mut self, token: &AccessToken) -> Result<bool, ProviderError> {
        let refreshed = self.client.refresh(token).await?;
        self.to_end.extend(refreshed.as_ref().ok().cloned());
        Ok(refreshed.is_ok())
    }

    async fn until_listed(&self, digest: TokenDigest) -> Result<Option<(Session, Duration)>, ProviderError> {
        let began = Instant::now();
        while began.elapsed() < LIST_PATIENCE {
            let looked_at = Instant::now();
            let view = listing(&self.client, &self.user).await?;
            if let Some(session) = view.sessions.into_iter().find(|session| session.digest == digest) {
                return Ok(Some((session, looked_at.saturating_duration_since(began))));
            }
            sleep_until(looked_at + LOOK_EVERY).await;
        }
        Ok(None)
    }

    /// How long the row was still listed; `None`: as long as we looked.
    async fn until_unlisted(&self, digest: TokenDigest, patience: Duration) -> Result<Option<Duration>, ProviderError> {
        let began = Instant::now();
        loop {
            let looked_at = Instant::now();
            let view = listing(&self.client, &self.user).await?;
            let is_listed = view.sessions.iter().any(|session| session.digest == digest);
            if !is_listed && view.complete {
                return Ok(Some(looked_at.saturating_duration_since(began)));
            }
            if began.elapsed() >= patience {
                return Ok(None);
            }
            sleep_until(looked_at + LOOK_EVERY).await;
        }
    }
}

fn seen(row: RefreshedRow, time: Option<RefreshedTime>, refused: Option<Said>) -> RefreshSeen {
    RefreshSeen { row, time, refused, twins: View::default() }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// One listing; what may work later is tried again a few times.
async fn listing(client: &LoginRadius, user: &UserId) -> Result<View, ProviderError> {
    let mut tries = 1;
    loop {
        match client.list(user).await {
            Err(ProviderError::Unavailable(_) | ProviderError::Throttled { .. }) if tries < TRIES => tries += 1,
            // Somebody who logs in for the first time.
            Err(ProviderError::UserUnknown(_)) => return Ok(View { sessions: Vec::new(), complete: true }),
            listed => return listed,
        }
        sleep(LOOK_EVERY * tries).await;
    }
}
