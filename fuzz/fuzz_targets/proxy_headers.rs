//! Fuzzes `channel_layer::fuzzing::proxy_headers`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| channel_layer::fuzzing::proxy_headers(bytes));
