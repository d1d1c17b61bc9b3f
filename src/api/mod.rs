//! HTTP for people and programs that ask: the private admin API, metrics and probes.

pub mod admin;
pub mod probes;
