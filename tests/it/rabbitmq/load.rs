//! Logins at a steady pace. Each is posted until it is accepted, as a gateway does: again after no answer or a 503.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use soloist::sandbox::{LoginMade, Sandbox};
use tokio::sync::{RwLock, RwLockWriteGuard};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::fleet::{Doors, Fleet};
use crate::support::{PATIENCE, process, soon};

const SENDERS: usize = 8;
/// An answer that takes longer is none.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a login is tried to be posted before the test gives up.
const POST_PATIENCE: Duration = Duration::from_secs(90);

/// Who logs in, and how often.
#[derive(Clone, Copy)]
pub(super) struct Plan {
    pub(super) users: usize,
    /// Between two logins of one sender.
    pub(super) pace: Duration,
    /// In all; without it the load goes on until it is ended.
    pub(super) logins: Option<usize>,
}

impl Plan {
    /// About fifty logins a second.
    pub(super) const STEADY: Self = Self { users: 24, pace: Duration::from_millis(150), logins: None };
}

/// A login whose webhook was answered 202.
#[derive(Clone)]
pub(super) struct Accepted {
    pub(super) user: String,
    pub(super) event: String,
    pub(super) login_at: Timestamp,
    pub(super) at: Instant,
    pub(super) in_journal: bool,
}

pub(super) struct Load {
    shared: Arc<Shared>,
    senders: JoinSet<()>,
}

struct Shared {
    sandbox: Arc<Sandbox>,
    doors: Doors,
    client: reqwest::Client,
    plan: Plan,
    stop: CancellationToken,
    accepted: Mutex<Vec<Accepted>>,
    /// Posts that got no answer, or a 503.
    retried: AtomicUsize,
    /// Taken for writing while nobody may post.
    posting: RwLock<()>,
}

impl Load {
    pub(super) fn start(fleet: &Fleet, plan: Plan) -> Self {
        let client = reqwest::Client::builder().no_proxy().timeout(ANSWER_TIMEOUT).build().unwrap();
        let shared = Arc::new(Shared {
            sandbox: Arc::clone(&fleet.sandbox),
            doors: Arc::clone(&fleet.doors),
            client,
            plan,
            stop: CancellationToken::new(),
            accepted: Mutex::default(),
            retried: AtomicUsize::new(0),
            posting: RwLock::new(()),
        });
        let mut senders = JoinSet::new();
        for sender in 0..SENDERS {
            senders.spawn(Arc::clone(&shared).send(sender));
        }
        Self { shared, senders }
    }

    /// Waits until so many more logins are accepted.
    pub(super) async fn accepts(&self, more: usize) {
        self.accepts_within(PATIENCE, more).await;
    }

    pub(super) async fn accepts_within(&self, patience: Duration, more: usize) {
        let target = self.accepted() + more;
        let accepted = tokio::time::timeout(patience, async {
            let mut pause = tokio::time::interval(Duration::from_millis(10));
            while self.accepted() < target {
                pause.tick().await;
            }
        });
        assert!(accepted.await.is_ok(), "after {patience:?} {} of {target} logins are accepted", self.accepted());
    }

    /// Lets it go on for a time in which nothing can be waited for.
    pub(super) async fn goes_on_for(&self, time: Duration) {
        let mut pause = tokio::time::interval(time);
        pause.tick().await;
        pause.tick().await;
    }

    fn accepted(&self) -> usize {
        self.shared.accepted.lock().unwrap().len()
    }

    pub(super) fn accepted_by_broker(&self) -> usize {
        self.shared.accepted.lock().unwrap().iter().filter(|login| !login.in_journal).count()
    }

    /// Posts that got no answer or a 503.
    pub(super) fn retried(&self) -> usize {
        self.shared.retried.load(Ordering::Relaxed)
    }

    /// Nothing is posted, and every post is answered, until the guard is dropped.
    pub(super) async fn held(&self) -> RwLockWriteGuard<'_, ()> {
        soon("the posts to be answered", self.shared.posting.write()).await
    }

    /// Begins no more logins, waits until every login is accepted, and returns them all.
    pub(super) async fn end(self) -> Vec<Accepted> {
        self.shared.stop.cancel();
        self.done().await
    }

    /// Waits until every planned login is accepted, and returns them all.
    pub(super) async fn done(mut self) -> Vec<Accepted> {
        while let Some(ended) = soon("the senders", self.senders.join_next()).await {
            ended.unwrap();
        }
        std::mem::take(&mut *self.shared.accepted.lock().unwrap())
    }
}

impl Shared {
    async fn send(self: Arc<Self>, sender: usize) {
        let mine = self.plan.logins.map_or(usize::MAX, |logins| (logins + SENDERS - 1 - sender) / SENDERS);
        let mut pace = tokio::time::interval(self.plan.pace);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for n in 0..mine {
            pace.tick().await;
            if self.stop.is_cancelled() {
                return;
            }
            let user = format!("user-{}", (sender + n * SENDERS) % self.plan.users);
            let login = self.sandbox.login_in_silence(&user, None).unwrap();
            let posted = tokio::time::timeout(POST_PATIENCE, self.post_until_accepted(&login, sender + n));
            posted.await.unwrap_or_else(|_| panic!("the login {login:?} was not accepted within {POST_PATIENCE:?}"));
        }
    }

    async fn post_until_accepted(&self, login: &LoginMade, first_door: usize) {
        let body = serde_json::json!({
            "HookName": "login", "HookId": login.session, "Time": login.login_at,
            "Data": { "Uid": login.uid, "LastLoginDate": login.login_at },
        })
        .to_string();
        let mut pause = tokio::time::interval(Duration::from_millis(100));
        for door in first_door.. {
            pause.tick().await;
            let turn = self.posting.read().await;
            let answer = self.post(&body, door).await;
            let at = Instant::now();
            drop(turn);
            match answer {
                Some((202, answer)) => {
                    let (user, event) = (login.uid.clone(), login.session.clone());
                    let in_journal = answer.contains("\"journal\"");
                    let accepted = Accepted { user, event, login_at: login.login_at, at, in_journal };
                    return self.accepted.lock().unwrap().push(accepted);
                }
                None | Some((503, _)) => self.retried.fetch_add(1, Ordering::Relaxed),
                Some((other, answer)) => panic!("answered {other}: {answer}"),
            };
        }
    }

    /// Status and text of the answer, if there was one.
    async fn post(&self, body: &str, door: usize) -> Option<(u16, String)> {
        let url = {
            let doors = self.doors.lock().unwrap();
            let many = doors.len().max(1);
            doors.values().nth(door % many)?.clone()
        };
        let request = self.client.post(url).header("content-type", "application/json");
        let request = request.header("signature", process::signature(body)).body(body.to_owned());
        let response = request.send().await.ok()?;
        let status = response.status().as_u16();
        Some((status, response.text().await.ok()?))
    }
}
