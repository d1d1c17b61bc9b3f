//! What goes wrong on purpose, and the dice that decide when. The same seed gives the same throws.

use std::collections::BTreeMap;

use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};

/// The faults that are on. Percentages go from 0 to 100; all zero is a vendor that never fails.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// Seed of the dice. Setting faults throws them from the start again.
    pub seed: u64,
    /// Only calls of these operations are hit (see `report.calls` for their names). Empty: all.
    pub operations: Vec<String>,
    /// Every answer waits this long.
    pub latency_ms: u64,
    /// And up to this much longer.
    pub jitter_ms: u64,
    /// 429.
    pub throttled_percent: f64,
    /// `Retry-After` of each 429, in seconds. `None`: no such header, like the vendor.
    pub retry_after_seconds: Option<u64>,
    /// 500, 502, 503 or 504.
    pub server_error_percent: f64,
    /// HTTP 500 with code 950.
    pub unknown_error_percent: f64,
    /// HTTP 403 with code 1338, the vendor's own limiter. It is documented for logins; nobody has seen which other calls
    /// it meets.
    pub login_limited_percent: f64,
    /// HTTP 200 with half a JSON document, an HTML page, or nothing.
    pub garbage_percent: f64,
    /// HTTP 200 with code 950 in the body.
    pub disguised_percent: f64,
    /// No answer until the client gives up.
    pub hang_percent: f64,
    /// The connection is reset before the call has any effect.
    pub reset_percent: f64,
    /// The call has its effect, and then the connection is reset.
    pub answer_lost_percent: f64,
    /// A row is missing from a listing.
    pub hidden_rows_percent: f64,
    /// Ids of sessions that cannot be ended: code 991, as for a blocked account.
    pub stubborn_sessions: Vec<String>,
    /// `LoginDate` of the sessions with these ids, word for word: what no listing should show, and may all the same.
    pub login_dates: BTreeMap<String, String>,
    /// The secret was rotated: the right one is refused with 902.
    pub secret_rotated: bool,
    /// Nothing works.
    pub outage: Outage,
    /// A webhook is lost.
    pub webhooks_dropped_percent: f64,
    /// A webhook is sent twice.
    pub webhooks_duplicated_percent: f64,
    /// A webhook is late, so that others overtake it.
    pub webhooks_delayed_percent: f64,
    /// How late.
    pub webhook_delay_ms: u64,
}

/// How a vendor that is down looks like.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outage {
    /// It is up.
    #[default]
    None,
    /// 503 to every call.
    Unavailable,
    /// Every connection is reset.
    Reset,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            seed: 1,
            operations: Vec::new(),
            latency_ms: 0,
            jitter_ms: 0,
            throttled_percent: 0.0,
            retry_after_seconds: None,
            server_error_percent: 0.0,
            unknown_error_percent: 0.0,
            login_limited_percent: 0.0,
            garbage_percent: 0.0,
            disguised_percent: 0.0,
            hang_percent: 0.0,
            reset_percent: 0.0,
            answer_lost_percent: 0.0,
            hidden_rows_percent: 0.0,
            stubborn_sessions: Vec::new(),
            login_dates: BTreeMap::new(),
            secret_rotated: false,
            outage: Outage::None,
            webhooks_dropped_percent: 0.0,
            webhooks_duplicated_percent: 0.0,
            webhooks_delayed_percent: 0.0,
            webhook_delay_ms: 300,
        }
    }
}

impl Faults {
    pub(super) fn is_stubborn(&self, session_id: &str) -> bool {
        self.stubborn_sessions.iter().any(|stubborn| stubborn == session_id)
    }
}

/// What happens to one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CallFault {
    Throttled { retry_after_seconds: Option<u64> },
    Status(u16),
    UnknownError,
    LoginLimited,
    Garbage(&'static str),
    Disguised,
    Hang,
    Reset,
    AnswerLost,
}

/// What happens to one webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WebhookFault {
    pub(super) dropped: bool,
    pub(super) copies: u8,
    pub(super) delay_ms: u64,
}

const GARBAGE: [&str; 3] =
    ["{\"nextCursor\":0,\"data\":[{\"AccessTok", "<html><body>Request blocked</body></html>", ""];

/// The faults and their dice.
#[derive(Debug)]
pub(super) struct Dice {
    faults: Faults,
    rng: StdRng,
}

impl Dice {
    pub(super) fn new(faults: Faults) -> Self {
        Self { rng: StdRng::seed_from_u64(faults.seed), faults }
    }

    pub(super) fn faults(&self) -> &Faults {
        &self.faults
    }

    fn hits(&mut self, percent: f64) -> bool {
        percent > 0.0 && self.rng.random_range(0.0..100.0) < percent
    }

    /// Milliseconds that a call of this operation waits, and what befalls it then.
    pub(super) fn call(&mut self, operation: &str) -> (u64, Option<CallFault>) {
        if !self.faults.operations.is_empty() && !self.faults.operations.iter().any(|name| name == operation) {
            return (0, None);
        }
        let jitter = if self.faults.jitter_ms == 0 { 0 } else { self.rng.random_range(0..=self.faults.jitter_ms) };
        (self.faults.latency_ms.saturating_add(jitter), self.call_fault())
    }

    fn call_fault(&mut self) -> Option<CallFault> {
        match self.faults.outage {
            Outage::Unavailable => return Some(CallFault::Status(503)),
            Outage::Reset => return Some(CallFault::Reset),
            Outage::None => {}
        }
        if self.hits(self.faults.hang_percent) {
            Some(CallFault::Hang)
        } else if self.hits(self.faults.reset_percent) {
            Some(CallFault::Reset)
        } else if self.hits(self.faults.answer_lost_percent) {
            Some(CallFault::AnswerLost)
        } else if self.hits(self.faults.throttled_percent) {
            Some(CallFault::Throttled { retry_after_seconds: self.faults.retry_after_seconds })
        } else if self.hits(self.faults.server_error_percent) {
            let status = [500, 502, 503, 504].get(self.rng.random_range(0..4_usize)).copied();
            Some(CallFault::Status(status.unwrap_or(500)))
        } else if self.hits(self.faults.unknown_error_percent) {
            Some(CallFault::UnknownError)
        } else if self.hits(self.faults.login_limited_percent) {
            Some(CallFault::LoginLimited)
        } else if self.hits(self.faults.disguised_percent) {
            Some(CallFault::Disguised)
        } else if self.hits(self.faults.garbage_percent) {
            let body = GARBAGE.get(self.rng.random_range(0..GARBAGE.len())).copied();
            Some(CallFault::Garbage(body.unwrap_or_default()))
        } else {
            None
        }
    }

    /// Whether a row is left out of a listing.
    pub(super) fn hides_row(&mut self) -> bool {
        self.hits(self.faults.hidden_rows_percent)
    }

    pub(super) fn webhook(&mut self) -> WebhookFault {
        WebhookFault {
            dropped: self.hits(self.faults.webhooks_dropped_percent),
            copies: if self.hits(self.faults.webhooks_duplicated_percent) { 2 } else { 1 },
            delay_ms: if self.hits(self.faults.webhooks_delayed_percent) { self.faults.webhook_delay_ms } else { 0 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_throws_the_same_faults() {
        let faults = Faults { throttled_percent: 20.0, hang_percent: 10.0, jitter_ms: 50, ..Faults::default() };
        let throws = |mut dice: Dice| (0..200).map(|_| dice.call("list")).collect::<Vec<_>>();

        assert_eq!(throws(Dice::new(faults.clone())), throws(Dice::new(faults)));
    }

    #[test]
    fn about_as_many_calls_fail_as_asked() {
        let mut dice = Dice::new(Faults { server_error_percent: 30.0, ..Faults::default() });

        let failed = (0..10_000).filter(|_| dice.call("list").1.is_some()).count();

        assert!((2_700..3_300).contains(&failed), "{failed}");
    }

    #[test]
    fn faults_can_be_kept_to_one_operation() {
        let operations = vec!["invalidate".to_owned()];
        let mut dice = Dice::new(Faults { outage: Outage::Unavailable, operations, ..Faults::default() });

        assert_eq!(dice.call("list").1, None);
        assert_eq!(dice.call("invalidate").1, Some(CallFault::Status(503)));
    }
}
