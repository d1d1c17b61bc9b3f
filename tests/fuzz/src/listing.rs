//! An answer of the provider to a listing: any status, any `Retry-After`, any body.
//!
//! An input is the status and, where there is one, the wish to wait on the first line, then the body.

use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::Value;
use soloist::model::View;
use soloist::policy::{Action, Marks, Policy, ResolvedPolicy, Source, Subject, decide};
use soloist::provider::ProviderError;
use soloist::provider::loginradius::read_listing;

/// # Panics
/// Where an answer is taken for what it is not.
pub fn check(input: &[u8]) {
    let end = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
    let (head, body) = (&input[..end], input.get(end + 1..).unwrap_or_default());
    let head = std::str::from_utf8(head).unwrap_or_default();
    let (status, wait) = head.split_once(' ').unwrap_or((head, ""));
    let status = status.parse().ok().and_then(|status| StatusCode::from_u16(status).ok()).unwrap_or(StatusCode::OK);
    let wait = HeaderValue::from_str(wait).ok().filter(|wait| !wait.is_empty());
    let headers: HeaderMap = wait.map(|wait| (header::RETRY_AFTER, wait)).into_iter().collect();

    let read = read_listing(status, &headers, body);
    match &read {
        Ok(view) => is_sound(view),
        Err(error) => says_what_it_may(error),
    }
    all_of_a_plain_list_is_read(status, body, &read);
    nothing_is_read_from_half_an_answer(status, &headers, body);
}

fn says_what_it_may(error: &ProviderError) {
    let text = format!("{error} {error:?} {:?}", std::error::Error::source(error).map(ToString::to_string));
    assert!(!text.contains("canary"), "an error quotes the answer: {text}");
    if let ProviderError::Throttled { retry_after: Some(wait), .. } = error {
        assert!(wait.as_secs() <= 24 * 60 * 60, "{wait:?}");
    }
}

/// Whatever was listed can be decided upon, in any order, and nothing of unknown time is ended.
fn is_sound(view: &View) {
    assert!(
        !format!("{:?}", view.sessions.iter().map(|session| &session.token).collect::<Vec<_>>()).contains("canary")
    );
    assert!(view.sessions.iter().all(|session| !session.token.expose().is_empty()));
    let policy = ResolvedPolicy::new("default", Source::Default, Policy::default());
    let nobody = Subject { tenant: None, user: None };
    let decision = decide(view, &policy, &Marks::default(), nobody);
    let reversed = View { sessions: view.sessions.iter().rev().cloned().collect(), complete: view.complete };
    assert_eq!(decision, decide(&reversed, &policy, &Marks::default(), nobody), "the order of rows counted");
    for verdict in decision.verdicts.iter().filter(|verdict| verdict.action == Action::Revoke) {
        assert!(verdict.login_at.is_some() && !verdict.witnesses.is_empty());
    }
}

/// A list of rows that each have a token, in an answer that says nothing else.
fn all_of_a_plain_list_is_read(status: StatusCode, body: &[u8], read: &Result<View, ProviderError>) {
    let Ok(Value::Object(answer)) = serde_json::from_slice::<Value>(body) else { return };
    let [(key, Value::Array(rows))] = answer.iter().collect::<Vec<_>>()[..] else { return };
    let has_token = |row: &Value| row["AccessToken"].as_str().is_some_and(|token| !token.is_empty());
    let is_plain = key.eq_ignore_ascii_case("data") && status.is_success() && rows.iter().all(has_token);
    // An object that has its key twice is no plain one.
    if is_plain && body.split(|byte| *byte == b'{').count() == rows.len() + 2 {
        let view = read.as_ref().expect("a plain list is read");
        assert_eq!((view.sessions.len(), view.complete), (rows.len(), true));
    }
}

/// Else a connection that breaks would look like a user without sessions.
fn nothing_is_read_from_half_an_answer(status: StatusCode, headers: &HeaderMap, body: &[u8]) {
    let whole = body.trim_ascii();
    if !serde_json::from_slice::<Value>(whole).is_ok_and(|answer| answer.is_object()) {
        return;
    }
    for half in [whole.len() - 1, whole.len() / 2] {
        let read = read_listing(status, headers, &whole[..half]);
        assert!(read.is_err(), "half an answer gave {read:?}");
    }
}
