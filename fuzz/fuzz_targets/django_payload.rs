//! Fuzzes `channel_layer::fuzzing::django_payload`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| channel_layer::fuzzing::django_payload(bytes));
