//! Soloist keeps each account of a LoginRadius customer on as many devices as its plan allows.

pub mod clock;
pub mod config;
pub mod http;
pub mod message;
pub mod model;
pub mod policy;
pub mod provider;
pub mod queue;
pub mod telemetry;
pub mod webhook;
