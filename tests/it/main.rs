//! One binary for all tests that go through the front door.
#![expect(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]

mod queue_contract;
mod queue_embedded;
mod support;
