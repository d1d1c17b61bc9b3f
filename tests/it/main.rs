//! One binary for all tests that go through the front door.

mod queue_contract;
mod queue_embedded;
mod support;
