//! Fuzzes `soloist_fuzz::webhook`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| soloist_fuzz::webhook::check(input));
