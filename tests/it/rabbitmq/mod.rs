//! Real brokers, real processes of separate roles, and a fault in the middle of the work: nothing accepted is lost.

mod brokers;
mod directives;
mod faults;
mod fleet;
mod load;
mod promises;
mod scenario;
mod table;
mod tenants;

pub(crate) use self::brokers::broker_or_skip;
pub(crate) use self::scenario::{QUIET_LOOKS, waiting};
