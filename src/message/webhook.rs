//! Reading a LoginRadius webhook body, of whose profile hardly anything is taken.

use std::borrow::Cow;
use std::fmt;

use jiff::Timestamp;
use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::Unreadable;
use super::text::Text;
use crate::model::{EventId, LoginEvent, Reason, TenantId, UserId, read_time};

/// What a LoginRadius webhook body turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub enum WebhookBody {
    Login(LoginEvent),
    /// Another event, by its name: cut to [`EVENT_NAME_BYTES_MAX`] and to visible ASCII.
    Other(String),
}

/// The longest event name that is repeated to the sender.
pub const EVENT_NAME_BYTES_MAX: usize = 64;

/// Reads a LoginRadius webhook body, taking only what is needed from the profile in it.
///
/// Both documented key orders, any case of `Login`, `Data` as an object or as JSON in a string, unknown fields and
/// nulls are accepted. Published samples carry raw control characters inside strings (password hashes, line ends),
/// which JSON forbids; since LoginRadius never sends an event again, such a body is read with them blanked.
pub fn read_webhook(body: &[u8], tenant: &TenantId, accepted_at: Timestamp) -> Result<WebhookBody, Unreadable> {
    match serde_json::from_slice::<Hook<'_>>(body) {
        Ok(hook) => event_of(&hook, body, tenant, accepted_at),
        Err(first) if !body.iter().any(u8::is_ascii_control) => Err(first.into()),
        Err(first) => {
            let blanked: Vec<u8> = body.iter().map(|&b| if b.is_ascii_control() { b' ' } else { b }).collect();
            let hook = serde_json::from_slice::<Hook<'_>>(&blanked).map_err(|_second| first)?;
            event_of(&hook, body, tenant, accepted_at)
        }
    }
}

fn event_of(hook: &Hook<'_>, body: &[u8], tenant: &TenantId, now: Timestamp) -> Result<WebhookBody, Unreadable> {
    let name = hook.hook_name.as_ref().map(|name| name.0.as_ref()).ok_or(Unreadable::BadField("HookName"))?;
    if !name.eq_ignore_ascii_case("login") {
        let shown = name.chars().filter(char::is_ascii_graphic).take(EVENT_NAME_BYTES_MAX).collect();
        return Ok(WebhookBody::Other(shown));
    }
    let profile = match &hook.data {
        Profile::Read { uid: Some(uid), last_login } => (uid, last_login),
        Profile::Read { uid: None, .. } => return Err(Unreadable::NoUser("`Data.Uid` is missing")),
        Profile::Unusable => return Err(Unreadable::NoUser("`Data` is not an object")),
    };
    let time = |text: &Option<Text<'_>>| text.as_ref().and_then(|text| read_time(&text.0));
    Ok(WebhookBody::Login(LoginEvent {
        tenant: tenant.clone(),
        user: UserId::parse(&profile.0.0).map_err(|_grammar| Unreadable::BadField("Data.Uid"))?,
        id: match &hook.hook_id {
            Some(id) => EventId::parse(&id.0).unwrap_or_else(|_unusable| EventId::of_body(body)),
            None => EventId::of_body(body),
        },
        at: time(&hook.time),
        login_at: time(profile.1),
        reason: Reason::Login,
        accepted_at: Some(now),
    }))
}

#[derive(Deserialize)]
struct Hook<'a> {
    #[serde(rename = "HookName", borrow, default)]
    hook_name: Option<Text<'a>>,
    #[serde(rename = "HookId", borrow, default)]
    hook_id: Option<Text<'a>>,
    #[serde(rename = "Time", borrow, default)]
    time: Option<Text<'a>>,
    #[serde(rename = "Data", borrow, default)]
    data: Profile<'a>,
}

/// The two fields of the profile that are taken.
#[derive(Default)]
enum Profile<'a> {
    Read {
        uid: Option<Text<'a>>,
        last_login: Option<Text<'a>>,
    },
    #[default]
    Unusable,
}

impl<'de: 'a, 'a> Deserialize<'de> for Profile<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(ProfileVisitor)
    }
}

struct ProfileVisitor;

#[derive(Deserialize)]
#[serde(field_identifier)]
enum ProfileKey {
    Uid,
    LastLoginDate,
    #[serde(other)]
    Other,
}

impl<'de> Visitor<'de> for ProfileVisitor {
    type Value = Profile<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a profile")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Profile<'de>, A::Error> {
        let (mut uid, mut last_login) = (None, None);
        while let Some(key) = map.next_key()? {
            match key {
                ProfileKey::Uid => uid = map.next_value::<Option<Text<'de>>>()?,
                ProfileKey::LastLoginDate => last_login = map.next_value::<Option<Text<'de>>>()?,
                ProfileKey::Other => _ = map.next_value::<IgnoredAny>()?,
            }
        }
        Ok(Profile::Read { uid, last_login })
    }
    fn visit_str<E>(self, text: &str) -> Result<Profile<'de>, E> {
        // The vendor's table types `Data` as a string, so JSON in a string is read once, but no deeper.
        let inner = serde_json::from_str::<Inner<'_>>(text).ok();
        Ok(inner.map_or(Profile::Unusable, |inner| {
            let owned = |text: Option<Cow<'_, str>>| text.map(|text| Text(Cow::Owned(text.into_owned())));
            Profile::Read { uid: owned(inner.uid), last_login: owned(inner.last_login) }
        }))
    }
    fn visit_unit<E>(self) -> Result<Profile<'de>, E> {
        Ok(Profile::Unusable)
    }
    fn visit_bool<E>(self, _: bool) -> Result<Profile<'de>, E> {
        Ok(Profile::Unusable)
    }
    fn visit_i64<E>(self, _: i64) -> Result<Profile<'de>, E> {
        Ok(Profile::Unusable)
    }
    fn visit_u64<E>(self, _: u64) -> Result<Profile<'de>, E> {
        Ok(Profile::Unusable)
    }
    fn visit_f64<E>(self, _: f64) -> Result<Profile<'de>, E> {
        Ok(Profile::Unusable)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Profile<'de>, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Profile::Unusable)
    }
}

#[derive(Deserialize)]
struct Inner<'a> {
    #[serde(rename = "Uid", borrow, default)]
    uid: Option<Cow<'a, str>>,
    #[serde(rename = "LastLoginDate", borrow, default)]
    last_login: Option<Cow<'a, str>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_second(1_700_000_000).unwrap()
    }

    fn hook(body: &str) -> Result<WebhookBody, Unreadable> {
        read_webhook(body.as_bytes(), &TenantId::default_tenant(), now())
    }

    fn login(body: &str) -> LoginEvent {
        match hook(body) {
            Ok(WebhookBody::Login(event)) => event,
            other => panic!("{body} gave {other:?}"),
        }
    }

    #[test]
    fn both_key_orders_any_case_of_login_and_json_in_a_string_are_one_event() {
        let old =
            login(r#"{"HookName":"login","Time":"2019-06-11T20:27:56Z","HookId":"h","Data":{"X":[1,{}],"Uid":"ann"}}"#);
        let new =
            login(r#"{"HookName":"LOGIN","HookId":"h","Data":{"Uid":"ann","Y":null},"Time":"2019-06-11T20:27:56Z"}"#);
        let text =
            login(r#"{"HookName":"Login","HookId":"h","Data":"{\"Uid\":\"ann\"}","Time":"2019-06-11T20:27:56.000Z"}"#);
        assert_eq!(old, new);
        assert_eq!(old, text);
    }

    #[test]
    fn a_missing_event_id_is_made_from_the_body() {
        let body = r#"{"HookName":"login","HookId":null,"Data":{"Uid":"ann"}}"#;
        assert_eq!(login(body).id, EventId::of_body(body.as_bytes()));
        assert_eq!(login(r#"{"HookName":"login","HookId":17,"Data":{"Uid":"ann"}}"#).id.as_str(), "17");
    }

    #[test]
    fn times_that_mean_never_are_left_out() {
        let event =
            login(r#"{"HookName":"login","Time":"?","Data":{"Uid":"ann","LastLoginDate":"0001-01-01T00:00:00"}}"#);
        assert_eq!((event.at, event.login_at), (None, None));
    }

    #[test]
    fn raw_control_characters_in_a_password_do_not_lose_the_login() {
        let event = login(
            "{\"HookName\":\"login\",\"HookId\":\"h\",\"Data\":{\"Password\":\"a\u{1}\n\u{83}b\",\"Uid\":\"ann\"}}",
        );
        assert_eq!(event.user.as_str(), "ann");
    }

    #[test]
    fn invalid_utf8_in_a_field_that_is_not_taken_does_not_lose_the_login() {
        let body = b"{\"HookName\":\"login\",\"Data\":{\"Password\":\"\xff\xfe\",\"Uid\":\"ann\"}}";
        assert!(matches!(read_webhook(body, &TenantId::default_tenant(), now()), Ok(WebhookBody::Login(_))));
    }

    #[test]
    fn another_event_is_named_whatever_its_data() {
        for data in ["null", "[]", "\"x\"", "{\"UserProfile\":{\"Uid\":\"ann\"}}"] {
            let body = format!(r#"{{"HookName":"OrgCreated","Data":{data}}}"#);
            assert_eq!(hook(&body), Ok(WebhookBody::Other("OrgCreated".to_owned())));
        }
        assert_eq!(hook(r#"{"HookName":"Register"}"#), Ok(WebhookBody::Other("Register".to_owned())));
    }

    #[test]
    fn a_login_without_a_usable_user_is_refused_with_the_field_at_fault() {
        for (data, problem) in [
            ("null", Unreadable::NoUser("`Data` is not an object")),
            ("[]", Unreadable::NoUser("`Data` is not an object")),
            ("{}", Unreadable::NoUser("`Data.Uid` is missing")),
            (r#"{"Uid":null}"#, Unreadable::NoUser("`Data.Uid` is missing")),
            (r#"{"Uid":""}"#, Unreadable::BadField("Data.Uid")),
            (r#"{"Uid":"a/b"}"#, Unreadable::BadField("Data.Uid")),
            (r#"{"Uid":{"a":[]}}"#, Unreadable::BadField("Data.Uid")),
        ] {
            assert_eq!(hook(&format!(r#"{{"HookName":"login","Data":{data}}}"#)), Err(problem), "{data}");
        }
    }

    #[test]
    fn an_error_never_quotes_the_body() {
        let error = hook(r#"{"HookName":"login","Data":{"Uid":"canary/secret"}}"#).unwrap_err();
        assert!(!error.to_string().contains("canary"));
        let error = hook(r#"{"HookName":canary}"#).unwrap_err();
        assert!(!error.to_string().contains("canary"));
    }
}
