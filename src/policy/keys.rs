//! Which device and which bucket a session belongs to, and the id of the decision, which covers both.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use super::decide::Subject;
use super::rows::Row;
use super::{Count, DecisionId, DeviceField, Limit, Policy, ResolvedPolicy};
use crate::model::{SessionDevice, View};

/// The keys of all rows of a view, in the order of the rows.
pub(super) struct Keys {
    pub of_rows: Vec<Key>,
    /// How many devices there are; they are numbered from 0.
    pub devices: usize,
    /// The caps of the buckets that have one; they are numbered from 0.
    pub bucket_limits: Vec<Limit>,
    pub id: DecisionId,
}

#[derive(Clone, Copy)]
pub(super) struct Key {
    pub device: usize,
    /// `None` for a session whose bucket has no cap.
    pub bucket: Option<usize>,
}

/// Where in the text of the id a row's keys are written.
struct Written {
    /// `None` for a session that is a device of its own.
    device: Option<Range<usize>>,
    bucket: Option<Range<usize>>,
}

pub(super) fn of_rows(rows: &[Row<'_>], policy: &ResolvedPolicy, subject: Subject<'_>, complete: bool) -> Keys {
    let mut text = head(policy, subject, complete, rows.len());
    let written: Vec<Written> = rows.iter().map(|row| write_row(&mut text, row, &policy.policy)).collect();

    let (bucket_names, bucket_limits): (Vec<&[u8]>, Vec<Limit>) = policy
        .policy
        .buckets
        .iter()
        .flat_map(|buckets| &buckets.limits)
        .map(|(name, at)| (name.as_bytes(), *at))
        .unzip();
    let mut known: HashMap<&[u8], usize> = HashMap::with_capacity(rows.len());
    let mut devices = 0;
    let mut of_rows = Vec::with_capacity(rows.len());
    for Written { device, bucket } in written {
        let device = match device.and_then(|range| text.get(range)) {
            Some(name) => *known.entry(name).or_insert(devices),
            None => devices,
        };
        devices = devices.max(device + 1);
        let bucket = bucket.and_then(|range| bucket_names.binary_search(&text.get(range)?).ok());
        of_rows.push(Key { device, bucket });
    }
    Keys { of_rows, devices, bucket_limits, id: DecisionId(Sha256::digest(&text).into()) }
}

/// How many devices the sessions of a view are on, by the policy's device fields, whatever the policy counts.
pub fn device_count(view: &View, policy: &Policy) -> usize {
    let mut devices = HashSet::new();
    for session in &view.sessions {
        let mut name = Vec::new();
        if write_device(&mut name, &session.device, &policy.device_fields).is_none() {
            name = session.digest.0.to_vec();
        }
        devices.insert(name);
    }
    devices.len()
}

fn head(policy: &ResolvedPolicy, subject: Subject<'_>, complete: bool, rows: usize) -> Vec<u8> {
    const ROW_BYTES_USUAL: usize = 128;
    let mut text = Vec::with_capacity(ROW_BYTES_USUAL * (rows + 1));
    write_bytes(&mut text, &policy.version.0);
    write_bytes(&mut text, subject.tenant.map_or("", |tenant| tenant.as_str()).as_bytes());
    write_bytes(&mut text, subject.user.map_or("", |user| user.as_str()).as_bytes());
    write_bytes(&mut text, policy.policy.mode.as_str().as_bytes());
    text.push(u8::from(complete));
    text.extend_from_slice(&length(rows));
    text
}

fn write_row(text: &mut Vec<u8>, row: &Row<'_>, policy: &Policy) -> Written {
    text.extend_from_slice(&row.digest.0);
    text.push(u8::from(row.login_at.is_some()));
    text.extend_from_slice(&row.login_at.map_or(0, Timestamp::as_second).to_be_bytes());
    text.extend_from_slice(&row.login_at.map_or(0, Timestamp::subsec_nanosecond).to_be_bytes());
    text.push(u8::from(row.ignored) | u8::from(row.pinned) << 1);

    let by = policy.buckets.as_ref().map(|buckets| buckets.by);
    let bucket = after_flag(text, |text| write_normalised(text, by?.of(row.device)));
    let device = after_flag(text, |text| match policy.count {
        Count::Session => None,
        Count::Device => write_device(text, row.device, &policy.device_fields),
    });
    Written { device, bucket }
}

/// Writes whether something follows, and then that.
fn after_flag(text: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>) -> Option<Range<usize>>) -> Option<Range<usize>> {
    let place = text.len();
    text.push(0);
    let range = write(text);
    if let Some(flag) = text.get_mut(place) {
        *flag = u8::from(range.is_some());
    }
    range
}

/// Writes the fields that make a device. When one of them is empty nothing is written and the session is a device of
/// its own, so that emptiness never merges two sessions.
fn write_device(text: &mut Vec<u8>, device: &SessionDevice, fields: &[DeviceField]) -> Option<Range<usize>> {
    let start = text.len();
    let whole = fields.iter().all(|field| write_normalised(text, field.of(device)).is_some());
    if !whole {
        text.truncate(start);
    }
    whole.then_some(start..text.len())
}

/// Writes a field trimmed and lower-case, behind its length, and says where. Nothing for one that says nothing.
fn write_normalised(text: &mut Vec<u8>, field: Option<&str>) -> Option<Range<usize>> {
    let field = field?.trim();
    if field.is_empty() || field.eq_ignore_ascii_case("unknown") {
        return None;
    }
    if field.is_ascii() {
        let range = write_bytes(text, field.as_bytes());
        text.get_mut(range.clone())?.make_ascii_lowercase();
        return Some(range);
    }
    Some(write_bytes(text, field.to_lowercase().as_bytes()))
}

fn write_bytes(text: &mut Vec<u8>, bytes: &[u8]) -> Range<usize> {
    text.extend_from_slice(&length(bytes.len()));
    let start = text.len();
    text.extend_from_slice(bytes);
    start..text.len()
}

/// No text that comes out of an answer of the provider is longer than this can say.
fn length(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes()
}

/// A name as buckets and device fields are compared; `None` for one that says nothing.
pub(super) fn normalised(name: &str) -> Option<String> {
    let mut text = Vec::new();
    let range = write_normalised(&mut text, Some(name))?;
    text.get(range).map(|name| String::from_utf8_lossy(name).into_owned())
}
