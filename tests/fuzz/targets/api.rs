//! Whatever comes in on the socket is answered or refused, and never ends a handler.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| control::fuzz::api(bytes));
