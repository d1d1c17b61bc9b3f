//! Logins as fast as they are accepted. Each is of a user of its own, who has been logged in elsewhere before: whose
//! event is lost, keeps two sessions. A few users log in once more at the same time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use soloist::sandbox::{LoginMade, Sandbox};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::trap::{Step, Trap};
use crate::support::{process, soon};

const SENDERS: usize = 8;
/// An answer that takes longer is none: nobody knows what has the port of a process that was killed.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Every so manieth user logs in twice at once.
const TWICE: usize = 4;

/// Where webhooks are taken now; empty while nobody takes any.
pub(super) type Door = watch::Sender<String>;

pub(super) struct Load {
    shared: Arc<Shared>,
    senders: JoinSet<()>,
}

struct Shared {
    sandbox: Arc<Sandbox>,
    trap: Arc<Trap>,
    door: Door,
    client: reqwest::Client,
    users: AtomicUsize,
    /// What was answered 202, each the newest login of its user when it was made.
    accepted: Mutex<Vec<LoginMade>>,
    stop: watch::Sender<bool>,
}

impl Load {
    pub(super) fn start(sandbox: &Arc<Sandbox>, trap: &Arc<Trap>, door: &Door) -> Self {
        let shared = Arc::new(Shared {
            sandbox: Arc::clone(sandbox),
            trap: Arc::clone(trap),
            door: door.clone(),
            client: reqwest::Client::builder().no_proxy().timeout(ANSWER_TIMEOUT).build().unwrap(),
            users: AtomicUsize::new(0),
            accepted: Mutex::default(),
            stop: watch::Sender::new(false),
        });
        let mut senders = JoinSet::new();
        for _ in 0..SENDERS {
            senders.spawn(Arc::clone(&shared).send());
        }
        Self { shared, senders }
    }

    pub(super) fn accepted(&self) -> usize {
        self.shared.accepted.lock().unwrap().len()
    }

    /// Begins no more logins, waits until every login is accepted, and returns them all.
    pub(super) async fn end(self) -> Vec<LoginMade> {
        self.shared.stop.send_replace(true);
        soon("every login to be accepted", self.senders.join_all()).await;
        std::mem::take(&mut *self.shared.accepted.lock().unwrap())
    }
}

impl Shared {
    async fn send(self: Arc<Self>) {
        while !*self.stop.borrow() {
            let number = self.users.fetch_add(1, Ordering::Relaxed);
            let user = format!("user-{number}");
            let login = || self.sandbox.login_in_silence(&user, None).unwrap();
            login();
            // Listings show milliseconds.
            self.sandbox.advance(Duration::from_millis(2));
            if number.is_multiple_of(TWICE) {
                let first = login();
                self.sandbox.advance(Duration::from_millis(2));
                tokio::join!(self.post_until_accepted(first), self.post_until_accepted(login()));
            } else {
                self.post_until_accepted(login()).await;
            }
        }
    }

    /// Posts again after no answer, as a gateway does.
    async fn post_until_accepted(&self, login: LoginMade) {
        let body = serde_json::json!({
            "HookName": "login", "HookId": login.session, "Time": login.login_at,
            "Data": { "Uid": login.uid, "LastLoginDate": login.login_at },
        })
        .to_string();
        let mut door = self.door.subscribe();
        let mut pause = tokio::time::interval(Duration::from_millis(10));
        loop {
            pause.tick().await;
            let url = soon("a door", door.wait_for(|url| !url.is_empty())).await.unwrap().clone();
            match process::post(&self.client, &url, body.clone()).await {
                Some(202) => {
                    self.accepted.lock().unwrap().push(login);
                    self.trap.passed(Step::Published);
                    return;
                }
                // A process that has just begun may not take any yet.
                Some(503) | None => {}
                Some(other) => panic!("answered {other}"),
            }
        }
    }
}
