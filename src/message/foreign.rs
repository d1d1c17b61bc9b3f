//! Tolerant reading of what other producers publish: our own form, a CloudEvent, a forwarded LoginRadius body.

use jiff::Timestamp;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::text::Text;
use super::webhook::{self, WebhookBody};
use super::{Unreadable, reason_named};
use crate::model::{EventId, LoginEvent, Reason, TenantId, UserId, read_time};

/// The largest message that is read. Our own takes some 300 bytes, a LoginRadius login some 4 KiB.
pub const FOREIGN_BYTES_MAX: usize = 256 * 1024;

/// The media types that are read, parameters apart. A message that names none is read, too.
pub const MEDIA_TYPES: [&str; 2] = ["application/json", "application/cloudevents+json"];

/// Reads a message of any producer, ourselves included, into which of the three forms it may have come.
///
/// A message without a tenant is `queue_tenant`'s; one without a usable id is named by its body. A time that cannot be
/// read is left out, an unknown field is ignored. One without a reason was not written by us: it is accepted now.
pub fn read_foreign(
    body: &[u8],
    content_type: Option<&str>,
    queue_tenant: &TenantId,
    accepted_at: Timestamp,
) -> Result<LoginEvent, Unreadable> {
    if !content_type.is_none_or(is_read) {
        return Err(Unreadable::MediaType);
    }
    if body.len() > FOREIGN_BYTES_MAX {
        return Err(Unreadable::TooLarge);
    }
    // serde would take a list for an object whose fields come in order.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(Unreadable::NotJson { line: 1, column: 1 });
    }
    let context = Context { body, queue_tenant, accepted_at };
    match serde_json::from_slice::<Foreign<'_>>(body) {
        Ok(foreign) if foreign.hook_name.is_some() => context.forwarded(),
        Ok(foreign) if foreign.specversion.is_some() => context.cloud_event(&foreign),
        Ok(foreign) => context.own(&foreign),
        // Published LoginRadius bodies are not always JSON: only their own reader knows.
        Err(error) => match context.forwarded() {
            Err(Unreadable::NotJson { .. } | Unreadable::BadField("HookName")) => Err(error.into()),
            known => known,
        },
    }
}

fn is_read(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.is_empty() || MEDIA_TYPES.iter().any(|read| essence.eq_ignore_ascii_case(read))
}

/// All three forms at once, so that one pass tells which it is. No two of them share a field of different meaning.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Foreign<'a> {
    #[serde(borrow)]
    tenant: Option<Text<'a>>,
    #[serde(borrow)]
    uid: Option<Text<'a>>,
    #[serde(borrow)]
    id: Option<Text<'a>>,
    #[serde(borrow)]
    at: Option<Text<'a>>,
    #[serde(borrow)]
    login_at: Option<Text<'a>>,
    #[serde(borrow)]
    reason: Option<Text<'a>>,
    #[serde(borrow)]
    rung: Option<Text<'a>>,
    #[serde(borrow)]
    accepted_at: Option<Text<'a>>,
    /// Only a CloudEvent has it.
    #[serde(borrow)]
    specversion: Option<Text<'a>>,
    #[serde(borrow)]
    subject: Option<Text<'a>>,
    #[serde(borrow)]
    time: Option<Text<'a>>,
    /// Only a LoginRadius body has it.
    #[serde(rename = "HookName")]
    hook_name: Option<IgnoredAny>,
}

/// What is known of a message besides its fields.
struct Context<'a> {
    body: &'a [u8],
    queue_tenant: &'a TenantId,
    accepted_at: Timestamp,
}

impl Context<'_> {
    fn own(&self, foreign: &Foreign<'_>) -> Result<LoginEvent, Unreadable> {
        let rung = foreign.rung.as_ref().and_then(|rung| rung.0.parse().ok());
        let named = foreign.reason.as_ref().map(|reason| reason_named(&reason.0, rung).unwrap_or(Reason::Login));
        let uid = foreign.uid.as_ref().ok_or(Unreadable::NoUser("`uid` is missing"))?;
        Ok(LoginEvent {
            tenant: self.tenant(foreign)?,
            user: UserId::parse(&uid.0).map_err(|_grammar| Unreadable::BadField("uid"))?,
            id: self.id(foreign),
            at: time(foreign.at.as_ref()),
            login_at: time(foreign.login_at.as_ref()),
            reason: named.unwrap_or(Reason::Login),
            accepted_at: time(foreign.accepted_at.as_ref()).or_else(|| named.is_none().then_some(self.accepted_at)),
        })
    }

    /// `data` may hold anything and is not looked at.
    fn cloud_event(&self, foreign: &Foreign<'_>) -> Result<LoginEvent, Unreadable> {
        if foreign.specversion.as_ref().is_none_or(|version| version.0 != "1.0") {
            return Err(Unreadable::BadField("specversion"));
        }
        let uid = foreign.subject.as_ref().ok_or(Unreadable::NoUser("`subject` is missing"))?;
        Ok(LoginEvent {
            tenant: self.tenant(foreign)?,
            user: UserId::parse(&uid.0).map_err(|_grammar| Unreadable::BadField("subject"))?,
            id: self.id(foreign),
            at: time(foreign.time.as_ref()),
            login_at: None,
            reason: Reason::Login,
            accepted_at: Some(self.accepted_at),
        })
    }

    fn forwarded(&self) -> Result<LoginEvent, Unreadable> {
        match webhook::read_webhook(self.body, self.queue_tenant, self.accepted_at)? {
            WebhookBody::Login(event) => Ok(event),
            WebhookBody::Other(name) if name.is_empty() => Err(Unreadable::BadField("HookName")),
            WebhookBody::Other(_) => Err(Unreadable::NotALogin),
        }
    }

    fn tenant(&self, foreign: &Foreign<'_>) -> Result<TenantId, Unreadable> {
        match &foreign.tenant {
            Some(tenant) if tenant.0 != self.queue_tenant.as_str() => {
                TenantId::parse(&tenant.0).map_err(|_grammar| Unreadable::BadField("tenant"))
            }
            _ => Ok(self.queue_tenant.clone()),
        }
    }

    fn id(&self, foreign: &Foreign<'_>) -> EventId {
        let usable = foreign.id.as_ref().and_then(|id| EventId::parse(&id.0).ok());
        usable.unwrap_or_else(|| EventId::of_body(self.body))
    }
}

fn time(text: Option<&Text<'_>>) -> Option<Timestamp> {
    read_time(&text?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn read(body: &str) -> Result<LoginEvent, Unreadable> {
        read_as(body, None)
    }

    fn read_as(body: &str, content_type: Option<&str>) -> Result<LoginEvent, Unreadable> {
        read_foreign(body.as_bytes(), content_type, &TenantId::parse("acme").unwrap(), NOW)
    }

    fn at(text: &str) -> Option<Timestamp> {
        text.parse().ok()
    }

    #[test]
    fn a_uid_is_all_that_a_message_needs() {
        let body = r#"{"uid":"ann"}"#;
        let expected = LoginEvent {
            tenant: TenantId::parse("acme").unwrap(),
            user: UserId::parse("ann").unwrap(),
            id: EventId::of_body(body.as_bytes()),
            at: None,
            login_at: None,
            reason: Reason::Login,
            accepted_at: Some(NOW),
        };
        assert_eq!(read(body), Ok(expected));
    }

    #[test]
    fn what_a_message_says_beyond_that_is_taken() {
        let event = read(
            r#"{"x":[{}],"uid":"ann","tenant":"other","id":"h-1","at":"2026-01-02T03:04:05",
            "login_at":"2026-01-02T03:04:05.1234567Z","reason":"recheck","rung":2,"accepted_at":"2026-01-02T03:04:06Z"}"#,
        )
        .unwrap();
        assert_eq!((event.tenant.as_str(), event.id.as_str()), ("other", "h-1"));
        assert_eq!(
            (event.at, event.login_at, event.accepted_at),
            (at("2026-01-02T03:04:05Z"), at("2026-01-02T03:04:05.1234567Z"), at("2026-01-02T03:04:06Z"))
        );
        assert_eq!(event.reason, Reason::Recheck { rung: 2 });
    }

    #[test]
    fn what_a_message_says_wrongly_beside_the_user_is_left_out() {
        let body =
            r#"{"uid":"ann","tenant":null,"id":"an id","at":"yesterday","login_at":17,"reason":"hunch","rung":-1}"#;
        let event = read(body).unwrap();
        assert_eq!((event.tenant.as_str(), event.id), ("acme", EventId::of_body(body.as_bytes())));
        assert_eq!((event.at, event.login_at, event.reason), (None, None, Reason::Login));
        for rung in ["300", "\"x\"", "{}"] {
            let event = read(&format!(r#"{{"uid":"ann","reason":"recheck","rung":{rung}}}"#)).unwrap();
            assert_eq!(event.reason, Reason::Recheck { rung: 0 });
        }
    }

    #[test]
    fn a_cloud_event_names_the_user_in_its_subject() {
        let event = read_as(
            r#"{"specversion":"1.0","type":"com.example.login","source":"/gateway","id":"e-1","subject":"ann",
            "time":"2026-01-02T03:04:05Z","tenant":"other","data":{"uid":"bob","HookName":"x"},"uid":"bob"}"#,
            Some("application/cloudevents+json; charset=utf-8"),
        )
        .unwrap();
        assert_eq!((event.tenant.as_str(), event.user.as_str(), event.id.as_str()), ("other", "ann", "e-1"));
        assert_eq!((event.at, event.login_at, event.accepted_at), (at("2026-01-02T03:04:05Z"), None, Some(NOW)));
    }

    #[test]
    fn a_forwarded_login_is_read_even_with_the_flaws_of_published_ones() {
        for password in ["**", "a\u{1}\n\u{83}b"] {
            let body = format!(
                r#"{{"HookName":"login","HookId":"h-1","Data":{{"Password":"{password}","Uid":"ann"}},"Time":"?"}}"#
            );
            let event = read(&body).unwrap();
            assert_eq!((event.tenant.as_str(), event.user.as_str(), event.id.as_str()), ("acme", "ann", "h-1"));
            assert_eq!(event.accepted_at, Some(NOW));
        }
    }

    #[test]
    fn a_forwarded_event_that_is_no_login_is_told_from_rubbish() {
        assert_eq!(read(r#"{"HookName":"Register","Data":{"Uid":"ann"}}"#), Err(Unreadable::NotALogin));
        assert_eq!(read(r#"{"HookName":[],"Data":{"Uid":"ann"}}"#), Err(Unreadable::BadField("HookName")));
    }

    #[test]
    fn a_message_that_cannot_be_read_is_refused_with_what_is_wrong() {
        for (body, problem) in [
            ("{}", Unreadable::NoUser("`uid` is missing")),
            (r#"{"uid":null}"#, Unreadable::NoUser("`uid` is missing")),
            (r#"{"uid":""}"#, Unreadable::BadField("uid")),
            (r#"{"uid":["ann"]}"#, Unreadable::BadField("uid")),
            (r#"{"uid":"ann","tenant":"An Acme"}"#, Unreadable::BadField("tenant")),
            (r#"{"specversion":"1.0","uid":"ann"}"#, Unreadable::NoUser("`subject` is missing")),
            (r#"{"specversion":"1.0","subject":"a/b"}"#, Unreadable::BadField("subject")),
            (r#"{"specversion":"0.3","subject":"ann"}"#, Unreadable::BadField("specversion")),
            (r#"{"HookName":"login","Data":{}}"#, Unreadable::NoUser("`Data.Uid` is missing")),
            ("", Unreadable::NotJson { line: 1, column: 1 }),
            (r#"["acme","ann","h-1"]"#, Unreadable::NotJson { line: 1, column: 1 }),
            ("\"ann\"", Unreadable::NotJson { line: 1, column: 1 }),
            (r#"{"uid":"ann"}{"uid":"bob"}"#, Unreadable::NotJson { line: 1, column: 14 }),
        ] {
            assert_eq!(read(body), Err(problem), "{body}");
        }
        let two = read(r#"{"uid":"ann","uid":"bob"}"#);
        assert!(matches!(two, Err(Unreadable::NotJson { .. })), "{two:?}");
    }

    #[test]
    fn json_is_read_under_either_media_type_or_none() {
        let named = |content_type| read_as(r#"{"uid":"ann"}"#, content_type).is_ok();
        for read in ["", "application/json", "Application/JSON;charset=utf-8", " application/CloudEvents+json ; a=b"] {
            assert!(named(Some(read)), "{read}");
        }
        for refused in
            ["text/plain", "application/octet-stream", "application/jsonx", "application/cloudevents-batch+json"]
        {
            assert_eq!(read_as(r#"{"uid":"ann"}"#, Some(refused)), Err(Unreadable::MediaType), "{refused}");
        }
        assert!(named(None));
    }

    #[test]
    fn a_message_may_be_as_large_as_the_limit_and_no_larger() {
        let message = r#"{"uid":"ann"}"#;
        let padded = |bytes: usize| format!("{message}{}", " ".repeat(bytes - message.len()));
        assert!(read(&padded(FOREIGN_BYTES_MAX)).is_ok());
        assert_eq!(read(&padded(FOREIGN_BYTES_MAX + 1)), Err(Unreadable::TooLarge));
    }
}
