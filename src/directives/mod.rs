//! What workers must obey now: policies, and what people and brakes have decided over them at run time.
//!
//! | file | job |
//! |---|---|
//! | `entry` | one decision: a mode, an override, a pin, an exemption, a contended user, a brake |
//! | `live` | what holds for a user at this moment, from the written policies and all entries |
//! | `store` | the entries on disk, each change durable and recorded with who made it |
//! | `control` | the process that decides: changes, the budget, what others are told |
//! | `heard` | a worker that is told: snapshots, kept on disk, and grants |
//! | `told` | what both tell each other |
//! | `budget` | how many sessions may still be ended, in windows of an hour |
//! | `pingpong` | whether a user's devices end each other for ever |

mod budget;
mod control;
mod entry;
mod heard;
mod live;
mod pingpong;
mod store;
mod told;

use std::collections::HashSet;
use std::sync::Arc;

use crate::model::{SessionId, TenantId, UserId};
use crate::policy::{Mode, TenantPolicies};

pub use self::budget::{Granted, Granter, Leave, NoLeave, Purse, Unspent};
pub use self::control::{ChangeError, Control, OURSELVES};
pub use self::entry::{BadEntry, Entry, What};
pub use self::heard::{Heard, Questions};
pub use self::live::LiveDirectives;
pub use self::pingpong::{DeviceKey, Eviction, PingPong};
pub use self::store::Kept;

/// There is nothing to decide by for the tenant, not even old directives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there are no current directives for the tenant")]
pub struct Stale;

/// What holds for one user at this moment.
#[derive(Clone, Debug)]
pub struct Directive {
    pub policies: Arc<TenantPolicies>,
    /// No policy of the tenant does more than this.
    pub cap: Option<Mode>,
    /// The budget was used up: decide and record, end nobody.
    pub is_braked: bool,
    pub pins: Option<Arc<HashSet<SessionId>>>,
    /// The user's devices end each other for ever.
    pub is_contended: bool,
    /// False: too old to end a session by. A limit that we guess would log out the exempt.
    pub is_current: bool,
}

pub trait Directives: Send + Sync {
    fn current(&self, tenant: &TenantId, user: &UserId) -> Result<Directive, Stale>;
}
