//! Small cases, every one of them: the real step, stopped before each effect, in every order of logins, listings,
//! revocations, settlements and one crash.
//!
//! A path is a list of choices. Futures cannot be copied, so another path begins anew and makes the same choices up to
//! where it differs. Two paths that come to the same state go on as one: what the world is like, and what each worker has
//! seen since its step began, is all that the future depends on.

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use soloist::model::{AccessToken, Reason, Session, SessionDevice, TokenDigest, UserId, UserTraits, View};
use soloist::provider::{ProviderError, Revoked, SessionProvider};
use soloist::worker::{Enforcer as _, Evaluation, Look, StepError};
use tokio::task::unconstrained;

use super::alone::enforcer;
use super::world::{BEGIN, uid};

/// What is explored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Small {
    pub(crate) logins: usize,
    pub(crate) workers: usize,
    pub(crate) limit: usize,
    /// All logins happen at the same instant.
    pub(crate) ties: bool,
}

/// What was explored: states, and paths that came to an end of their own.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Explored {
    pub(crate) states: usize,
    pub(crate) ends: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    Login,
    /// A worker takes the event of a login.
    Take(usize, usize),
    /// A worker has its next effect.
    Effect(usize),
    Settle(usize),
    Crash(usize),
}

/// Explores a case to its end.
///
/// # Errors
/// The first thing that is wrong, with the choices that led to it.
pub(crate) fn explore(small: Small) -> Result<Explored, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let (mut seen, mut open, mut explored) = (HashSet::new(), vec![Vec::new()], Explored::default());
        while let Some(path) = open.pop() {
            let mut table = Table::new(small);
            for choice in &path {
                table.make(*choice);
            }
            let mut path = path;
            loop {
                if let Some(wrong) = table.wrong() {
                    return Err(format!("{small:?}: {wrong} after {path:?}"));
                }
                if !seen.insert(table.key()) {
                    break;
                }
                let choices = table.choices();
                let Some((first, others)) = choices.split_first() else {
                    explored.ends += 1;
                    if let Some(wrong) = table.wrong_at_the_end() {
                        return Err(format!("{small:?}: {wrong} after {path:?}"));
                    }
                    break;
                };
                open.extend(others.iter().map(|other| [path.as_slice(), &[*other]].concat()));
                table.make(*first);
                path.push(*first);
            }
        }
        explored.states = seen.len();
        Ok(explored)
    })
}

/// The one user, and what was done to them.
struct User {
    limit: usize,
    sessions: Vec<Session>,
    alive: Vec<bool>,
    wrong: Option<String>,
}

impl User {
    /// The newest ones of all that ever logged in, whoever is alive.
    fn newest(&self) -> Vec<TokenDigest> {
        let mut keys: Vec<_> = self.sessions.iter().map(|session| (session.login_at, session.digest)).collect();
        keys.sort_unstable();
        keys.into_iter().rev().take(self.limit).map(|(_, digest)| digest).collect()
    }

    fn revoke(&mut self, token: &AccessToken) -> Revoked {
        let place = self.sessions.iter().position(|session| session.token == *token).unwrap();
        if !std::mem::replace(&mut self.alive[place], false) {
            return Revoked::AlreadyGone;
        }
        if self.newest().contains(&self.sessions[place].digest) {
            self.wrong = Some(format!("session {place} was ended, one of the newest"));
        }
        Revoked::Done
    }
}

/// The provider as one worker sees it: it answers when it is let.
struct Gate {
    user: Arc<Mutex<User>>,
    of: Mutex<Passed>,
}

#[derive(Default)]
struct Passed {
    permits: u32,
    /// What it has seen since its step began.
    seen: Vec<u8>,
}

impl Gate {
    async fn pass(&self) {
        std::future::poll_fn(|_| {
            let mut of = self.of.lock().unwrap();
            let is_let = of.permits > 0;
            of.permits -= u32::from(is_let);
            if is_let { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    fn saw(&self, what: u8) {
        self.of.lock().unwrap().seen.push(what);
    }
}

#[async_trait]
impl SessionProvider for Gate {
    async fn list(&self, _: &UserId) -> Result<View, ProviderError> {
        self.pass().await;
        let user = self.user.lock().unwrap();
        let alive = (0..user.sessions.len()).filter(|place| user.alive[*place]);
        self.saw(alive.clone().fold(0, |mask, place| mask | 1 << place));
        Ok(View { sessions: alive.map(|place| user.sessions[place].clone()).collect(), complete: true })
    }

    async fn revoke(&self, token: &AccessToken) -> Result<Revoked, ProviderError> {
        self.pass().await;
        let revoked = self.user.lock().unwrap().revoke(token);
        self.saw(if revoked == Revoked::Done { 254 } else { 255 });
        Ok(revoked)
    }

    async fn identify(&self, _: &AccessToken) -> Result<UserId, ProviderError> {
        Ok(uid(0))
    }

    async fn traits(&self, _: &UserId) -> Result<UserTraits, ProviderError> {
        Ok(UserTraits::default())
    }
}

type StepInFlight = Pin<Box<dyn Future<Output = Result<Evaluation, StepError>>>>;

struct Worker {
    gate: Arc<Gate>,
    /// The event that it works on, and its step until that is done.
    busy: Option<(usize, Option<StepInFlight>)>,
}

/// The world with its workers, at one moment.
struct Table {
    small: Small,
    user: Arc<Mutex<User>>,
    /// Events that wait, by the number of their login.
    waiting: Vec<usize>,
    workers: Vec<Worker>,
    has_crashed: bool,
}

impl Table {
    fn new(small: Small) -> Self {
        let user = User { limit: small.limit, sessions: Vec::new(), alive: Vec::new(), wrong: None };
        let user = Arc::new(Mutex::new(user));
        let worker = || Worker { gate: Arc::new(Gate { user: Arc::clone(&user), of: Mutex::default() }), busy: None };
        let workers = (0..small.workers).map(|_| worker()).collect();
        Self { small, user, waiting: Vec::new(), workers, has_crashed: false }
    }

    fn choices(&self) -> Vec<Choice> {
        let mut choices = Vec::new();
        if self.user.lock().unwrap().sessions.len() < self.small.logins {
            choices.push(Choice::Login);
        }
        for (place, worker) in self.workers.iter().enumerate() {
            match &worker.busy {
                None => choices.extend(self.waiting.iter().map(|event| Choice::Take(place, *event))),
                Some((_, Some(_))) => choices.push(Choice::Effect(place)),
                Some((_, None)) => choices.push(Choice::Settle(place)),
            }
            if worker.busy.is_some() && !self.has_crashed {
                choices.push(Choice::Crash(place));
            }
        }
        choices
    }

    fn make(&mut self, choice: Choice) {
        match choice {
            Choice::Login => self.login(),
            Choice::Take(place, event) => {
                self.waiting.retain(|other| *other != event);
                let worker = &mut self.workers[place];
                worker.gate.of.lock().unwrap().seen.clear();
                let step = step(&worker.gate, event, self.small);
                worker.busy = Some((event, Some(step)));
                self.go_on(place);
            }
            Choice::Effect(place) => {
                self.workers[place].gate.of.lock().unwrap().permits = 1;
                self.go_on(place);
            }
            Choice::Settle(place) => self.workers[place].busy = None,
            Choice::Crash(place) => {
                self.has_crashed = true;
                if let Some((event, _)) = self.workers[place].busy.take() {
                    self.waiting.push(event);
                    self.waiting.sort_unstable();
                }
            }
        }
    }

    fn login(&mut self) {
        let mut user = self.user.lock().unwrap();
        let number = user.sessions.len();
        let at = login_at(if self.small.ties { 0 } else { number });
        user.sessions.push(Session::new(&format!("token-{number}"), Some(at), SessionDevice::default()));
        user.alive.push(true);
        self.waiting.push(number);
    }

    /// Lets a worker go on until it waits for its next effect, or its step is done.
    fn go_on(&mut self, place: usize) {
        let worker = &mut self.workers[place];
        let Some((event, Some(step))) = &mut worker.busy else { return };
        let event = *event;
        match step.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => {}
            Poll::Ready(done) => {
                worker.busy = Some((event, None));
                if done.is_err() || done.is_ok_and(|evaluation| evaluation.again.is_some()) {
                    self.user.lock().unwrap().wrong = Some("a step failed, or wants to look again".to_owned());
                }
            }
        }
    }

    /// All that what comes next depends on. Workers are alike.
    fn key(&self) -> Vec<u8> {
        let user = self.user.lock().unwrap();
        let mut workers: Vec<Vec<u8>> = self.workers.iter().map(Worker::key).collect();
        workers.sort_unstable();
        let mut key = vec![u8::try_from(user.sessions.len()).unwrap(), u8::from(self.has_crashed)];
        key.push(user.alive.iter().rev().fold(0, |mask, alive| mask << 1 | u8::from(*alive)));
        key.push(self.waiting.iter().fold(0, |mask, event| mask | 1 << event));
        for worker in workers {
            key.push(u8::try_from(worker.len()).unwrap());
            key.extend(worker);
        }
        key
    }

    fn wrong(&self) -> Option<String> {
        let user = self.user.lock().unwrap();
        let is_nobody_left = !user.alive.is_empty() && !user.alive.contains(&true);
        user.wrong.clone().or_else(|| is_nobody_left.then(|| "nobody is left".to_owned()))
    }

    fn wrong_at_the_end(&self) -> Option<String> {
        let user = self.user.lock().unwrap();
        let newest: HashSet<TokenDigest> = user.newest().into_iter().collect();
        let alive: HashSet<TokenDigest> =
            user.sessions.iter().zip(&user.alive).filter(|(_, alive)| **alive).map(|(s, _)| s.digest).collect();
        (alive != newest).then(|| format!("{alive:?} are left, and the newest are {newest:?}"))
    }
}

impl Worker {
    fn key(&self) -> Vec<u8> {
        let Some((event, step)) = &self.busy else { return Vec::new() };
        let mut key = vec![u8::try_from(*event).unwrap(), u8::from(step.is_some())];
        // Once its step is done, what it has seen is of no consequence.
        if step.is_some() {
            key.extend(&self.gate.of.lock().unwrap().seen);
        }
        key
    }
}

fn login_at(number: usize) -> Timestamp {
    let seconds = SignedDuration::from_secs(i64::try_from(number).unwrap());
    BEGIN + seconds
}

fn step(gate: &Arc<Gate>, event: usize, small: Small) -> StepInFlight {
    let provider = Arc::clone(gate) as Arc<dyn SessionProvider>;
    let enforcer = enforcer(provider, small.limit);
    let at = Some(login_at(if small.ties { 0 } else { event }));
    Box::pin(unconstrained(async move {
        let look = Look { user: uid(0), reason: Reason::Login, at, login_at: at, dry_run: false };
        enforcer.evaluate(&look).await
    }))
}
