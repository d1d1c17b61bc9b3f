//! Evictions for the guard: devices as the listing tells them, and as the ledger has them after a restart and in the
//! process that hears of all workers.

use std::collections::HashMap;

use jiff::Timestamp;
use serde_json::Value;

use crate::directives::{DeviceKey, Eviction};
use crate::model::{Session, SessionId};
use crate::policy::{Action, ReasonCode};

/// The eviction of one recorded decision: of the newest session that it ended because others are newer.
pub fn eviction_of(decision: &Value) -> Option<Eviction> {
    let at_ms = text(decision, "decided_at")?.parse::<Timestamp>().ok()?.as_millisecond();
    let keys: HashMap<&str, DeviceKey> =
        list(decision.get("sessions")).filter_map(|session| Some((text(session, "session")?, key(session)))).collect();
    let verdicts = decision.get("decision").and_then(|decision| decision.get("verdicts"));
    let by: HashMap<&str, DeviceKey> = list(verdicts)
        .filter_map(|verdict| {
            let newest = list(verdict.get("witnesses")).next().and_then(Value::as_str)?;
            Some((text(verdict, "session")?, *keys.get(newest)?))
        })
        .collect();
    let displaced = |outcome: &&Value| {
        let reason = ReasonCode::ALL.into_iter().find(|code| Some(code.as_str()) == text(outcome, "reason"));
        text(outcome, "ended") == Some("revoked") && reason.is_some_and(ReasonCode::is_eviction)
    };
    let newest = text(list(decision.get("outcomes")).filter(displaced).last()?, "session")?;
    let ends = list(verdicts).filter(|verdict| text(verdict, "action") == Some(Action::Revoke.as_str()));
    let pile = ends.filter_map(session).collect();
    let evicted = *keys.get(newest)?;
    Some(Eviction { at_ms, evicted, by: by.get(newest).copied(), session: SessionId::parse(newest).ok()?, pile })
}

fn session(verdict: &Value) -> Option<SessionId> {
    SessionId::parse(text(verdict, "session")?).ok()
}

fn list(value: Option<&Value>) -> impl Iterator<Item = &Value> {
    value.and_then(Value::as_array).into_iter().flatten()
}

fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key)?.as_str()
}

/// The device of a session that is listed now.
pub(super) fn device_key(session: &Session) -> DeviceKey {
    let device = &session.device;
    let words = [&device.device_type, &device.device, &device.os, &device.browser];
    DeviceKey::of(words.map(|word| word.as_deref()), device.ip.as_deref())
}

/// The same of one on record, whose network is there only where the ledger keeps it.
fn key(session: &Value) -> DeviceKey {
    DeviceKey::of(["device_type", "device", "os", "browser"].map(|word| text(session, word)), text(session, "ip"))
}
