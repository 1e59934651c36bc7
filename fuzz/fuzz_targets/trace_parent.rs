//! Fuzzes `channel_layer::fuzzing::trace_parent`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| channel_layer::fuzzing::trace_parent(bytes));
