//! Evictions as the ledger has them, for the guard: after a restart, and in the process that hears of all workers.

use std::collections::HashMap;

use jiff::Timestamp;
use serde_json::Value;

use crate::directives::{DeviceKey, Eviction};

/// The eviction of one recorded decision: of the newest session that newer ones displaced.
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
        let reason = text(outcome, "reason");
        text(outcome, "ended") == Some("revoked")
            && matches!(reason, Some("displaced_by_newer_login" | "bucket_limit" | "same_device_newer"))
    };
    let newest = text(list(decision.get("outcomes")).filter(displaced).last()?, "session")?;
    Some(Eviction { at_ms, evicted: *keys.get(newest)?, by: by.get(newest).copied() })
}

fn list(value: Option<&Value>) -> impl Iterator<Item = &Value> {
    value.and_then(Value::as_array).into_iter().flatten()
}

fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key)?.as_str()
}

/// The words that the listing had; the network is not on record.
fn key(session: &Value) -> DeviceKey {
    DeviceKey::of(["device_type", "device", "os", "browser"].map(|word| text(session, word)), text(session, "ip"))
}
