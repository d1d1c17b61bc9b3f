//! HTTP for people and programs that ask: the private admin API, metrics and probes.

pub mod admin;
mod described;
mod host;
mod input;
pub mod probes;
mod reference;
pub mod v1;

pub use self::admin::Deciding;
pub use self::host::Hosts;
