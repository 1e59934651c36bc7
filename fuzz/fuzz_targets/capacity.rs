//! Fuzzes `channel_layer::fuzzing::capacity`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| channel_layer::fuzzing::capacity(bytes));
