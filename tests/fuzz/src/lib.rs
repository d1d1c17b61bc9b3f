//! What bad input may never do: one function a target, which panics where a promise is broken.
//!
//! The fuzzer calls them with what it makes up, the integration tests with the kept inputs and mutations of those. So
//! each says what it expects of every input, and finds out by itself what kind of input it got.

pub mod configuration;
pub mod decide;
pub mod listing;
pub mod message;
pub mod webhook;

/// Checks one input.
pub type Check = fn(&[u8]);

/// Each target's name, which is also that of its folder of kept inputs, and its check.
pub const TARGETS: [(&str, Check); 5] = [
    ("webhook", webhook::check),
    ("listing", listing::check),
    ("message", message::check),
    ("configuration", configuration::check),
    ("decide", decide::check),
];
