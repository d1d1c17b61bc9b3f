//! The state: users, sessions, tokens. Time is an argument, chance comes from one seed, nothing is forgotten.

use std::collections::{BTreeMap, HashMap};

use jiff::{SignedDuration, Timestamp};
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};

use super::{
    config::{
        DeadToken, EmptyList, ExpiredRows, RefreshRow, RefreshTime, RowOrder, SandboxConfig, TokenForm, UnknownUser,
    },
    device,
    refusal::Refusal,
    session::{Credentials, End, Ending, Moment, Session, cut, digest},
    user::{Traits, User},
};

/// Listings of one user that are remembered for judging. More within one window are very unlikely to matter.
const LISTINGS_REMEMBERED_MAX: usize = 4_096;

/// Whose sessions are listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Lookup {
    Account(String),
    Profile(String),
    Token(String),
}

/// One page of a listing.
#[derive(Debug)]
pub(super) struct Page {
    /// `None` stands for `"data": null`.
    pub(super) rows: Option<Vec<Session>>,
    /// Zero: this was the last page.
    pub(super) next_cursor: i32,
}

/// A login that was refused: by the sandbox itself, or by the vendor's own limiter that it plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// The uid breaks the vendor's rule.
    #[error("a uid has letters, digits, _ and -, and 1 to 50 characters")]
    Uid,
    /// No such device.
    #[error("there is no device of that name")]
    Device,
    /// Restrict Login Sharing is on, and the user has as many sessions as it allows.
    #[error("code 1338: the user has as many active sessions as Restrict Login Sharing allows")]
    Limited,
    /// `SandboxConfig::sessions_max` is reached.
    #[error("the sandbox holds as many sessions as it may")]
    Full,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) config: SandboxConfig,
    pub(super) users: BTreeMap<String, User>,
    pub(super) sessions: Vec<Session>,
    tokens: HashMap<String, usize>,
    profiles: HashMap<String, String>,
    rng: StdRng,
    /// Things that have happened.
    places: u64,
}

impl World {
    pub(super) fn new(config: SandboxConfig) -> Self {
        Self {
            rng: StdRng::seed_from_u64(config.seed),
            config,
            users: BTreeMap::new(),
            sessions: Vec::new(),
            tokens: HashMap::new(),
            profiles: HashMap::new(),
            places: 0,
        }
    }

    /// The moment of what happens next.
    fn moment(&mut self, at: Timestamp) -> Moment {
        self.places = self.places.saturating_add(1);
        Moment { at, place: self.places }
    }

    /// The user of that uid, made if there is none.
    fn user(&mut self, uid: &str, now: Timestamp) -> Result<&mut User, LoginError> {
        if !is_uid(uid) {
            return Err(LoginError::Uid);
        }
        if !self.users.contains_key(uid) {
            let profile_id = hex::encode(self.rng.random::<[u8; 16]>());
            self.profiles.insert(profile_id.clone(), uid.to_owned());
            self.users.insert(uid.to_owned(), User::new(uid, profile_id, now));
        }
        self.users.get_mut(uid).ok_or(LoginError::Uid)
    }

    pub(super) fn set_traits(&mut self, uid: &str, traits: Traits, now: Timestamp) -> Result<(), LoginError> {
        self.user(uid, now)?.traits = traits;
        Ok(())
    }

    /// Logs a user in: a new session with a token of its own. Returns it with the user as he is after it.
    pub(super) fn login(
        &mut self,
        uid: &str,
        device: Option<&str>,
        now: Timestamp,
    ) -> Result<(Session, User), LoginError> {
        if self.sessions.len() >= self.config.sessions_max {
            return Err(LoginError::Full);
        }
        if self.is_at_vendor_limit(uid, now) {
            return Err(LoginError::Limited);
        }
        let device = device::pick(device, &mut self.rng).ok_or(LoginError::Device)?;
        let user = self.user(uid, now)?;
        user.logins = user.logins.saturating_add(1);
        user.last_login_at = now;
        let (city, country) = device::place(&mut self.rng);
        let access_token = self.new_token();
        let session = Session {
            digest: digest(&access_token),
            access_token,
            uid: uid.to_owned(),
            device,
            city,
            country,
            ip: device::ip(&mut self.rng),
            login_at: now,
            made: self.moment(now),
            listed_from: later(now, self.config.list_lag),
            expires_at: later(now, self.config.token_lifetime),
            end: None,
            refreshable: true,
            root: self.sessions.len(),
        };
        self.add(session.clone());
        let user = self.user(uid, now)?.clone();
        Ok((session, user))
    }

    /// Whether the vendor's own limiter refuses one more session. The vendor says both that the user's own limit goes
    /// before the site's and that the stricter one does; here the user's own does.
    fn is_at_vendor_limit(&self, uid: &str, now: Timestamp) -> bool {
        let (Some(of_site), user) = (self.config.login_limit, self.users.get(uid)) else { return false };
        let limit = user.and_then(|user| user.traits.sessions_limit).unwrap_or(of_site);
        let live = user.map_or(0, |user| self.sessions_of(user).filter(|session| session.is_live(now)).count());
        live >= usize::try_from(limit).unwrap_or(usize::MAX)
    }

    fn add(&mut self, session: Session) {
        let position = self.sessions.len();
        self.tokens.insert(session.access_token.clone(), position);
        if let Some(user) = self.users.get_mut(&session.uid) {
            user.sessions.push(position);
        }
        self.sessions.push(session);
    }

    fn new_token(&mut self) -> String {
        match self.config.token_form {
            TokenForm::Guid => self.new_uuid(),
            TokenForm::Jwe => [36, 342, 16, 400, 22].map(|length| base64url(length, &mut self.rng)).join("."),
        }
    }

    /// A random UUID from the world's seed.
    pub(super) fn new_uuid(&mut self) -> String {
        uuid::Builder::from_random_bytes(self.rng.random()).into_uuid().to_string()
    }

    pub(super) fn session(&self, access_token: &str) -> Option<&Session> {
        self.tokens.get(access_token).and_then(|&position| self.sessions.get(position))
    }

    fn session_mut(&mut self, access_token: &str) -> Option<&mut Session> {
        self.tokens.get(access_token).and_then(|&position| self.sessions.get_mut(position))
    }

    /// All sessions the user ever had, in the order they were made.
    pub(super) fn sessions_of(&self, user: &User) -> impl Iterator<Item = &Session> {
        user.sessions.iter().filter_map(|&position| self.sessions.get(position))
    }

    /// The session of a token that still works.
    pub(super) fn live(&self, access_token: &str, now: Timestamp) -> Result<&Session, Refusal> {
        let session = self.session(access_token).ok_or(Refusal::TokenInvalid)?;
        match session.end {
            Some(_) => Err(Refusal::TokenInvalid),
            None if session.expires_at <= now => Err(Refusal::TokenExpired),
            None => Ok(session),
        }
    }

    /// The user ends one session of his. False: it was not alive.
    pub(super) fn logout(&mut self, access_token: &str, now: Timestamp) -> bool {
        let moment = self.moment(now);
        let Some(session) = self.session_mut(access_token).filter(|session| session.is_live(now)) else { return false };
        session.end = Some(End { moment, how: Ending::LoggedOut });
        session.refreshable = false;
        let uid = session.uid.clone();
        if let Some(user) = self.users.get_mut(&uid) {
            user.last_logout = Some(moment);
        }
        true
    }

    /// The vendor's invalidate, by either of its routes.
    pub(super) fn invalidate(
        &mut self,
        access_token: &str,
        prevent_refresh: bool,
        credentials: Credentials,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let dead = self.live(access_token, now).err();
        let uid = self.session(access_token).map(|session| session.uid.clone()).unwrap_or_default();
        let moment = self.moment(now);
        let listed = self.earliest_listing(&uid, moment);
        if let Some(session) = self.session_mut(access_token) {
            session.refreshable &= !prevent_refresh;
            if dead.is_none() {
                let how = Ending::Revoked { credentials, prevent_refresh, listed };
                session.end = Some(End { moment, how });
            }
        }
        match (dead, self.config.dead_token) {
            (Some(refusal), DeadToken::Refused) => Err(refusal),
            _ => Ok(()),
        }
    }

    /// When the user's sessions were first listed within the window of a revoker that revokes now; else now.
    fn earliest_listing(&self, uid: &str, now: Moment) -> Moment {
        let from = earlier(now.at, self.config.revocation_window);
        let listings = self.users.get(uid).map(|user| user.listings.iter().copied());
        listings.into_iter().flatten().find(|listing| listing.at >= from).unwrap_or(now)
    }

    /// Exchanges a token for a new one. An invalidated token may be exchanged unless that was prevented; no webhook.
    pub(super) fn refresh(&mut self, access_token: &str, now: Timestamp) -> Result<Session, Refusal> {
        let old = self.session(access_token).ok_or(Refusal::TokenInvalid)?.clone();
        if !old.refreshable {
            return Err(Refusal::TokenInvalid);
        }
        if self.sessions.len() >= self.config.sessions_max {
            return Err(Refusal::UnknownError);
        }
        let replace = self.config.refresh_row == RefreshRow::Replace;
        // Whether a refresh meets the limiter is not known; one that adds a row does here.
        if !replace && self.is_at_vendor_limit(&old.uid, now) {
            return Err(Refusal::LoginLimited);
        }
        let access_token = self.new_token();
        let new = Session {
            digest: digest(&access_token),
            access_token,
            login_at: match self.config.refresh_time {
                RefreshTime::Keep => old.login_at,
                RefreshTime::Restamp => now,
            },
            made: self.moment(now),
            listed_from: later(now, self.config.list_lag),
            expires_at: later(now, self.config.token_lifetime),
            end: None,
            root: if replace { old.root } else { self.sessions.len() },
            ..old.clone()
        };
        let moment = self.moment(now);
        if let Some(session) = self.session_mut(&old.access_token) {
            session.refreshable = !replace;
            if replace && session.is_live(now) {
                session.end = Some(End { moment, how: Ending::Refreshed });
            }
        }
        self.add(new.clone());
        Ok(new)
    }

    fn find(&self, lookup: &Lookup, now: Timestamp) -> Result<Option<&User>, Refusal> {
        Ok(match lookup {
            Lookup::Account(uid) if !is_uid(uid) => return Err(Refusal::UidSyntax),
            Lookup::Account(uid) => self.users.get(uid),
            Lookup::Profile(id) => self.profiles.get(id).and_then(|uid| self.users.get(uid)),
            Lookup::Token(token) => self.users.get(&self.live(token, now)?.uid),
        })
    }

    /// One page of a user's sessions. `cursor` is what the page before gave.
    pub(super) fn list(&mut self, lookup: &Lookup, cursor: Option<&str>, now: Timestamp) -> Result<Page, Refusal> {
        let start = match cursor.map(str::trim).filter(|cursor| !cursor.is_empty()) {
            None => 0,
            Some(cursor) => cursor.parse::<usize>().ok().filter(|&start| start > 0).ok_or(Refusal::CursorInvalid)?,
        };
        let user = match (self.find(lookup, now)?, lookup, self.config.unknown_user) {
            (Some(user), ..) => user,
            (None, _, UnknownUser::Empty) => return self.empty_page(),
            (None, Lookup::Profile(_), UnknownUser::Refused) => return Err(Refusal::UserIdInvalid),
            (None, _, UnknownUser::Refused) => return Err(Refusal::UserUnknown),
        };
        let uid = user.uid.clone();
        let mut rows: Vec<Session> = self.sessions_of(user).filter(|row| self.is_listed(row, now)).cloned().collect();
        self.remember_listing(&uid, now);
        if rows.is_empty() && start == 0 {
            return self.empty_page();
        }
        if start >= rows.len() {
            return Err(Refusal::NoMoreRecords);
        }
        self.sort(&mut rows);
        let end = start.saturating_add(self.config.page_size.max(1));
        let next_cursor = if end < rows.len() { i32::try_from(end).unwrap_or(0) } else { 0 };
        let rows = rows.into_iter().skip(start).take(self.config.page_size.max(1)).collect();
        Ok(Page { rows: Some(rows), next_cursor })
    }

    fn empty_page(&self) -> Result<Page, Refusal> {
        match self.config.empty_list {
            EmptyList::Array => Ok(Page { rows: Some(Vec::new()), next_cursor: 0 }),
            EmptyList::Null => Ok(Page { rows: None, next_cursor: 0 }),
            EmptyList::NoActiveSession => Err(Refusal::NoActiveSession),
        }
    }

    /// Whether a listing shows it: alive, or dead of age where such rows stay; and no longer too new to be seen.
    fn is_listed(&self, session: &Session, now: Timestamp) -> bool {
        let stays = session.end.is_none() && self.config.expired_rows == ExpiredRows::Listed;
        session.listed_from <= now && (session.is_live(now) || stays)
    }

    fn sort(&self, rows: &mut [Session]) {
        match self.config.row_order {
            RowOrder::NewestFirst => rows.sort_by_key(|row| std::cmp::Reverse(row.login_at)),
            RowOrder::OldestFirst => rows.sort_by_key(|row| row.login_at),
            RowOrder::Scrambled => rows.sort_by_key(|row| row.digest),
        }
    }

    fn remember_listing(&mut self, uid: &str, now: Timestamp) {
        let from = earlier(now, self.config.revocation_window);
        let moment = self.moment(now);
        let Some(user) = self.users.get_mut(uid) else { return };
        while user.listings.front().is_some_and(|listing| listing.at < from) {
            user.listings.pop_front();
        }
        // When there is no room, the oldest stay: to forget one would call a right revocation wrong.
        if user.listings.len() < LISTINGS_REMEMBERED_MAX {
            user.listings.push_back(moment);
        }
    }

    /// The order that a revoker can know: the instant as rows show it, then the token's digest.
    pub(super) fn rank(&self, session: &Session) -> (Timestamp, [u8; 32]) {
        (cut(session.login_at, self.config.login_date.digits()), session.digest)
    }
}

/// The vendor's rule for account ids.
pub(super) fn is_uid(uid: &str) -> bool {
    (1..=50).contains(&uid.len()) && uid.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
}

pub(super) fn later(at: Timestamp, by: std::time::Duration) -> Timestamp {
    SignedDuration::try_from(by).ok().and_then(|by| at.checked_add(by).ok()).unwrap_or(Timestamp::MAX)
}

fn earlier(at: Timestamp, by: std::time::Duration) -> Timestamp {
    SignedDuration::try_from(by).ok().and_then(|by| at.checked_sub(by).ok()).unwrap_or(Timestamp::MIN)
}

fn base64url(length: usize, rng: &mut impl Rng) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let draw = |_| ALPHABET.get(rng.random_range(0..ALPHABET.len())).map_or('A', |&byte| char::from(byte));
    (0..length).map(draw).collect()
}
