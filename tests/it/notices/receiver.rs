//! A receiver of notices on this machine, which answers as it is told to and keeps what came.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use serde_json::Value;
use standardwebhooks::Webhook;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::support::soon;

/// Thirty-two bytes.
pub(super) const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo=";

/// A request that came.
#[derive(Clone, Debug)]
pub(super) struct Got {
    pub(super) headers: HeaderMap,
    pub(super) body: String,
    pub(super) answered: u16,
}

impl Got {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no {name}: {:?}", self.headers)).to_str().unwrap()
    }

    pub(super) fn id(&self) -> &str {
        self.header("webhook-id")
    }

    /// What it says, once the reference implementation has found the signature right.
    pub(super) fn verified(&self) -> Value {
        let webhook = Webhook::new(SECRET).unwrap();
        webhook.verify(self.body.as_bytes(), &self.headers).unwrap();
        let tampered = self.body.replacen("ann", "bob", 1);
        assert!(tampered == self.body || webhook.verify(tampered.as_bytes(), &self.headers).is_err());
        serde_json::from_str(&self.body).unwrap()
    }
}

#[derive(Clone)]
struct Kept {
    got: Arc<Mutex<Vec<Got>>>,
    came: watch::Sender<usize>,
    answer: Arc<Mutex<u16>>,
}

pub(super) struct Receiver {
    kept: Kept,
    pub(super) url: String,
    _serving: JoinSet<()>,
}

impl Receiver {
    /// One that answers everything with this status.
    pub(super) async fn start(status: u16) -> Self {
        let kept = Kept { got: Arc::default(), came: watch::Sender::new(0), answer: Arc::new(Mutex::new(status)) };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hooks/planted-path", listener.local_addr().unwrap());
        let router = Router::new().fallback(take).with_state(kept.clone());
        let mut serving = JoinSet::new();
        serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { kept, url, _serving: serving }
    }

    pub(super) fn answer_with(&self, status: u16) {
        *self.kept.answer.lock().unwrap() = status;
    }

    pub(super) fn got(&self) -> Vec<Got> {
        self.kept.got.lock().unwrap().clone()
    }

    /// Waits until so many requests were answered with this status; all that came.
    pub(super) async fn until(&self, number: usize, status: u16) -> Vec<Got> {
        let mut came = self.kept.came.subscribe();
        let enough = || self.got().iter().filter(|got| got.answered == status).count() >= number;
        soon(&format!("{number} requests answered {status}"), async { came.wait_for(|_| enough()).await.map(drop) })
            .await
            .unwrap();
        self.got()
    }

    /// The ids of notices that were taken.
    pub(super) fn taken(&self) -> BTreeSet<String> {
        self.got().iter().filter(|got| got.answered < 300).map(|got| got.id().to_owned()).collect()
    }

    /// The configuration of an endpoint that leads here.
    pub(super) fn endpoint(&self, more: &str) -> String {
        format!("{{ name = \"app\", url = \"{}\", secret = \"{SECRET}\", allow_private = true {more} }}", self.url)
    }
}

/// Whoever follows a redirect comes back.
async fn take(
    State(kept): State<Kept>,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, [(&'static str, &'static str); 1]) {
    let answered = *kept.answer.lock().unwrap();
    let body = String::from_utf8(body.to_vec()).unwrap();
    kept.got.lock().unwrap().push(Got { headers, body, answered });
    kept.came.send_modify(|number| *number += 1);
    (StatusCode::from_u16(answered).unwrap(), [("location", "/elsewhere")])
}
