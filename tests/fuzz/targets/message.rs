//! Fuzzes `soloist_fuzz::message`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| soloist_fuzz::message::check(input));
