//! A message of any producer: any media type, any body.
//!
//! An input is the media type on the first line, empty for none, then the body.

use jiff::Timestamp;
use serde_json::Value;
use soloist::message::{Remains, Unreadable, read, read_foreign};
use soloist::model::{Reason, TenantId};

use super::webhook::{assert_is_sound, is_uid};

/// # Panics
/// Where a message becomes what it does not say, or what cannot be read is repeated.
pub fn check(input: &[u8]) {
    let end = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
    let (head, body) = (&input[..end], input.get(end + 1..).unwrap_or_default());
    let media_type = std::str::from_utf8(head).ok().filter(|head| !head.is_empty());
    let tenant = TenantId::parse("acme").unwrap();
    let accepted_at = Timestamp::UNIX_EPOCH;

    let event = read_foreign(body, media_type, &tenant, accepted_at);
    assert_eq!(event, read_foreign(body, media_type, &tenant, accepted_at), "the same message read twice");
    match &event {
        Ok(event) => assert_is_sound(event),
        Err(unreadable) => nothing_of_it_is_kept(body, unreadable),
    }
    match read(body) {
        Ok(event) => assert_is_sound(&event),
        Err(unreadable) => assert!(!format!("{unreadable} {unreadable:?}").contains("canary")),
    }
    if let Some((plain, uid)) = plain(body) {
        let event = read_foreign(&plain, None, &tenant, accepted_at).expect("a plain message is read");
        assert_eq!((event.user.as_str(), event.reason), (uid.as_str(), Reason::Login));
    }
    if let Some(remains) = Remains::read(body) {
        assert_eq!(Remains::read(&remains.write()), Some(remains));
    }
}

fn nothing_of_it_is_kept(body: &[u8], unreadable: &Unreadable) {
    let remains = Remains::of(body, unreadable);
    let written = remains.write();
    assert!(!String::from_utf8_lossy(&written).contains("canary"), "{remains:?}");
    assert_eq!(Remains::read(&written), Some(remains));
}

/// The user and nothing else of a body that names one in our own form.
fn plain(body: &[u8]) -> Option<(Vec<u8>, String)> {
    let uid = serde_json::from_slice::<Value>(body).ok()?["uid"].as_str().filter(|uid| is_uid(uid))?.to_owned();
    Some((serde_json::json!({ "uid": uid }).to_string().into_bytes(), uid))
}
