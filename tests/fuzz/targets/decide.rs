//! Fuzzes `soloist_fuzz::decide`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| soloist_fuzz::decide::check(input));
