//! Fuzzes `channel_layer::fuzzing::websocket_handshake`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| channel_layer::fuzzing::websocket_handshake(bytes));
