//! What the deciding process and the workers tell each other, as JSON. Strangers' words are not answered.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What is told to all workers.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Told {
    Snapshot {
        version: i64,
        entries: Vec<Value>,
    },
    /// The answer to one worker's question; no amount: the budget is used up.
    Granted {
        to: String,
        ask: u64,
        amount: Option<u32>,
        /// The minute that it counts in, by the deciding process's clock.
        #[serde(default)]
        minute: i64,
    },
}

impl Told {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        // Strings, numbers and JSON values always serialise.
        serde_json::to_vec(self).unwrap_or_default()
    }

    pub(super) fn read(raw: &[u8]) -> Option<Self> {
        serde_json::from_slice(raw).ok()
    }
}

/// What a worker asks the deciding process.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Asked {
    Grant {
        from: String,
        ask: u64,
        tenant: String,
        unspent: u32,
        /// The minute of the grant that it is left of.
        #[serde(default)]
        of_minute: i64,
    },
    /// It has just come, or has heard nothing for long.
    Snapshot,
}

impl Asked {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        // Strings and numbers always serialise.
        serde_json::to_vec(self).unwrap_or_default()
    }

    pub(super) fn read(raw: &[u8]) -> Option<Self> {
        serde_json::from_slice(raw).ok()
    }
}
