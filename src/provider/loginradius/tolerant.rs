//! Reading JSON whose spelling and types are not promised: any case of a key, any type of a value.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Something that can be made of whatever stands in the JSON. What it has no use for becomes [`Shape::other`].
pub(super) trait Shape<'de>: Sized {
    fn other() -> Self;

    fn null() -> Self {
        Self::other()
    }

    fn text(_text: Cow<'de, str>) -> Self {
        Self::other()
    }

    fn integer(_integer: i64) -> Self {
        Self::other()
    }

    fn list<A: SeqAccess<'de>>(mut list: A) -> Result<Self, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Self::other())
    }

    fn object<A: MapAccess<'de>>(mut object: A) -> Result<Self, A::Error> {
        while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Self::other())
    }
}

/// Deserialises a [`Shape`]; fails only where the text is no JSON.
pub(super) struct Tolerant<S>(pub(super) S);

impl<'de, S: Shape<'de>> Deserialize<'de> for Tolerant<S> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue(PhantomData)).map(Self)
    }
}

struct AnyValue<S>(PhantomData<S>);

impl<'de, S: Shape<'de>> Visitor<'de> for AnyValue<S> {
    type Value = S;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<S, E> {
        Ok(S::null())
    }

    fn visit_bool<E>(self, _: bool) -> Result<S, E> {
        Ok(S::other())
    }

    fn visit_i64<E>(self, integer: i64) -> Result<S, E> {
        Ok(S::integer(integer))
    }

    fn visit_u64<E>(self, integer: u64) -> Result<S, E> {
        Ok(i64::try_from(integer).map_or_else(|_| S::other(), S::integer))
    }

    fn visit_f64<E>(self, _: f64) -> Result<S, E> {
        Ok(S::other())
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<S, E> {
        Ok(S::text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<S, E> {
        Ok(S::text(Cow::Owned(text.to_owned())))
    }

    fn visit_string<E>(self, text: String) -> Result<S, E> {
        Ok(S::text(Cow::Owned(text)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<S, A::Error> {
        S::list(list)
    }

    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<S, A::Error> {
        S::object(object)
    }
}

/// A value that is read only when it is null, text or a whole number.
#[derive(Debug, PartialEq)]
pub(super) enum Scalar<'de> {
    Null,
    Text(Cow<'de, str>),
    Integer(i64),
    Other,
}

impl<'de> Shape<'de> for Scalar<'de> {
    fn other() -> Self {
        Self::Other
    }

    fn null() -> Self {
        Self::Null
    }

    fn text(text: Cow<'de, str>) -> Self {
        Self::Text(text)
    }

    fn integer(integer: i64) -> Self {
        Self::Integer(integer)
    }
}

impl<'de> Scalar<'de> {
    pub(super) fn into_text(self) -> Option<Cow<'de, str>> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// The next key of an object, borrowed where it contains no escapes.
pub(super) fn next_key<'de, A: MapAccess<'de>>(object: &mut A) -> Result<Option<Cow<'de, str>>, A::Error> {
    Ok(object.next_key::<Tolerant<Scalar<'de>>>()?.map(|key| key.0.into_text().unwrap_or_default()))
}

pub(super) fn next_scalar<'de, A: MapAccess<'de>>(object: &mut A) -> Result<Scalar<'de>, A::Error> {
    object.next_value::<Tolerant<Scalar<'de>>>().map(|value| value.0)
}
