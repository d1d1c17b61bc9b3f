//! HTTP for people and programs that ask: the private admin API, metrics and probes.

pub mod admin;
mod host;
pub mod probes;

pub use self::host::Hosts;
