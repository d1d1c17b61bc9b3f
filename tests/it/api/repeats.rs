//! `Idempotency-Key`: what is asked again with the same key is done once.

use std::path::Path;
use std::time::Duration;

use reqwest::RequestBuilder;
use serde_json::{Value, json};
use soloist::sandbox::{Faults, LoginMade, Outage, Sandbox, SandboxConfig};
use tokio::task::JoinSet;

use super::{KEY, Shop, key};
use crate::support::process::{Serving, command};
use crate::support::soon;

/// Between two questions whether something has happened.
const PAUSE: Duration = Duration::from_millis(20);
const END_OTHERS: &str = "/v1/me/sessions/end-others";
/// With room for everybody, so that only what is asked for ends.
const ROOM: (&str, &str) = ("SOLOIST_POLICY__LIMIT", "9");

#[derive(Debug, PartialEq)]
struct Answer {
    status: u16,
    is_replayed: bool,
    /// Whether it says when to come again.
    waits: bool,
    body: Value,
}

impl Answer {
    /// Which error it is; empty for none.
    fn problem(&self) -> &str {
        self.body["type"].as_str().unwrap_or_default().trim_start_matches("urn:soloist:problem:")
    }
}

async fn answer(request: RequestBuilder) -> Answer {
    let response = soon("an answer", request.send()).await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Answer {
        status,
        is_replayed: headers.get("idempotency-replayed").is_some_and(|value| value == "true"),
        waits: headers.contains_key("retry-after"),
        body: serde_json::from_slice(&soon("its body", response.bytes()).await.unwrap()).unwrap(),
    }
}

/// Asks until the first request with this key is no longer at work.
async fn when_done(request: &RequestBuilder) -> Answer {
    soon("the first request to end", async {
        let mut pause = tokio::time::interval(PAUSE);
        loop {
            pause.tick().await;
            let answer = answer(request.try_clone().unwrap()).await;
            if answer.problem() != "in_progress" {
                return answer;
            }
            assert_eq!((answer.status, answer.waits), (409, true));
        }
    })
    .await
}

impl Shop {
    fn end_others(&self, login: &LoginMade, key: &str) -> RequestBuilder {
        self.request("POST", END_OTHERS).bearer_auth(&login.access_token).header("idempotency-key", key)
    }

    fn checkpoint(&self, body: &Value, key: &str) -> RequestBuilder {
        self.request("POST", "/v1/checkpoint").bearer_auth(KEY).header("idempotency-key", key).json(body)
    }
}

fn is_in(sandbox: &Sandbox, login: &LoginMade) -> bool {
    sandbox.sessions(&login.uid).iter().any(|session| session.session == login.session)
}

fn ends_tried(sandbox: &Sandbox) -> u64 {
    sandbox.report(1).calls.get("auth_invalidate").copied().unwrap_or(0)
}

/// Faults of the calls that end a session.
fn when_ending(faults: Faults) -> Faults {
    Faults { operations: vec!["auth_invalidate".to_owned()], ..faults }
}

async fn until_one_is_being_ended(sandbox: &Sandbox) {
    soon("the first end", async {
        let mut pause = tokio::time::interval(PAUSE);
        while ends_tried(sandbox) == 0 {
            pause.tick().await;
        }
    })
    .await;
}

#[tokio::test]
async fn who_logs_in_before_the_repeat_is_not_ended_by_it() {
    let shop = Shop::open(&[ROOM]).await;
    let (phone, laptop) = (shop.login("ann", "phone"), shop.login("ann", "laptop"));
    let first = answer(shop.end_others(&laptop, "\"k-1\"")).await;
    assert_eq!((first.status, first.is_replayed), (200, false), "{first:?}");
    let tablet = shop.login("ann", "tablet");
    let repeat = answer(shop.end_others(&laptop, "\"k-1\"")).await;
    assert_eq!(repeat, Answer { is_replayed: true, ..first });
    assert_eq!((is_in(&shop.service.sandbox, &phone), is_in(&shop.service.sandbox, &tablet)), (false, true));
    assert_eq!(answer(shop.end_others(&laptop, "\"k-2\"")).await.status, 200);
    assert!(!is_in(&shop.service.sandbox, &tablet), "another key is another request");
    shop.close().await;
}

#[tokio::test]
async fn who_goes_away_while_sessions_are_ended_is_told_the_outcome_on_coming_again() {
    let shop = Shop::open(&[ROOM]).await;
    let (phone, laptop) = (shop.login("ann", "phone"), shop.login("ann", "laptop"));
    shop.service.sandbox.set_faults(when_ending(Faults { latency_ms: 300, ..Faults::default() }));
    let request = shop.end_others(&laptop, "k");
    let mut first = JoinSet::new();
    first.spawn(request.try_clone().unwrap().send());
    until_one_is_being_ended(&shop.service.sandbox).await;
    first.shutdown().await;
    let told = when_done(&request).await;
    assert_eq!((told.status, told.is_replayed), (200, true), "{told:?}");
    assert_eq!(told.body["ended"], json!([{"session": phone.session, "ended": "revoked"}]));
    shop.close().await;
}

#[tokio::test]
async fn requests_at_the_same_moment_are_done_once() {
    let shop = Shop::open(&[ROOM]).await;
    let (_phone, _tablet) = (shop.login("ann", "phone"), shop.login("ann", "tablet"));
    let laptop = shop.login("ann", "laptop");
    shop.service.sandbox.set_faults(when_ending(Faults { latency_ms: 100, ..Faults::default() }));
    let request = shop.end_others(&laptop, "k");
    let mut asking = JoinSet::new();
    for _ in 0..8 {
        let request = request.try_clone().unwrap();
        asking.spawn(async move { when_done(&request).await });
    }
    let answers = asking.join_all().await;
    assert!(answers.iter().all(|answer| answer.status == 200 && answer.body == answers[0].body), "{answers:?}");
    assert_eq!(answers.iter().filter(|answer| !answer.is_replayed).count(), 1);
    assert_eq!(ends_tried(&shop.service.sandbox), 2);
    shop.close().await;
}

#[tokio::test]
async fn a_key_is_of_one_caller_one_route_and_one_request() {
    let shop = Shop::open(&[ROOM]).await;
    let (phone, laptop) = (shop.login("ann", "phone"), shop.login("ann", "laptop"));
    let ben = shop.login("ben", "laptop");
    assert_eq!(answer(shop.end_others(&laptop, "k")).await.body["ended"].as_array().unwrap().len(), 1);
    let own_checkpoint = shop.request("POST", "/v1/checkpoint").bearer_auth(&laptop.access_token);
    let own_checkpoint = own_checkpoint.header("idempotency-key", "k").json(&json!({}));
    for (request, of) in [
        (shop.end_others(&ben, "k"), "another user"),
        (shop.checkpoint(&json!({"uid": "ann"}), "k"), "an app"),
        (own_checkpoint, "another route"),
    ] {
        let answer = answer(request).await;
        assert_eq!((answer.status, answer.is_replayed), (200, false), "{of}: {answer:?}");
    }
    let tv = shop.login("ann", "tv");
    for (request, of) in [
        (shop.checkpoint(&json!({"uid": "ben"}), "k"), "another body"),
        (shop.checkpoint(&json!({"token": laptop.access_token}), "k"), "another body"),
        (shop.end_others(&tv, "k"), "another session that would stay"),
    ] {
        let answer = answer(request).await;
        assert_eq!((answer.status, answer.problem()), (422, "key_reused"), "{of}");
    }
    assert!(!is_in(&shop.service.sandbox, &phone) && is_in(&shop.service.sandbox, &laptop));
    shop.close().await;
}

#[tokio::test]
async fn a_request_that_was_refused_before_anything_could_end_does_not_use_up_its_key() {
    let shop = Shop::open(&[ROOM]).await;
    let (phone, laptop) = (shop.login("ann", "phone"), shop.login("ann", "laptop"));
    let login_dates = [(laptop.session.clone(), "2026-01-01T00:00:00Z".to_owned())].into();
    for (faults, expected) in [
        (Faults { login_dates, ..Faults::default() }, (403, "login_too_old")),
        (Faults { outage: Outage::Unavailable, ..Faults::default() }, (503, "provider_unavailable")),
    ] {
        shop.service.sandbox.set_faults(faults);
        let refused = answer(shop.end_others(&laptop, "k")).await;
        assert_eq!((refused.status, refused.problem()), expected);
    }
    shop.service.sandbox.set_faults(Faults::default());
    let wrong = shop.request("POST", END_OTHERS).bearer_auth("nobody's").header("idempotency-key", "k");
    assert_eq!(answer(wrong).await.status, 401);
    let done = answer(shop.end_others(&laptop, "k")).await;
    assert_eq!((done.status, done.is_replayed, is_in(&shop.service.sandbox, &phone)), (200, false, false), "{done:?}");
    shop.close().await;
}

#[tokio::test]
async fn a_checkpoint_that_could_not_be_queued_can_be_asked_again_with_its_key() {
    let shop = Shop::open(&[("SOLOIST_QUEUE__MESSAGES_MAX", "1")]).await;
    let ben = shop.login_in_silence("ben", "phone");
    let stubborn_sessions = vec![ben.session.clone()];
    shop.service.sandbox.set_faults(Faults { stubborn_sessions, ..Faults::default() });
    shop.login("ben", "laptop");
    shop.service.until("the queue to be full", async |service| service.queued().await.2 > 0).await;
    let (phone, _laptop) = (shop.login_in_silence("ann", "phone"), shop.login_in_silence("ann", "laptop"));
    let request = shop.checkpoint(&json!({"uid": "ann"}), "k");
    for _ in 0..2 {
        let refused = answer(request.try_clone().unwrap()).await;
        assert_eq!((refused.status, refused.problem()), (503, "not_now"), "{refused:?}");
    }
    shop.service.sandbox.set_faults(Faults::default());
    shop.service.tell("POST", "/admin/v1/dead-letters/drop", &json!({"all": true})).await;
    let done = answer(request.try_clone().unwrap()).await;
    assert_eq!((done.status, &done.body["reason"]), (200, &json!("displaces_older")), "{done:?}");
    shop.service.settled().await;
    assert!(!is_in(&shop.service.sandbox, &phone));
    assert_eq!(answer(request).await, Answer { is_replayed: true, ..done });
    shop.close().await;
}

#[tokio::test]
async fn a_key_that_is_none_is_refused() {
    let shop = Shop::open(&[ROOM]).await;
    let (phone, laptop) = (shop.login("ann", "phone"), shop.login("ann", "laptop"));
    let long = "x".repeat(256);
    for bad in ["", "a b", long.as_str()] {
        let refused = answer(shop.end_others(&laptop, bad)).await;
        assert_eq!((refused.status, refused.problem()), (400, "idempotency_key"), "{bad}");
    }
    let two = answer(shop.end_others(&laptop, "a").header("idempotency-key", "b")).await;
    assert_eq!((two.status, two.problem()), (400, "idempotency_key"));
    assert!(is_in(&shop.service.sandbox, &phone));
    assert_eq!(answer(shop.end_others(&laptop, &"x".repeat(255))).await.status, 200);
    shop.close().await;
}

#[tokio::test]
async fn neither_a_key_nor_a_token_is_in_a_file() {
    let shop = Shop::open(&[ROOM]).await;
    let (phone, laptop) = (shop.login("ann", "phone"), shop.login("ann", "laptop"));
    shop.service.settled().await;
    assert_eq!(answer(shop.end_others(&laptop, "planted-key")).await.status, 200);
    let token = json!({"token": laptop.access_token});
    assert_eq!(answer(shop.checkpoint(&token, "planted-key")).await.status, 200);
    let needles = ["planted-key", &phone.access_token, &laptop.access_token, KEY];
    let (_sandbox, data_dir) = shop.service.stop().await;
    let file = std::fs::read(data_dir.path().join("idempotency.db")).unwrap();
    assert!(file.starts_with(b"SQLite format 3\0"), "the file is there to be searched");
    for path in std::fs::read_dir(data_dir.path()).unwrap().map(|entry| entry.unwrap().path()) {
        let bytes = std::fs::read(&path).unwrap();
        for needle in needles {
            let is_in = bytes.windows(needle.len()).any(|window| window == needle.as_bytes());
            assert!(!is_in, "{needle} in {}", path.display());
        }
    }
}

async fn serve(data_dir: &Path, sandbox: &Sandbox) -> Serving {
    let keys = format!("[{}]", key("shop", KEY, r#"["checkpoint"]"#, ""));
    let variables = [("SOLOIST_API__KEYS", keys.as_str()), ROOM];
    Serving::start(command(data_dir, &sandbox.url(), &variables), data_dir).await
}

fn end_others(serving: &Serving, login: &LoginMade, key: &str) -> RequestBuilder {
    let url = serving.webhook_url.replace("/webhooks/loginradius", END_OTHERS);
    serving.client.post(url).bearer_auth(&login.access_token).header("idempotency-key", key)
}

#[tokio::test]
async fn after_a_kill_a_repeat_ends_nobody_and_says_that_the_outcome_is_unknown() {
    for killed_while_ending in [false, true] {
        let sandbox = Sandbox::start(SandboxConfig::default()).await.unwrap();
        let data_dir = tempfile::tempdir().unwrap();
        let login = |device| sandbox.login_in_silence("ann", Some(device)).unwrap();
        let (_phone, laptop) = (login("phone"), login("laptop"));
        let serving = serve(data_dir.path(), &sandbox).await;
        if killed_while_ending {
            sandbox.set_faults(when_ending(Faults { hang_percent: 100.0, ..Faults::default() }));
            let mut first = JoinSet::new();
            first.spawn(end_others(&serving, &laptop, "k").send());
            until_one_is_being_ended(&sandbox).await;
            serving.kill().await;
            sandbox.set_faults(Faults::default());
        } else {
            assert_eq!(answer(end_others(&serving, &laptop, "k")).await.status, 200);
            serving.kill().await;
        }
        let serving = serve(data_dir.path(), &sandbox).await;
        sandbox.advance(Duration::from_millis(2));
        let tablet = login("tablet");
        let ends_before = ends_tried(&sandbox);
        let repeat = answer(end_others(&serving, &laptop, "k")).await;
        assert_eq!((repeat.status, repeat.problem(), repeat.waits), (409, "outcome_unknown", false), "{repeat:?}");
        assert!(is_in(&sandbox, &tablet) && ends_tried(&sandbox) == ends_before);
        assert_eq!(answer(end_others(&serving, &laptop, "another")).await.status, 200);
        assert!(!is_in(&sandbox, &tablet));
        serving.kill().await;
    }
}
