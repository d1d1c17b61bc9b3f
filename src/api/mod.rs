//! HTTP for people and programs that ask: the private admin API, metrics and probes.

pub mod admin;
mod dead_letters;
mod directives;
mod host;
mod known;
mod ledger;
pub mod probes;
pub mod v1;

pub use self::directives::Deciding;
pub use self::host::Hosts;
