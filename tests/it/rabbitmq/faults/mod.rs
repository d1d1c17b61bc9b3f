//! Each fault that a broker, its network or a process can have. The last test to end prints the table of all.

mod broker;
mod cluster;
mod network;
mod processes;

/// Rows that the table has when all tests here have run.
pub(super) const ALL: usize = 14;
