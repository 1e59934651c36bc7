//! Fuzzes `channel_layer::fuzzing::redis_answer`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| channel_layer::fuzzing::redis_answer(bytes));
