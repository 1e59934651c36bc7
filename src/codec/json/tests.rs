//! JSON round trips in the dialect of Python's `json` module.

use bytes::Bytes;
use proptest::prelude::*;
use serde::Deserialize as _;

use crate::codec::MAX_DEPTH;
use crate::codec::serializer::Serializer;
use crate::error::Error;
use crate::message;
use crate::message::{Map, Message, Value};

fn dumps(value: impl Into<Value>) -> String {
    let mut out = Vec::new();
    let message = Message::new().with("v", value);
    Serializer::Json.encode(&message, None, &mut out).expect("it can be encoded");
    let text = String::from_utf8(out).expect("it is ASCII");
    text.strip_prefix("{\"v\": ").and_then(|text| text.strip_suffix('}')).expect("it is a map").to_owned()
}

fn loads(json: &str) -> Result<Value, String> {
    let json = format!("{{\"v\":{json}}}");
    let decoded = Serializer::Json.decode(&Bytes::from(json));
    decoded.map(|mut map| map.remove("v").expect("it has the key")).map_err(|error| match error {
        Error::Codec { reason, .. } => reason,
        other => panic!("{other}"),
    })
}

fn nested(levels: usize) -> Value {
    (1..levels).fold(Value::None, |inner, _| Value::List(vec![inner]))
}

/// Compares with the output of `json.dumps` of Python 3.11.
#[test]
fn values_are_written_as_python_writes_them() {
    let map = message! { "b": Value::list([1, 2]), "a": None::<i64> };
    for (value, expected) in [
        (Value::None, "null"),
        (true.into(), "true"),
        (false.into(), "false"),
        (i64::MIN.into(), "-9223372036854775808"),
        (i64::MAX.into(), "9223372036854775807"),
        (Value::List(vec![]), "[]"),
        (Map::new().into(), "{}"),
        (Value::List(vec![1.into(), "a".into(), Value::List(vec![2.into()])]), "[1, \"a\", [2]]"),
        (map.into(), "{\"a\": null, \"b\": [1, 2]}"),
        ("Ahoy-hoy! / '".into(), "\"Ahoy-hoy! / '\""),
        ("é😀\0\n\"".into(), "\"\\u00e9\\ud83d\\ude00\\u0000\\n\\\"\""),
        ("\\\r\t\u{8}\u{c}\u{1f}\u{7f}\u{2028}".into(), "\"\\\\\\r\\t\\b\\f\\u001f\\u007f\\u2028\""),
    ] {
        assert_eq!(dumps(value.clone()), expected);
        assert_eq!(loads(expected), Ok(value));
    }
}

#[test]
fn floats_are_written_as_python_writes_them() {
    for (value, expected) in [
        (0.0, "0.0"),
        (-0.0, "-0.0"),
        (1.5, "1.5"),
        (0.1, "0.1"),
        (1e300, "1e+300"),
        (1.25e300, "1.25e+300"),
        (5e-324, "5e-324"),
        (1e-5, "1e-05"),
        (1.5e-7, "1.5e-07"),
        (0.0001, "0.0001"),
        (1e15, "1000000000000000.0"),
        (1_234_567_890_123_456.7, "1234567890123456.8"),
        (9_999_999_999_999_998.0, "9999999999999998.0"),
        (1e16, "1e+16"),
        (-123_456_789_012_345_680.0, "-1.2345678901234568e+17"),
        (f64::INFINITY, "Infinity"),
        (f64::NEG_INFINITY, "-Infinity"),
    ] {
        assert_eq!(dumps(value), expected);
        assert_eq!(loads(expected).map(|value| value.as_float().map(f64::to_bits)), Ok(Some(value.to_bits())));
    }
    assert_eq!(dumps(f64::NAN), "NaN");
    assert!(matches!(loads("NaN"), Ok(Value::Float(value)) if value.is_nan()));
}

#[test]
fn routing_is_the_last_key_and_is_decoded() {
    let mut out = Vec::new();
    let routing = Value::list(["specific.a!1"]);
    Serializer::Json.encode(&message! { "type": "z" }, Some(&routing), &mut out).expect("it can be encoded");
    assert_eq!(out, b"{\"type\": \"z\", \"__asgi_channel__\": [\"specific.a!1\"]}");
    let map = Serializer::Json.decode(&out.into()).expect("it can be decoded");
    assert_eq!(map.get("__asgi_channel__"), Some(&routing));
}

#[test]
fn bytes_are_refused_and_the_output_is_unchanged() {
    let mut out = b"head".to_vec();
    let refused = Serializer::Json.encode(&message! { "a": 1, "b": b"x" }, None, &mut out);
    assert!(matches!(refused, Err(Error::Codec { direction: "encoded", .. })));
    assert_eq!(out, b"head");
}

#[test]
fn depth_is_limited_both_ways() {
    let deepest = nested(MAX_DEPTH);
    assert_eq!(loads(&dumps(deepest.clone())), Ok(deepest));
    let too_deep = Message::new().with("v", nested(MAX_DEPTH + 1));
    assert!(Serializer::Json.encode(&too_deep, None, &mut Vec::new()).is_err());
    let brackets = "[".repeat(100_000);
    assert!(loads(&brackets).is_err_and(|reason| reason.contains("nested")));
}

#[test]
fn json_of_other_writers_is_read() {
    for (json, expected) in [
        (" [ 1 ,\n2\t]\r", Value::list([1, 2])),
        ("\"\\/\\u00E9\\uD83D\\uDE00é\"", "/é😀é".into()),
        ("-0", 0.into()),
        ("-0.0E+1", (-0.0).into()),
        ("1e400", f64::INFINITY.into()),
        ("{\"a\": 1, \"a\": 2}", message! { "a": 2 }.into()),
    ] {
        assert_eq!(loads(json), Ok(expected), "{json}");
    }
}

#[test]
fn json_that_python_or_a_value_does_not_support_is_refused() {
    for json in [
        "",
        "nul",
        "nan",
        "+1",
        "01",
        "-",
        "1.",
        ".5",
        "1e",
        "0x1",
        "- 1",
        "[1",
        "[1,]",
        "[,1]",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{1:1}",
        "\"",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\\u+123\"",
        "\"\\ud800\"",
        "\"\\ud800\\u0041\"",
        "\"\\udc00\"",
        "\"\n\"",
        "9223372036854775808",
        "-9223372036854775809",
        "1 2",
        "tru e",
    ] {
        assert!(loads(json).is_err(), "{json}");
    }
    for bytes in [&b"[]"[..], b"1", b"", b"{} {}", b"{}\0", b"\xef\xbb\xbf{}", b"{\"a\": \"\xff\"}"] {
        assert!(Serializer::Json.decode(&Bytes::from_static(bytes)).is_err(), "{bytes:?}");
    }
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::None),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        // `serde_json` reads other numbers with an error in the last digit.
        any::<i32>().prop_map(|value| Value::from(f64::from(value) / 64.0)),
        ".{0,40}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 64, 20, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..20).prop_map(Value::from),
            prop::collection::vec((".{0,40}", inner), 0..20)
                .prop_map(|pairs| pairs.into_iter().collect::<Map>().into()),
        ]
    })
}

proptest! {
    #[test]
    fn serde_json_reads_and_writes_the_same(value in values()) {
        let json = dumps(value.clone());
        let theirs: serde_json::Value = serde_json::from_str(&json).expect("it is JSON");
        let ours = Value::deserialize(&theirs);
        prop_assert_eq!(loads(&json), Ok(value.clone()));
        prop_assert_eq!(ours.expect("it is a value"), value.clone());
        prop_assert_eq!(loads(&theirs.to_string()), Ok(value));
    }

    #[test]
    fn every_float_is_restored_exactly(bits in any::<u64>()) {
        let value = f64::from_bits(bits);
        let back = loads(&dumps(value)).expect("it is JSON").as_float().expect("it is still a float");
        prop_assert!(back.to_bits() == bits || back.is_nan() && value.is_nan(), "{} became {}", value, back);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        let _ = Serializer::Json.decode(&bytes.into());
    }

    #[test]
    fn no_text_of_its_characters_makes_it_panic(text in "[\\[\\]{}\",:\\\\u0-9a-fnNtrulesIiy.eE+ -]{0,40}") {
        let _ = loads(&text);
    }
}
