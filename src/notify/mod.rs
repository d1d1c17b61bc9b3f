//! Notices: other systems are told that a session was ended, a user is contended or a budget is used up. Durable, at least
//! once each, and never with a token, an e-mail address or an IP address.
//!
//! | file | job |
//! |---|---|
//! | `source` | what there is to tell: from the ledger's closed decisions, and from what brakes have decided |
//! | `texts` | what a reason is called for people |
//! | `store` | `notices.db`: what waits, what was told, how far the ledger was read |
//! | `outbox` | takes notices in, durably |
//! | `task` | delivers them: attempts, pauses, endpoints that are given up |
//! | `endpoint` | one request to one endpoint, and what its answer means |
//! | `sign` | signatures of Standard Webhooks, security event tokens of CAEP |
//! | `address` | which addresses may be called |

mod address;
mod endpoint;
mod outbox;
mod sign;
mod source;
mod store;
mod task;
#[cfg(test)]
mod tests;
mod texts;

use jiff::Timestamp;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

pub use self::endpoint::look_at;
pub use self::outbox::{Outbox, OutboxParts};
pub use self::source::{Source, notices_of};
pub use self::task::OutboxTask;
pub use self::texts::Texts;
use crate::config::NotifyEvent;
use crate::model::{TenantId, UserId};

/// Something to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Names what has happened: a notice of the same name is told once, however often it is posted.
    pub key: String,
    pub event: NotifyEvent,
    /// When it happened.
    pub at: Timestamp,
    pub tenant: TenantId,
    pub user: Option<UserId>,
    /// The session that was ended: its id, never its token.
    pub session: Option<String>,
    /// A reason code, which has a text.
    pub reason: String,
    /// What the ended session was on.
    pub device: Option<Device>,
    /// What the session was on that took its place.
    pub displaced_by: Option<Displacer>,
}

/// The words of a listing about a device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Device {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub os: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub browser: Option<String>,
}

/// No more of the device that took the place than what kind it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Displacer {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_type: Option<String>,
}

/// Where notices come from and how they leave.
pub struct Notices {
    pub source: Source,
    pub task: OutboxTask,
}

impl Notices {
    /// Runs until `stop`. What was begun then may end; what is left goes out after the next start.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        tokio::try_join!(self.source.run(stop.clone()), self.task.run(stop)).map(drop)
    }
}
