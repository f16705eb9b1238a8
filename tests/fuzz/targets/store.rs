//! A store is read to its end, or refused and left as it is.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| control::fuzz::store(bytes));
