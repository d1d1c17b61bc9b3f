//! The integration tests, one binary: what Soloist promises, checked through its front doors.

// `cfg(test)` is always so here; it tells clippy that helpers outside test functions may unwrap, too.
#[cfg(test)]
mod api;
#[cfg(test)]
mod bad_input;
#[cfg(test)]
mod brakes;
#[cfg(test)]
mod brokers;
#[cfg(test)]
mod cli;
#[cfg(test)]
mod contract;
#[cfg(test)]
mod damage;
#[cfg(test)]
mod demo;
#[cfg(test)]
mod deploy;
#[cfg(test)]
mod enforcement;
#[cfg(test)]
mod fleet;
#[cfg(test)]
mod kills;
#[cfg(test)]
mod known_users;
#[cfg(test)]
mod ledger;
#[cfg(test)]
mod ledger_chain;
#[cfg(test)]
mod ledger_open;
#[cfg(test)]
mod ledger_records;
#[cfg(test)]
mod loginradius;
#[cfg(test)]
mod notices;
#[cfg(test)]
mod outages;
#[cfg(test)]
mod policy;
#[cfg(test)]
mod queue_contract;
#[cfg(test)]
mod queue_embedded;
#[cfg(test)]
mod queue_rabbitmq;
#[cfg(test)]
mod queue_reserved;
#[cfg(test)]
mod rabbitmq;
#[cfg(test)]
mod rabbitmq_users;
#[cfg(test)]
mod readme;
#[cfg(test)]
mod sandbox;
#[cfg(test)]
mod sandbox_faults;
#[cfg(test)]
mod secrets;
#[cfg(test)]
mod simulate;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod support;
#[cfg(test)]
mod sweep;
#[cfg(test)]
mod time;
#[cfg(test)]
mod vendor_limiter;
#[cfg(test)]
mod webhook;
