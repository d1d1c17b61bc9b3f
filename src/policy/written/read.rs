//! Single written values. A number may come as text, because environment variables are text.

use std::time::Duration;

use jiff::civil::Date;
use jiff::{Timestamp, tz::TimeZone};
use serde_json::Value;

use super::super::{CanaryShare, DeviceField, Limit};

/// No provider keeps a session for so long.
const SESSION_LIFETIME_DAYS_MAX: u64 = 3650;

const UNITS: [(&str, u64); 5] = [("d", 24 * 3600 * 1000), ("h", 3600 * 1000), ("m", 60 * 1000), ("s", 1000), ("ms", 1)];

/// A value as it was written, cut short.
pub(super) fn shown(value: &Value) -> String {
    const CHARS_MAX: usize = 40;
    let text = value.to_string();
    match text.char_indices().nth(CHARS_MAX).and_then(|(cut, _)| text.get(..cut)) {
        Some(start) => format!("{start}…"),
        None => text,
    }
}

pub(super) fn word<T: Copy>(value: &Value, all: &[T], as_str: fn(T) -> &'static str) -> Result<T, String> {
    let known = value.as_str().and_then(|word| all.iter().copied().find(|one| as_str(*one) == word.trim()));
    known.ok_or_else(|| {
        let words: Vec<String> = all.iter().map(|one| format!("\"{}\"", as_str(*one))).collect();
        format!("must be {}, not {}", words.join(" or "), shown(value))
    })
}

pub(super) fn limit(value: &Value) -> Result<Limit, String> {
    if value.as_str().is_some_and(|word| word.trim() == "unlimited") {
        return Ok(Limit::Unlimited);
    }
    let count = integer(value);
    count.and_then(|count| Limit::at_most(u32::try_from(count).ok()?)).ok_or_else(|| {
        let zero = if count == Some(0) { " (zero means something else in every product)" } else { "" };
        format!("must be 1 to {} or \"unlimited\", not {}{zero}", Limit::MAX, shown(value))
    })
}

pub(super) fn whole_number(value: &Value, min: u32, max: u32) -> Result<u32, String> {
    let number = integer(value).and_then(|number| u32::try_from(number).ok());
    number
        .filter(|number| (min..=max).contains(number))
        .ok_or_else(|| format!("must be a whole number from {min} to {max}, not {}", shown(value)))
}

fn integer(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.trim().parse().ok())
}

pub(super) fn percent(value: &Value) -> Result<CanaryShare, String> {
    let text = match value {
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.trim().to_owned(),
        _ => String::new(),
    };
    hundredths(&text)
        .and_then(CanaryShare::from_hundredths)
        .ok_or_else(|| format!("must be 0 to 100 with at most two decimals, not {}", shown(value)))
}

/// Digits, and after a point one or two more.
fn hundredths(text: &str) -> Option<u16> {
    let is_digits = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
    if !is_digits(whole) || !is_digits(decimals) || decimals.len() > 2 {
        return None;
    }
    let whole: u16 = whole.parse().ok()?;
    format!("{decimals:0<2}").parse::<u16>().ok()?.checked_add(whole.checked_mul(100)?)
}

pub(super) fn percent_json(share: CanaryShare) -> Value {
    let hundredths = share.hundredths();
    if hundredths.is_multiple_of(100) { (hundredths / 100).into() } else { (f64::from(hundredths) / 100.0).into() }
}

pub(super) fn device_fields(value: &Value) -> Result<Vec<DeviceField>, String> {
    let words: Vec<Value> = match value {
        Value::Array(words) => words.clone(),
        Value::String(text) => text.split(',').map(Value::from).collect(),
        _ => Vec::new(),
    };
    let mut fields = Vec::new();
    for value in &words {
        let field = word(value, &DeviceField::ALL, DeviceField::as_str).map_err(|problem| format!("each {problem}"))?;
        if fields.contains(&field) {
            return Err(format!("names \"{}\" twice", field.as_str()));
        }
        fields.push(field);
    }
    if fields.is_empty() {
        let all = DeviceField::ALL.map(DeviceField::as_str).join(", ");
        return Err(format!("must be a list of at least one of {all}, not {}", shown(value)));
    }
    Ok(fields)
}

pub(super) fn duration(value: &Value) -> Result<Duration, String> {
    let max = Duration::from_hours(24 * SESSION_LIFETIME_DAYS_MAX);
    let duration = value.as_str().and_then(|text| parse_duration(text.trim()));
    duration.filter(|duration| !duration.is_zero() && *duration <= max).ok_or_else(|| {
        format!(
            "must be a time such as \"30d\", \"12h\", \"90s\" or \"250ms\", above zero and at most \
                 {SESSION_LIFETIME_DAYS_MAX}d, not {}",
            shown(value)
        )
    })
}

fn parse_duration(text: &str) -> Option<Duration> {
    let end_of_digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (digits, unit) = text.split_at_checked(end_of_digits)?;
    let (_, unit_ms) = UNITS.iter().find(|(name, _)| *name == unit)?;
    Some(Duration::from_millis(digits.parse::<u64>().ok()?.checked_mul(*unit_ms)?))
}

/// In the greatest unit that needs no fraction.
pub(super) fn duration_text(duration: Duration) -> String {
    let exact = UNITS.iter().find_map(|(name, unit_ms)| {
        let unit_ns = u128::from(*unit_ms) * 1_000_000;
        duration.as_nanos().is_multiple_of(unit_ns).then(|| format!("{}{name}", duration.as_nanos() / unit_ns))
    });
    exact.unwrap_or_else(|| format!("{}ns", duration.as_nanos()))
}

pub(super) fn text(value: &Value) -> Result<String, String> {
    let text = value.as_str().map(str::trim).filter(|text| !text.is_empty());
    text.map(str::to_owned).ok_or_else(|| format!("must be text that is not empty, not {}", shown(value)))
}

/// An instant, or a day, which is meant to its end in UTC.
pub(super) fn expiry(value: &Value) -> Result<Timestamp, String> {
    let text = value.as_str().unwrap_or_default().trim();
    let end_of_day = |date: Date| date.tomorrow().ok()?.to_zoned(TimeZone::UTC).ok().map(|end| end.timestamp());
    let is_day = text.len() == "2026-12-31".len();
    let expiry = if is_day { text.parse().ok().and_then(end_of_day) } else { text.parse().ok() };
    expiry.ok_or_else(|| {
        format!("must be a day such as \"2026-12-31\" or a time such as \"2026-12-31T12:00:00Z\", not {}", shown(value))
    })
}
