//! Fuzzes `soloist_fuzz::listing`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| soloist_fuzz::listing::check(input));
