//! Fuzzes `channel_layer::fuzzing::sealed_body`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| channel_layer::fuzzing::sealed_body(bytes));
