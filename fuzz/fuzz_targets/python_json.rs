//! Fuzzes `channel_layer::fuzzing::python_json`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| channel_layer::fuzzing::python_json(bytes));
