//! `Idempotency-Key`, after the draft of the IETF's httpapi group: a request that ends something is done at most once for
//! each key within a day, also over a crash of the process.
//!
//! A client whose answer was lost cannot know whether to ask again: meanwhile somebody may have logged in whom the repeat
//! would end. With a key it may. Where it stands is kept in two places: the answers in memory, and in [`Begun`] that a request
//! was begun, which is durable before anything is ended. Only the look of a checkpoint may be durable before it: a crash in
//! between has its user looked at, and the repeat once more, which is harmless.
//!
//! A key is its caller's: of one user or one app key, of one tenant, on one route. It is used up by [`Work::begin`], so not by
//! a request that was refused before (its credentials, its body, a limit, a login too old, LoginRadius not to be reached), nor
//! by one that fails afterwards while it is certain that nothing was ended ([`Work::undone`]). Any other failure after that
//! leaves the key used up and the outcome unknown.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::FromRequestParts;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::begun::{Begun, Digest, HELD_FOR};
use super::{Api, NOT_NOW, RETRY_AFTER_SECONDS};
use crate::http::Problem;

pub(super) const KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// `true` in an answer that was given before.
pub(super) const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// Characters of a key.
const KEY_BYTES_MAX: usize = 255;
/// Answers that are kept in memory; beyond it the oldest are forgotten.
const ANSWERS_MAX: usize = 10_000;
/// Bytes of their bodies.
const ANSWERS_BYTES_MAX: usize = 16 * 1024 * 1024;

const BAD_KEY: Problem = Problem::new(
    StatusCode::BAD_REQUEST,
    "idempotency_key",
    "an Idempotency-Key is one header of 1 to 255 visible ASCII characters",
);
const IN_PROGRESS: Problem = Problem {
    retry_after: RETRY_AFTER_SECONDS,
    ..Problem::new(StatusCode::CONFLICT, "in_progress", "the first request with this Idempotency-Key is still at work")
};
const OUTCOME_UNKNOWN: Problem = Problem::new(
    StatusCode::CONFLICT,
    "outcome_unknown",
    "a request with this Idempotency-Key has begun, and what came of it is not known any more: list the sessions again, then \
     decide",
);
const KEY_REUSED: Problem = Problem::new(
    StatusCode::UNPROCESSABLE_ENTITY,
    "key_reused",
    "this Idempotency-Key was used for another request: take a new one for each",
);

/// The key that a request names, if it does. The draft writes it in quotes, which are taken as a part of it.
pub(super) struct Key(Option<HeaderValue>);

impl FromRequestParts<Arc<Api>> for Key {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Api>) -> Result<Self, Problem> {
        let mut named = parts.headers.get_all(KEY).iter();
        match (named.next(), named.next()) {
            (None, _) => Ok(Self(None)),
            (Some(key), None) if is_key(key.as_bytes()) => Ok(Self(Some(key.clone()))),
            _ => Err(BAD_KEY),
        }
    }
}

fn is_key(key: &[u8]) -> bool {
    (1..=KEY_BYTES_MAX).contains(&key.len()) && key.iter().all(u8::is_ascii_graphic)
}

/// A request with a key: what it is known by, and what it asks for.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    key: Digest,
    request: Digest,
}

impl Key {
    /// `caller` is whose key it is; `request` is all that the work depends on.
    pub(super) fn asked(&self, caller: [&[u8]; 3], route: &str, request: &[&[u8]]) -> Option<Asked> {
        let [tenant, kind, id] = caller;
        let key = self.0.as_ref()?.as_bytes();
        Some(Asked { key: digest(&[tenant, kind, id, route.as_bytes(), key]), request: digest(request) })
    }
}

/// Each part with its length, so that no two lists of parts are the same bytes.
fn digest(parts: &[&[u8]]) -> Digest {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// What is known of requests with a key.
pub(super) struct Repeats {
    begun: Begun,
    known: Mutex<Known>,
}

/// The requests that are at work, and the answers of the last ones.
#[derive(Default)]
struct Known {
    by_key: HashMap<Digest, (Digest, State)>,
    /// The keys of all answers, oldest first.
    answered: VecDeque<(Digest, Instant)>,
    bytes: usize,
}

#[derive(Clone)]
enum State {
    AtWork,
    Answered(Bytes),
}

impl Known {
    /// What is known of this request. Where nothing is, it is at work from now on.
    fn claim(&mut self, asked: Asked) -> Option<(Digest, State)> {
        while self.answered.front().is_some_and(|(_, at)| at.elapsed() >= HELD_FOR) {
            self.forget_oldest();
        }
        let known = self.by_key.get(&asked.key).cloned();
        if known.is_none() {
            self.by_key.insert(asked.key, (asked.request, State::AtWork));
        }
        known
    }

    fn answer(&mut self, asked: Asked, body: Bytes) {
        self.bytes += body.len();
        self.by_key.insert(asked.key, (asked.request, State::Answered(body)));
        self.answered.push_back((asked.key, Instant::now()));
        while self.answered.len() > ANSWERS_MAX || self.bytes > ANSWERS_BYTES_MAX {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some((key, _)) = self.answered.pop_front() else { return };
        if let Some((_, State::Answered(body))) = self.by_key.remove(&key) {
            self.bytes = self.bytes.saturating_sub(body.len());
        }
    }

    /// Ends the work without an answer.
    fn leave(&mut self, key: &Digest) {
        if matches!(self.by_key.get(key), Some((_, State::AtWork))) {
            self.by_key.remove(key);
        }
    }
}

impl Repeats {
    pub(super) fn new(begun: Begun) -> Self {
        Self { begun, known: Mutex::default() }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to do what a request asks for; without a key everybody has it. Cloning shares it.
#[derive(Clone, Default)]
pub(super) struct Work(Option<Arc<Claim>>);

struct Claim {
    api: Arc<Api>,
    asked: Asked,
    has_begun: AtomicBool,
    is_undone: AtomicBool,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.api.repeats.known().leave(&self.asked.key);
    }
}

impl Work {
    /// To be called before anything can be ended. From here on the key is used up.
    pub(super) async fn begin(&self) -> Result<(), Problem> {
        let Some(Claim { api, asked, has_begun, .. }) = self.0.as_deref() else { return Ok(()) };
        has_begun.store(true, Ordering::Relaxed);
        let noted = api.repeats.begun.note(asked.key, asked.request, api.sessions.clock.now_ms()).await;
        noted.map_err(|error| unusable(&error))
    }

    /// To be called when it has failed and nothing can have been ended: the key is as good as new.
    pub(super) fn undone(&self) {
        if let Some(claim) = &self.0 {
            claim.is_undone.store(true, Ordering::Relaxed);
        }
    }
}

impl Claim {
    async fn finish(self: Arc<Self>, result: Result<impl Serialize, Problem>) -> Result<Response, Problem> {
        let repeats = &self.api.repeats;
        match result {
            Ok(answer) => {
                let body = Bytes::from(serde_json::to_vec(&answer).map_err(|_no_json| NOT_NOW)?);
                repeats.known().answer(self.asked, body.clone());
                Ok(shown(body))
            }
            Err(problem) => {
                if self.has_begun.load(Ordering::Relaxed) && self.is_undone.load(Ordering::Relaxed) {
                    // If this fails the key stays used up, which ends nobody.
                    repeats.begun.forget(self.asked.key).await.map_err(|error| unusable(&error)).ok();
                }
                Err(problem)
            }
        }
    }
}

fn unusable(error: &anyhow::Error) -> Problem {
    tracing::error!("the file of idempotency keys cannot be used: {error:#}");
    NOT_NOW
}

fn shown(body: Bytes) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

enum Turn {
    Mine(Arc<Claim>),
    Answered(Bytes),
}

impl Api {
    /// Does the work, or says what came of it before. It goes on when whoever asked has gone away: they may come again.
    pub(super) async fn once<T, F>(
        self: &Arc<Self>,
        asked: Option<Asked>,
        work: impl FnOnce(Work) -> F,
    ) -> Result<Response, Problem>
    where
        T: Serialize + Send,
        F: Future<Output = Result<T, Problem>> + Send + 'static,
    {
        let Some(asked) = asked else {
            return work(Work::default()).await.map(|answer| axum::Json(answer).into_response());
        };
        match self.claim(asked).await? {
            Turn::Mine(claim) => {
                let working = work(Work(Some(Arc::clone(&claim))));
                let finished = self.ends.spawn(async move { claim.finish(working.await).await }).await;
                finished.map_err(|_panicked| NOT_NOW)?
            }
            Turn::Answered(body) => {
                let mut response = shown(body);
                response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
                Ok(response)
            }
        }
    }

    async fn claim(self: &Arc<Self>, asked: Asked) -> Result<Turn, Problem> {
        let known = self.repeats.known().claim(asked);
        match known {
            Some((request, _)) if request != asked.request => return Err(KEY_REUSED),
            Some((_, State::AtWork)) => return Err(IN_PROGRESS),
            Some((_, State::Answered(body))) => return Ok(Turn::Answered(body)),
            None => {}
        }
        let api = Arc::clone(self);
        let claim = Claim { api, asked, has_begun: AtomicBool::new(false), is_undone: AtomicBool::new(false) };
        let begun = self.repeats.begun.request_of(asked.key, self.sessions.clock.now_ms()).await;
        match begun.map_err(|error| unusable(&error))? {
            None => Ok(Turn::Mine(Arc::new(claim))),
            Some(request) if request == asked.request => Err(OUTCOME_UNKNOWN),
            Some(_other) => Err(KEY_REUSED),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(n: usize) -> Asked {
        Asked { key: digest(&[&n.to_be_bytes()]), request: [7; 32] }
    }

    #[test]
    fn a_key_is_visible_ascii_of_up_to_255_characters() {
        for good in ["k", "\"8e03978e-40d5-43e8-bc93-6894a57f9324\"", &"x".repeat(255)] {
            assert!(is_key(good.as_bytes()), "{good}");
        }
        for bad in ["", "a b", "ä", "a\t", &"x".repeat(256)] {
            assert!(!is_key(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn parts_of_a_digest_do_not_flow_into_each_other() {
        assert_ne!(digest(&[b"ab", b"c"]), digest(&[b"a", b"bc"]));
        assert_ne!(digest(&[b"ab"]), digest(&[b"ab", b""]));
    }

    #[test]
    fn answers_are_kept_up_to_a_number_and_up_to_their_bytes() {
        for (size, kept) in [(1, ANSWERS_MAX), (ANSWERS_BYTES_MAX / 4, 4), (ANSWERS_BYTES_MAX + 1, 0)] {
            let mut known = Known::default();
            for n in 0..=kept {
                known.answer(asked(n), Bytes::from(vec![b'x'; size]));
            }
            assert_eq!((known.answered.len(), known.by_key.len(), known.bytes), (kept, kept, kept * size));
            assert!(known.claim(asked(0)).is_none(), "the oldest is forgotten");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_kept_for_a_day() {
        let mut known = Known::default();
        known.answer(asked(1), Bytes::from_static(b"{}"));
        tokio::time::advance(HELD_FOR / 2).await;
        assert!(matches!(known.claim(asked(1)), Some((_, State::Answered(_)))));
        tokio::time::advance(HELD_FOR / 2).await;
        assert!(known.claim(asked(1)).is_none());
    }
}
