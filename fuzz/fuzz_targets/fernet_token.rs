//! Fuzzes `channel_layer::fuzzing::fernet_token`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| channel_layer::fuzzing::fernet_token(bytes));
