//! Fuzzes `channel_layer::fuzzing::message_pack`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| channel_layer::fuzzing::message_pack(bytes));
