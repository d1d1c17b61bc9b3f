//! The vendor's session rows and pages, in every spelling on record.
//!
//! The vendor's own samples disagree: `AccessToken` and `accesstoken`, `nextCursor`, `nextcursor` and no cursor at all.
//! So keys are compared without case, every field may be missing, and what cannot be read makes the view incomplete
//! instead of failing the page.

use serde::de::{Deserialize as _, Deserializer, IgnoredAny, MapAccess, SeqAccess};
use serde_json::Value;

use super::answer::ErrorCode;
use super::tolerant::{Scalar, Shape, Tolerant, next_key, next_scalar};
use crate::model::{Session, SessionDevice, View, read_time};

/// Reads a list of vendor rows. Null is an empty list; anything else than a list is an empty, incomplete view.
///
/// A row that is no object or has no token is left out and makes the view incomplete. Rows keep their order, and two
/// rows with one token stay two: what they mean is the rule's matter.
pub fn read_sessions(rows: &Value) -> View {
    deserialize_sessions(rows).unwrap_or_default()
}

/// [`read_sessions`] without a tree in between, for `#[serde(deserialize_with)]`. Fails only where the text is no JSON.
pub fn deserialize_sessions<'de, D: Deserializer<'de>>(deserializer: D) -> Result<View, D::Error> {
    Tolerant::<View>::deserialize(deserializer).map(|rows| rows.0)
}

impl<'de> Shape<'de> for View {
    fn other() -> Self {
        Self { sessions: Vec::new(), complete: false }
    }

    fn null() -> Self {
        Self { sessions: Vec::new(), complete: true }
    }

    fn list<A: SeqAccess<'de>>(mut list: A) -> Result<Self, A::Error> {
        let mut view = Self::null();
        while let Some(Tolerant(Row(session))) = list.next_element()? {
            match session {
                Some(session) => view.sessions.push(session),
                None => view.complete = false,
            }
        }
        Ok(view)
    }
}

/// One row; `None` where it is no object or names no token.
struct Row(Option<Session>);

impl<'de> Shape<'de> for Row {
    fn other() -> Self {
        Self(None)
    }

    fn object<A: MapAccess<'de>>(mut object: A) -> Result<Self, A::Error> {
        let mut token = None;
        let mut login_at = None;
        let mut device = SessionDevice::default();
        while let Some(key) = next_key(&mut object)? {
            let is = |name: &str| key.eq_ignore_ascii_case(name);
            if is("AccessToken") {
                token = token.or(next_scalar(&mut object)?.into_text().filter(|token| !token.is_empty()));
                continue;
            }
            if is("LoginDate") {
                login_at = login_at.or(next_scalar(&mut object)?.into_text().and_then(|raw| read_time(&raw)));
                continue;
            }
            let Some(field) = device_field(&mut device, &key) else {
                object.next_value::<IgnoredAny>()?;
                continue;
            };
            if let Scalar::Text(text) = next_scalar(&mut object)? {
                *field = Some(text.into_owned());
            }
        }
        Ok(Self(token.map(|token| Session::new(&token, login_at, device))))
    }
}

fn device_field<'a>(device: &'a mut SessionDevice, key: &str) -> Option<&'a mut Option<String>> {
    let fields = [
        ("Browser", &mut device.browser),
        ("Device", &mut device.device),
        ("Os", &mut device.os),
        ("DeviceType", &mut device.device_type),
        ("City", &mut device.city),
        ("Country", &mut device.country),
        ("Ip", &mut device.ip),
    ];
    fields.into_iter().find(|(name, _)| key.eq_ignore_ascii_case(name)).map(|(_, field)| field)
}

/// Where the listing goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cursor {
    End,
    /// Send it as `nextcursor`. The vendor's type is a 32-bit number, and code 996 says that it must be above 0.
    Next(u32),
    Unreadable,
}

impl Cursor {
    fn read(value: &Scalar<'_>) -> Self {
        let number = match value {
            Scalar::Null => Some(0),
            Scalar::Integer(number) => u32::try_from(*number).ok(),
            Scalar::Text(text) if text.trim().is_empty() => Some(0),
            Scalar::Text(text) => text.trim().parse().ok(),
            Scalar::Other => None,
        };
        match number {
            Some(0) => Self::End,
            Some(number) => Self::Next(number),
            None => Self::Unreadable,
        }
    }
}

/// One answer to a listing, right or wrong.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) view: View,
    pub(super) cursor: Cursor,
    pub(super) code: ErrorCode,
    /// Whether there was a `data` or a cursor at all. Without one this is no listing, whatever its status says.
    pub(super) recognised: bool,
}

impl Page {
    /// `None` where the body is no JSON.
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        serde_json::from_slice::<Tolerant<Self>>(body).ok().map(|page| page.0)
    }
}

impl<'de> Shape<'de> for Page {
    fn other() -> Self {
        Self { view: View::null(), cursor: Cursor::End, code: ErrorCode::None, recognised: false }
    }

    fn object<A: MapAccess<'de>>(mut object: A) -> Result<Self, A::Error> {
        let mut page = Self::other();
        while let Some(key) = next_key(&mut object)? {
            if key.eq_ignore_ascii_case("data") {
                let rows = object.next_value::<Tolerant<View>>()?.0;
                page.view.complete &= rows.complete;
                page.view.sessions.extend(rows.sessions);
                page.recognised = true;
            } else if key.eq_ignore_ascii_case("nextcursor") {
                page.cursor = Cursor::read(&next_scalar(&mut object)?);
                page.recognised = true;
            } else if ErrorCode::is_key(&key) {
                page.code = page.code.or(ErrorCode::read(&key, &next_scalar(&mut object)?));
            } else {
                object.next_value::<IgnoredAny>()?;
            }
        }
        Ok(page)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(raw: &str) -> Option<jiff::Timestamp> {
        raw.parse().ok()
    }

    #[test]
    fn a_row_is_read_in_any_case_and_with_any_type_in_its_fields() {
        let view = read_sessions(&json!([
            {"ACCESSTOKEN": "a", "logindate": "2023-01-01T00:00:00Z", "ip": "::1", "OS": null, "Browser": 7, "x": [{}]},
            {"AccessToken": null, "accessToken": "b", "LoginDate": {"no": 1}, "DeviceType": "", "Device": "PC"},
        ]));
        assert!(view.complete);
        let [a, b] = view.sessions.as_slice() else { panic!("two rows") };
        assert_eq!((a.token.expose(), a.device.ip.as_deref(), &a.device.os), ("a", Some("::1"), &None));
        assert_eq!((a.login_at, &a.device.browser), (at("2023-01-01T00:00:00Z"), &None));
        assert_eq!((b.token.expose(), b.login_at, b.device.device_type.as_deref()), ("b", None, Some("")));
    }

    #[test]
    fn an_unreadable_row_costs_completeness_and_not_its_neighbours() {
        for junk in [json!(null), json!(3), json!("row"), json!([]), json!({}), json!({"AccessToken": ""}), json!(1.5)]
        {
            let view = read_sessions(&json!([{"AccessToken": "a"}, junk, {"AccessToken": "b"}]));
            assert_eq!((view.sessions.len(), view.complete), (2, false), "{junk}");
        }
        for junk in [json!({}), json!("x"), json!(true), json!(0)] {
            assert_eq!(read_sessions(&junk), View { sessions: vec![], complete: false }, "{junk}");
        }
        assert_eq!(read_sessions(&json!(null)), View { sessions: vec![], complete: true });
    }

    #[test]
    fn a_cursor_is_an_end_a_positive_number_or_unreadable() {
        let cursor = |json: &str| Page::read(format!(r#"{{"NEXTCURSOR":{json}}}"#).as_bytes()).unwrap().cursor;
        for end in ["0", "null", r#""""#, r#""0""#] {
            assert_eq!(cursor(end), Cursor::End, "{end}");
        }
        assert_eq!((cursor("7"), cursor(r#""7""#)), (Cursor::Next(7), Cursor::Next(7)));
        for junk in ["-1", "1.5", r#""x""#, "[]", "true", "99999999999999999999"] {
            assert_eq!(cursor(junk), Cursor::Unreadable, "{junk}");
        }
    }
}
