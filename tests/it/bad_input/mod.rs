//! Input that nobody should send: what the fuzzer found worth keeping and mutations of it, and clients that attack.

mod attacked;
mod corpus;
mod frames;
mod half_open;
mod http1;
mod http2;

#[path = "../../fuzz/src/lib.rs"]
#[expect(unreachable_pub, reason = "the fuzzer's own crate reaches it")]
mod targets;
