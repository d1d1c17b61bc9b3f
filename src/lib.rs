//! Soloist keeps each account of a LoginRadius customer on as many devices as its plan allows.

pub mod api;
pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod directives;
pub mod http;
pub mod ledger;
pub mod message;
pub mod model;
pub mod policy;
pub mod provider;
pub mod queue;
pub mod retry;
pub mod sandbox;
pub mod telemetry;
pub mod webhook;
pub mod worker;
