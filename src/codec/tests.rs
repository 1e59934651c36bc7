//! Round trips of messages, and invalid input.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::message;

fn encoded(message: &Message) -> Bytes {
    let mut out = Vec::new();
    encode(message, &mut out).expect("it can be encoded");
    out.into()
}

fn round_trip(value: impl Into<Value>) -> Value {
    let bytes = encoded(&Message::new().with("value", value));
    decode(&bytes).expect("it can be decoded").into_map().remove("value").expect("it has the key")
}

fn refusal(bytes: &[u8]) -> String {
    decode(&Bytes::copy_from_slice(bytes)).expect_err("it is refused").to_string()
}

fn nested(levels: usize) -> Message {
    let inner = (1..levels).fold(Value::None, |inner, _| Value::List(vec![inner]));
    Message::new().with("value", inner)
}

#[test]
fn integers_keep_their_value_at_every_boundary() {
    let powers = (0..63).map(|bits| 1i64 << bits);
    let edges = powers.flat_map(|power| [power - 1, power, power + 1, -power - 1, -power, 1 - power]);
    for value in edges.chain([0, i64::MIN, i64::MIN + 1, i64::MAX - 1, i64::MAX]) {
        assert_eq!(round_trip(value), Value::Int(value));
    }
}

#[test]
fn floats_keep_their_bits() {
    let quiet_with_payload = f64::from_bits(0x7ff8_0000_dead_beef);
    let extremes = [0.0, -0.0, f64::MIN, f64::MAX, f64::MIN_POSITIVE, f64::EPSILON, 5e-324, 1.0, 1e300, 0.1];
    let special = [f64::INFINITY, f64::NEG_INFINITY, f64::NAN, -f64::NAN, quiet_with_payload];
    for value in extremes.into_iter().chain(special) {
        let back = round_trip(value).as_float().expect("it is still a float");
        assert_eq!(back.to_bits(), value.to_bits(), "{value}");
    }
}

#[test]
fn text_and_bytes_stay_apart() {
    assert_eq!(round_trip("text"), Value::from("text"));
    assert_eq!(round_trip(b"text"), Value::from(b"text"));
    assert_eq!(round_trip(""), Value::from(""));
    assert_eq!(round_trip(Bytes::new()), Value::Bytes(Bytes::new()));
}

#[test]
fn byte_strings_of_any_length_and_content_are_restored() {
    for length in [0, 1, 31, 32, 255, 256, 65_535, 65_536, 1 << 20] {
        for fill in [0x00, 0xff, 0xc4, 0xd9, 0xa1] {
            let value = Value::Bytes(vec![fill; length].into());
            assert_eq!(round_trip(value.clone()), value);
        }
        let text = Value::from("x".repeat(length));
        assert_eq!(round_trip(text.clone()), text);
    }
}

#[test]
fn empty_and_nested_values_are_restored() {
    let message = message! {
        "": "",
        "none": Value::None,
        "yes": true,
        "list": Value::List(Vec::new()),
        "map": Message::new(),
        "deep": message! { "a": Value::list([Value::from(message! { "b": Value::list(["c"]) }), Value::None]) },
    };
    assert_eq!(decode(&encoded(&message)).expect("it can be decoded"), message);
    assert_eq!(decode(&encoded(&Message::new())).expect("it can be decoded"), Message::new());
}

#[test]
fn decoded_text_and_bytes_are_slices_of_the_source() {
    let bytes = encoded(&message! { "body": b"0123456789", "text": "hello" });
    let message = decode(&bytes).expect("it can be decoded");
    let range = bytes.as_ptr_range();
    assert!(range.contains(&message.bytes("body").expect("it has a body").as_ptr()));
    assert!(range.contains(&message.text("text").expect("it has text").as_ptr()));
}

#[test]
fn encoding_appends_and_a_refusal_leaves_nothing() {
    let mut out = b"head".to_vec();
    encode(&message! { "a": 1 }, &mut out).expect("it can be encoded");
    assert_eq!(out, b"head\x81\xa1a\x01");
    encode(&nested(MAX_DEPTH + 1), &mut out).expect_err("it is too deep");
    assert_eq!(out, b"head\x81\xa1a\x01");
}

#[test]
fn the_reserved_key_is_refused_at_the_top_only() {
    let inner = message! { "__asgi_channel__": "x" };
    let error = encode(&inner, &mut Vec::new()).expect_err("it is reserved");
    assert_eq!(error.to_string(), "message cannot be encoded: key __asgi_channel__ is reserved");
    encoded(&message! { "inner": inner });
}

#[test]
fn nesting_is_allowed_to_the_limit_both_ways() {
    let deepest = nested(MAX_DEPTH);
    assert_eq!(decode(&encoded(&deepest)).expect("it is not too deep"), deepest);
    encode(&nested(MAX_DEPTH + 1), &mut Vec::new()).expect_err("it is too deep");

    let list_bomb = [&b"\x81\xa1a"[..], &vec![0x91; 100_000]].concat();
    assert!(refusal(&list_bomb).contains("128 levels"));
    let map_bomb = b"\x81\xa1a".repeat(100_000);
    assert!(refusal(&map_bomb).contains("128 levels"));
}

#[test]
fn what_is_no_message_is_refused_by_name() {
    for (bytes, fault) in [
        (&b""[..], "cannot be decoded"),
        (b"\xc0", "expected a map, found none"),
        (b"\x93\x01\x02\x03", "expected a map, found a list"),
        (b"\x05", "expected a map, found an integer"),
        (b"\xa6secret", "expected a map, found text"),
        (b"\xc1", "expected a map, found an invalid byte"),
        (b"\x81\xcb\x7f\xf8\0\0\0\0\0\0\x01", "key 1: expected text, found a float"),
        (b"\x82\xa1a\x01\x07\x01", "key 2: expected text, found an integer"),
        (b"\x81\xc0\x01", "key 1: expected text, found none"),
        (b"\x81\xc3\x01", "key 1: expected text, found a boolean"),
        (b"\x81\xc4\x01a\x01", "key 1: expected text, found bytes"),
        (b"\x81\x91\x01\x01", "a text key"),
        (b"\x81\xa1\xff\x01", "key 1: string found to be invalid utf8"),
        (b"\x81\xa1a\xa2\xff\xfe", "value 1: string found to be invalid utf8"),
        (b"\x82\xa1a\x01\xa1b\x92\x01\x81\x07\x01", "value 2: element 2: key 1: expected text, found an integer"),
        (b"\x81\xa1a\xd9\x02\xff\xfe", "value 1: string found to be invalid utf8"),
        (b"\x81\xa1a\xcf\xff\xff\xff\xff\xff\xff\xff\xff", "value 1: an integer is outside the range of i64"),
        (b"\x81\xa1a\xd4\x05\x00", "value 1: extension types are not supported"),
        (b"\x81\xa1a\x01\xc0", "unexpected bytes after the message"),
        (b"\x82\xa1a\x01", "cannot be decoded"),
        (b"\x81\xa1a\xdd\xff\xff\xff\xff", "cannot be decoded"),
        (b"\x81\xa1a\xc6\xff\xff\xff\xff", "cannot be decoded"),
        (b"\xdf\xff\xff\xff\xff", "cannot be decoded"),
    ] {
        let error = refusal(bytes);
        assert!(error.contains(fault), "{bytes:x?}: {error}");
        assert!(!error.contains("secret"), "{error}");
    }
    let deep = refusal(&[&b"\x81\xa1a"[..], &[0x91; 60], b"\xc1"].concat());
    assert!(deep.len() < 200, "{deep}");
}

#[test]
fn invalid_text_is_never_taken_for_bytes_whatever_its_length() {
    for length in [1usize, 31, 32, 0xc4, 0xff, 0x100, 0xc401, 0xc4ff, 0xffff, 0x1_0000, 0xc6_0000] {
        let header = match length {
            ..32 => vec![0xa0 | u8::try_from(length).expect("it is short")],
            32..0x100 => vec![0xd9, u8::try_from(length).expect("it is short")],
            0x100..0x1_0000 => [&[0xda][..], &u16::try_from(length).expect("it is short").to_be_bytes()].concat(),
            _ => [&[0xdb][..], &u32::try_from(length).expect("it is short").to_be_bytes()].concat(),
        };
        for before in [&b"\x81\xa1a"[..], b"\x82\xa1a\xc4\x81\xa1\xc4", b"\x81\xa1\xc6"] {
            refusal(&[before, &header, &vec![0xff; length]].concat());
        }
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Chat {
    text: String,
    size: u64,
    reply_to: Option<i64>,
    tags: Vec<String>,
    from: std::net::IpAddr,
    extra: Value,
}

#[test]
fn structs_become_messages_and_messages_structs() {
    let chat = Chat {
        text: "hi".into(),
        size: 2,
        reply_to: None,
        tags: vec!["a".into()],
        from: [127, 0, 0, 1].into(),
        extra: Value::from(b"\xff"),
    };
    let message = Message::from_serialize(&chat).expect("it is a map");
    assert_eq!(message.text("from"), Some("127.0.0.1"));
    assert_eq!(message.get("reply_to"), Some(&Value::None));
    assert_eq!(message.get("extra"), Some(&Value::from(b"\xff")));
    assert_eq!(message.to::<Chat>().expect("it has the shape"), chat);
    assert_eq!(message.to::<Message>().expect("it is one"), message);
    assert!(message.to::<Vec<u8>>().is_err());
}

#[test]
fn what_serializes_to_no_message_is_refused_by_name() {
    for (error, fault) in [
        (Message::from_serialize(&5), "expected a map, found an integer"),
        (Message::from_serialize("text"), "expected a map, found text"),
        (Message::from_serialize(&BTreeMap::from([("a", u64::MAX)])), "value 1: an integer is outside"),
        (Message::from_serialize(&BTreeMap::from([(7, "a")])), "key 1: expected text, found an integer"),
    ] {
        let error = error.expect_err("it is refused").to_string();
        assert!(error.starts_with("message cannot be encoded: ") && error.contains(fault), "{error}");
    }
}

#[test]
fn messages_convert_to_json_and_back() {
    let message = message! { "text": "hi", "size": 2, "nothing": None::<i64>, "list": Value::list([1.5]) };
    let json = serde_json::to_string(&message).expect("it is JSON");
    assert_eq!(json, r#"{"list":[1.5],"nothing":null,"size":2,"text":"hi"}"#);
    assert_eq!(serde_json::from_str::<Message>(&json).expect("it is a message"), message);
    let bytes = serde_json::to_string(&message! { "body": b"\x00\xff" }).expect("it is JSON");
    assert_eq!(bytes, r#"{"body":[0,255]}"#);
    serde_json::from_str::<Value>("18446744073709551615").expect_err("it is outside of i64");
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::None),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_filter("NaN differs from itself", |value| !value.is_nan()).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        prop::collection::vec(any::<u8>(), 0..300).prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 60, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::List),
            prop::collection::vec((any::<String>(), inner), 0..6)
                .prop_map(|entries| Value::Map(entries.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn every_message_comes_back(entries in prop::collection::vec((any::<String>(), values()), 0..6)) {
        let message: Message = entries.into_iter().collect();
        prop_assert_eq!(decode(&encoded(&message)).expect("it can be decoded"), message.clone());
        prop_assert_eq!(message.to::<Message>().expect("it is one"), message);
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = decode(&bytes.into());
    }

    #[test]
    fn no_damage_makes_the_decoder_panic(
        value in values(),
        at in any::<prop::sample::Index>(),
        to in any::<u8>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = encoded(&Message::new().with("value", value)).to_vec();
        let at = at.index(bytes.len());
        bytes[at] = to;
        bytes.truncate(1 + cut.index(bytes.len()));
        let _ = decode(&bytes.into());
    }
}
