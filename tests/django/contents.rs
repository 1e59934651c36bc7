//! Messages with values of every type, in every encoding that MessagePack and JSON have for it.

use channel_layer::{Map, Message, Value, message};

/// Returns a message with values that both serializers support.
pub fn for_json() -> Message {
    let lengths = [0, 15, 16, 31, 32, 255, 256];
    message! {
        "type": "chat.message",
        "none": None::<i64>,
        "true": true,
        "false": false,
        "integers": integers(),
        "floats": Value::list([0.0, -0.0, 1.0, 0.1, -2.5, 1e300, 5e-324, f64::MAX, 1e16, 123_456_789.123_456_79]),
        "texts": Value::list(["quotes \" and \\ and /", "\0\u{1}\n\u{7f}", "Grüße 世界 \u{1f980} \u{2028}"]),
        "lengths of text": Value::list(lengths.map(|length| "x".repeat(length))),
        "lengths of lists": Value::list([0, 15, 16].map(|length| Value::list(vec![1; length]))),
        "lengths of maps": Value::list([0, 15, 16].map(numbered)),
        "no numbers": Value::list([f64::NAN, f64::INFINITY, f64::NEG_INFINITY]),
        "deep": (0..20).fold(Value::None, |inside, _| Value::List(vec![message! { "": inside }.into()])),
        "": "",
        "Schlüssel \u{1f980}": 1,
    }
}

/// Returns a message with values that MessagePack supports.
pub fn for_message_pack() -> Message {
    let lengths = [0, 1, 31, 32, 255, 256];
    let bytes = Value::list(lengths.map(|length| vec![0xfe_u8; length]));
    for_json().with("lengths of bytes", bytes)
}

fn integers() -> Value {
    let edges = [0, 31, 32, 127, 128, 255, 256, 32_767, 32_768, 65_535, 65_536, i64::from(u32::MAX)];
    let around = edges.iter().flat_map(|&edge| [edge, edge + 1, -edge, -edge - 1]);
    Value::list(around.chain([i64::MAX, i64::MIN]))
}

fn numbered(keys: i32) -> Value {
    (0..keys).map(|key| (key.to_string(), key)).collect::<Map>().into()
}
