//! Input that nobody should send: what the fuzzer found worth keeping and mutations of it.

mod corpus;

#[path = "../../fuzz/src/lib.rs"]
#[expect(unreachable_pub, reason = "the fuzzer's own crate reaches it")]
mod targets;
