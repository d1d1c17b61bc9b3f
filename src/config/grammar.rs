//! What a value must look like, and its reading. Each value may come as a string, because variables are strings.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;
use serde_json::Value;

use super::{Backend, CredentialsIn, GuardAction, LogFormat, Rate, Revocations};

/// The form of an option's value. Shown, it completes "must be …".
#[derive(Clone, Copy, Debug)]
pub enum Grammar {
    Address,
    Path,
    Count {
        min: u64,
        max: u64,
    },
    Duration {
        min: Duration,
        max: Duration,
    },
    /// A duration, or the word `off`.
    DurationOrOff {
        min: Duration,
        max: Duration,
    },
    Flag,
    Rate,
    /// The base of an API: https, or plain http on this machine.
    Url,
    Choice(&'static [&'static str]),
    LogFilter,
    Secret,
    Secrets,
    /// One `amqp://` or `amqps://` address or several; they may hold a password.
    AmqpUrls,
    /// A list; its members are read one by one. The text describes them for people.
    List(&'static str),
    /// Read by the policy's own reader; the text describes it for people.
    Policy(&'static str),
}

impl Grammar {
    pub(super) fn is_secret(self) -> bool {
        matches!(self, Self::Secret | Self::Secrets | Self::AmqpUrls)
    }
}

impl fmt::Display for Grammar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address => f.write_str("an address and port such as 127.0.0.1:8080"),
            Self::Path => f.write_str("a path"),
            Self::Count { min, max } => write!(f, "a whole number from {min} to {max}"),
            Self::Duration { min, max } => {
                write!(f, "a duration from {} to {}, written like 250ms, 5s, 2m, 12h or 30d", short(*min), short(*max))
            }
            Self::DurationOrOff { min, max } => write!(f, "{}, or off", Self::Duration { min: *min, max: *max }),
            Self::Flag => f.write_str("true or false"),
            Self::Rate => f.write_str("a whole number of at least 1, or \"unlimited\""),
            Self::Url => f.write_str("an https:// address without query (http:// only on this machine)"),
            Self::Choice(words) => write!(f, "one of {}", words.join(", ")),
            Self::LogFilter => f.write_str("a level such as info, or levels by module such as info,soloist=debug"),
            Self::Secret => f.write_str("a text that is not empty"),
            Self::Secrets => f.write_str("one or more texts that are not empty, such as [\"new\", \"old\"]"),
            Self::AmqpUrls => f.write_str("amqp://user@host:5672/vhost (amqps:// with TLS), or a list of them"),
            Self::List(form) | Self::Policy(form) => f.write_str(form),
        }
    }
}

/// A type that an option's value can be read as. `None`: the value does not follow the grammar.
pub(super) trait Setting: Sized {
    fn read(value: &Value, grammar: Grammar) -> Option<Self>;
}

impl Setting for Vec<Value> {
    fn read(value: &Value, _: Grammar) -> Option<Self> {
        // A variable holds it as text, written as in a file.
        let written = value.as_str().and_then(super::toml_value);
        written.as_ref().unwrap_or(value).as_array().cloned()
    }
}

impl Setting for SocketAddr {
    fn read(value: &Value, _: Grammar) -> Option<Self> {
        value.as_str()?.parse().ok()
    }
}

impl Setting for PathBuf {
    fn read(value: &Value, _: Grammar) -> Option<Self> {
        value.as_str().filter(|path| !path.is_empty()).map(Self::from)
    }
}

impl Setting for u64 {
    fn read(value: &Value, grammar: Grammar) -> Option<Self> {
        let number = whole_number(value)?;
        matches!(grammar, Grammar::Count { min, max } if (min..=max).contains(&number)).then_some(number)
    }
}

impl Setting for u32 {
    fn read(value: &Value, grammar: Grammar) -> Option<Self> {
        u64::read(value, grammar)?.try_into().ok()
    }
}

impl Setting for usize {
    fn read(value: &Value, grammar: Grammar) -> Option<Self> {
        u64::read(value, grammar)?.try_into().ok()
    }
}

impl Setting for Duration {
    fn read(value: &Value, grammar: Grammar) -> Option<Self> {
        let duration = duration(value.as_str()?)?;
        matches!(grammar, Grammar::Duration { min, max } if (min..=max).contains(&duration)).then_some(duration)
    }
}

impl Setting for Option<Duration> {
    fn read(value: &Value, grammar: Grammar) -> Option<Self> {
        let Grammar::DurationOrOff { min, max } = grammar else { return None };
        match value.as_str() {
            Some("off") => Some(None),
            _ => Duration::read(value, Grammar::Duration { min, max }).map(Some),
        }
    }
}

impl Setting for bool {
    fn read(value: &Value, _: Grammar) -> Option<Self> {
        value.as_bool().or_else(|| value.as_str()?.parse().ok())
    }
}

impl Setting for Rate {
    fn read(value: &Value, _: Grammar) -> Option<Self> {
        if value.as_str() == Some("unlimited") {
            return Some(Self::Unlimited);
        }
        NonZeroU32::new(whole_number(value)?.try_into().ok()?).map(Self::PerSecond)
    }
}

impl Setting for Revocations {
    fn read(value: &Value, grammar: Grammar) -> Option<Self> {
        Some(match Rate::read(value, grammar)? {
            Rate::PerSecond(number) => Self::AtMost(number),
            Rate::Unlimited => Self::Unlimited,
        })
    }
}

impl Setting for GuardAction {
    fn read(value: &Value, _: Grammar) -> Option<Self> {
        match value.as_str()? {
            "hold" => Some(Self::Hold),
            "notify" => Some(Self::Notify),
            "continue" => Some(Self::Continue),
            _ => None,
        }
    }
}

impl Setting for CredentialsIn {
    fn read(value: &Value, _: Grammar) -> Option<Self> {
        match value.as_str()? {
            "headers" => Some(Self::Headers),
            "query" => Some(Self::Query),
            _ => None,
        }
    }
}

impl Setting for Backend {
    fn read(value: &Value, _: Grammar) -> Option<Self> {
        match value.as_str()? {
            "embedded" => Some(Self::Embedded),
            "rabbitmq" => Some(Self::Rabbitmq),
            _ => None,
        }
    }
}

impl Setting for LogFormat {
    fn read(value: &Value, _: Grammar) -> Option<Self> {
        match value.as_str()? {
            "human" => Some(Self::Human),
            "json" => Some(Self::Json),
            _ => None,
        }
    }
}

impl Setting for String {
    fn read(value: &Value, grammar: Grammar) -> Option<Self> {
        let text = value.as_str()?;
        match grammar {
            Grammar::Url => api_url(text),
            Grammar::LogFilter => is_log_filter(text).then(|| text.to_owned()),
            _ => None,
        }
    }
}

impl Setting for SecretString {
    fn read(value: &Value, _: Grammar) -> Option<Self> {
        value.as_str().filter(|text| !text.trim().is_empty()).map(Self::from)
    }
}

impl Setting for Vec<SecretString> {
    /// A list, a list written into a string, or one secret. Commas do not part secrets: a secret may contain one.
    fn read(value: &Value, grammar: Grammar) -> Option<Self> {
        match value {
            Value::Array(secrets) if !secrets.is_empty() => {
                secrets.iter().map(|secret| one_of_several(secret, grammar)).collect()
            }
            Value::String(text) if text.trim_start().starts_with('[') => {
                Self::read(&super::settings::toml_value(text)?, grammar)
            }
            Value::String(_) => Some(vec![one_of_several(value, grammar)?]),
            _ => None,
        }
    }
}

fn one_of_several(value: &Value, grammar: Grammar) -> Option<SecretString> {
    let is_fine = !matches!(grammar, Grammar::AmqpUrls) || value.as_str().is_some_and(is_amqp_url);
    if is_fine { SecretString::read(value, grammar) } else { None }
}

/// A scheme of AMQP and a host; the rest is read by the client.
fn is_amqp_url(text: &str) -> bool {
    let Ok(url) = text.parse::<http::Uri>() else { return false };
    matches!(url.scheme_str(), Some("amqp" | "amqps")) && url.host().is_some_and(|host| !host.is_empty())
}

/// Stricter than the filter itself, which takes a misspelt level for the name of a module and logs nothing else.
fn is_log_filter(text: &str) -> bool {
    let is_level = |word: &str| !word.is_empty() && word.parse::<tracing_subscriber::filter::LevelFilter>().is_ok();
    let follows = text.split(',').all(|directive| directive.contains('=') || is_level(directive));
    follows && tracing_subscriber::EnvFilter::builder().parse(text).is_ok()
}

fn whole_number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.replace('_', "").parse().ok())
}

const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// A whole number with its unit: 250ms, 5s, 2m, 12h, 30d.
pub fn duration(text: &str) -> Option<Duration> {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
    let (_, unit_ms) = UNITS.iter().find(|(name, _)| *name == unit)?;
    Some(Duration::from_millis(number.checked_mul(*unit_ms)?))
}

/// A duration in the largest unit that divides it.
fn short(duration: Duration) -> String {
    let ms = duration.as_millis();
    let unit = UNITS.iter().rev().find(|(_, unit_ms)| ms.is_multiple_of(u128::from(*unit_ms)));
    let (name, unit_ms) = unit.unwrap_or(&("ms", 1));
    format!("{}{name}", ms / u128::from(*unit_ms))
}

/// Without a trailing slash, so that paths can be appended.
///
/// The requests carry the API secret: plain http may not leave the machine.
fn api_url(text: &str) -> Option<String> {
    let url: http::Uri = text.parse().ok()?;
    let host = url.host().filter(|host| !host.is_empty())?;
    let address: Option<std::net::IpAddr> = host.trim_matches(['[', ']']).parse().ok();
    let on_this_machine = host == "localhost" || address.is_some_and(|address| address.is_loopback());
    let encrypted = match url.scheme_str()? {
        "https" => true,
        "http" => on_this_machine,
        _ => false,
    };
    (encrypted && url.query().is_none() && !text.contains(['@', '#'])).then(|| text.trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_duration_has_a_number_and_a_unit() {
        let read: Vec<_> = ["250ms", "5s", "2m", "12h", "30d"].into_iter().map(duration).collect();
        let expected = [250, 5_000, 120_000, 43_200_000, 2_592_000_000].map(|ms| Some(Duration::from_millis(ms)));
        assert_eq!(read, expected);
        for bad in ["", "5", "s", "5 s", "-5s", "5.5s", "5w", "5S", "99999999999999999999d", "18446744073709551615d"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn durations_are_shown_as_they_are_written() {
        for written in ["1ms", "250ms", "5s", "2m", "12h", "30d"] {
            assert_eq!(short(duration(written).unwrap()), written);
        }
    }

    #[test]
    fn plain_http_stays_on_this_machine() {
        for good in
            ["https://api.loginradius.com", "http://127.0.0.1:9900", "http://localhost:1", "http://[::1]:9900/x"]
        {
            assert_eq!(api_url(good).as_deref(), Some(good));
        }
        assert_eq!(api_url("https://id.example.com/").as_deref(), Some("https://id.example.com"));
        for bad in [
            "",
            "api.loginradius.com",
            "http://api.loginradius.com",
            "http://127.0.0.1.example.com",
            "ftp://x",
            "https://",
            "https://a.b?c=d",
            "https://user:password@a.b",
        ] {
            assert_eq!(api_url(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_misspelt_level_is_no_log_filter() {
        for good in ["info", "warn,soloist::worker=debug", "off"] {
            assert!(is_log_filter(good), "{good}");
        }
        for bad in ["", "verbose", "info,", "soloist=verbose", "soloist"] {
            assert!(!is_log_filter(bad), "{bad}");
        }
    }

    #[test]
    fn webhook_secrets_come_as_a_list_or_as_one_text() {
        let many = |value| <Vec<SecretString>>::read(&value, Grammar::Secrets).map(|secrets| secrets.len());
        assert_eq!(many(json!(["new", "old"])), Some(2));
        assert_eq!(many(json!(r#"["new", "old"]"#)), Some(2));
        assert_eq!(many(json!("one,with,commas")), Some(1));
        for bad in [json!([]), json!([""]), json!(""), json!(7), json!(["a", 7])] {
            assert_eq!(many(bad.clone()), None, "{bad}");
        }
    }

    #[test]
    fn numbers_may_be_strings_but_not_zero() {
        let grammar = Grammar::Count { min: 1, max: 10_000 };
        assert_eq!(usize::read(&json!(64), grammar), Some(64));
        assert_eq!(usize::read(&json!("1_000"), grammar), Some(1_000));
        for bad in [json!(0), json!(-1), json!(1.5), json!("x"), json!(10_001), json!(true)] {
            assert_eq!(usize::read(&bad, grammar), None, "{bad}");
        }
        assert_eq!(Rate::read(&json!("unlimited"), Grammar::Rate), Some(Rate::Unlimited));
        assert_eq!(Rate::read(&json!(0), Grammar::Rate), None);
    }
}
