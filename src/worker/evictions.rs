//! Evictions for the guard: devices as the listing tells them, and as the ledger has them after a restart and in the
//! process that hears of all workers.

use serde_json::Value;

use crate::directives::{DeviceKey, Eviction};
use crate::ledger::{Recorded, RecordedEnd};
use crate::model::{Session, SessionId};
use crate::policy::ReasonCode;

/// The eviction of one recorded decision: of the newest session that it ended because others are newer.
pub fn eviction_of(decision: &Value) -> Option<Eviction> {
    let decision = Recorded::new(decision);
    let displaced = |end: &RecordedEnd<'_>| {
        end.ended() == Some("revoked") && end.reason_code().is_some_and(ReasonCode::is_eviction)
    };
    let newest = decision.ends().filter(displaced).last()?;
    Some(Eviction {
        at_ms: decision.decided_at()?.as_millisecond(),
        evicted: key(newest.listed()?),
        by: newest.displacer().map(key),
        session: SessionId::parse(newest.session()?).ok()?,
        pile: decision.revocations().collect(),
    })
}

/// The device of a session that is listed now.
pub(super) fn device_key(session: &Session) -> DeviceKey {
    let device = &session.device;
    let words = [&device.device_type, &device.device, &device.os, &device.browser];
    DeviceKey::of(words.map(|word| word.as_deref()), device.ip.as_deref())
}

/// The same of one on record, whose network is there only where the ledger keeps it.
fn key(session: &Value) -> DeviceKey {
    let word = |word: &str| session.get(word).and_then(Value::as_str);
    DeviceKey::of(["device_type", "device", "os", "browser"].map(word), word("ip"))
}
