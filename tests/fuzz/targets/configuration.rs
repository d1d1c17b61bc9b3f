//! Fuzzes `soloist_fuzz::configuration`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| soloist_fuzz::configuration::check(input));
