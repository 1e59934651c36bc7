//! Messages of every type and size arrive unchanged.

use channel_layer::{Bytes, Error, Map, Message, Value, message};

use super::backend::{Kind, Options};
use super::tools::{Layer, assert_none, take};

/// Sends `message` over channels of each kind and through a group and checks that each delivers it.
async fn carry(layer: &Layer, message: &Message) {
    layer.group_add("carry", "carry.group").await.unwrap();
    for channel in ["carry", "carry!a", "carry?a"] {
        layer.send(channel, message.clone()).await.unwrap();
    }
    layer.group_send("carry", message.clone()).await.unwrap();
    for source in ["carry", "carry!", "carry?a", "carry.group"] {
        // `assert_eq` would print a megabyte.
        assert!(take(layer, &[source]).await.message == *message, "the message changed on {source}");
    }
}

pub async fn text_and_bytes_keep_their_types(kind: &Kind) {
    let layer = kind.start(Options::default()).await.layer();
    let values = message! {
        "pound as bytes": b"\xc2\xa3",
        "pound as text": "\u{a3}",
        "emoji": "\u{1f612}",
        "control": b"\x01\x00\x03\x21",
        "not text": b"\xff\xfe\x80",
        "nul": "a\0b",
    };
    let message = message! { "values": values.clone() };
    carry(&layer, &message).await;

    layer.send("types", message).await.unwrap();
    let received = take(&layer, &["types"]).await.message;
    let received = received.get("values").and_then(Value::as_map).unwrap();
    for (key, value) in values.map() {
        assert_eq!(received.get(key), Some(value), "{key}");
        assert_eq!(received.get(key).unwrap().as_text().is_some(), value.as_text().is_some(), "{key}");
    }
}

pub async fn every_integer_arrives_unchanged(kind: &Kind) {
    let layer = kind.start(Options::default()).await.layer();
    // Each power of two and its neighbours, to cover every width of an encoding.
    let powers = (0..63).map(|bits| 1_i64 << bits).flat_map(|power| [power - 1, power, power + 1, -power, -power - 1]);
    let integers = powers.chain([0, i64::MAX - 1, i64::MAX, i64::MIN, i64::MIN + 1]);
    carry(&layer, &message! { "integers": Value::list(integers) }).await;
}

pub async fn every_float_arrives_unchanged(kind: &Kind) {
    let layer = kind.start(Options::default()).await.layer();
    let floats = [
        0.0,
        -0.0,
        1.0,
        -1.5,
        0.1,
        f64::MIN,
        f64::MAX,
        f64::MIN_POSITIVE,
        f64::from_bits(1),
        f64::EPSILON,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::NAN,
        9_007_199_254_740_993.0,
    ];
    layer.send("floats", message! { "floats": Value::list(floats) }).await.unwrap();
    let message = take(&layer, &["floats"]).await.message;
    let received = message.get("floats").and_then(Value::as_list).unwrap();
    let bits: Vec<_> = received.iter().map(|value| value.as_float().expect("floats stay floats").to_bits()).collect();
    assert_eq!(bits, floats.map(f64::to_bits));
}

pub async fn empty_and_nested_values_arrive_unchanged(kind: &Kind) {
    let layer = kind.start(Options::default()).await.layer();
    carry(&layer, &Message::new()).await;
    carry(
        &layer,
        &message! {
            "": "the empty key",
            "text": "",
            "bytes": b"",
            "list": Value::List(Vec::new()),
            "map": Map::new(),
            "none": Value::None,
            "true": true,
            "false": false,
            "\u{a3} and \u{1f612}": 1,
        },
    )
    .await;
    let mut nested = Value::list(["core"]);
    for depth in 0..20 {
        let map = message! { "depth": depth, "inner": nested, "empty": Value::List(Vec::new()) };
        nested = Value::List(vec![map.into(), Value::None, "after".into()]);
    }
    carry(&layer, &message! { "nested": nested }).await;
    // Longer than the short forms of an encoding: keys, texts, lists and maps beyond 255 and 65,535.
    let keys = (0..300).map(|key| (format!("key {key}"), Value::from(key)));
    let long = message! {
        "text": "x".repeat(70_000),
        "list": Value::list(0..70_000),
        "map": keys.collect::<Map>(),
    };
    carry(&layer, &long.with("k".repeat(300), "a long key")).await;
}

pub async fn a_megabyte_arrives_unchanged(kind: &Kind) {
    let layer = kind.start(Options { max_message_size: 8 << 20, ..Options::default() }).await.layer();
    // With a limit of 1 MiB the whole message has to fit, not only its largest value.
    let body: Vec<u8> = (0..1_000_000_u32).map(|at| at.to_le_bytes()[usize::from(at % 3 == 0)]).collect();
    carry(&layer, &message! { "body": Bytes::from(body) }).await;
}

pub async fn a_message_over_the_size_limit_is_refused(kind: &Kind) {
    let layer = kind.start(Options { max_message_size: 2048, ..Options::default() }).await.layer();
    layer.group_add("large", "large?a").await.unwrap();
    let of_size = |size: usize| message! { "body": vec![0_u8; size] };
    for result in [
        layer.send("large?a", of_size(4096)).await,
        layer.group_send("large", of_size(4096)).await,
        layer.send_many(&[("large?a", of_size(4096))]).await.remove(0),
        layer.group_send_many(&[("large", of_size(4096))]).await.remove(0),
    ] {
        let error = result.expect_err("twice the limit is too much");
        let Error::MessageTooLarge { size, limit } = error else { panic!("expected MessageTooLarge: {error}") };
        assert!(size >= 4096 && limit == 2048, "{size} and {limit}");
    }
    assert_none(layer.try_receive(&["large?a"]).await.unwrap());
    layer.send("large?a", of_size(1900)).await.unwrap();
    layer.group_send("large", of_size(1900)).await.unwrap();
    for _ in 0..2 {
        assert_eq!(take(&layer, &["large?a"]).await.message, of_size(1900));
    }
}

pub async fn a_message_with_the_reserved_key_is_refused(kind: &Kind) {
    let layer = kind.start(Options::default()).await.layer();
    layer.group_add("reserved", "reserved").await.unwrap();
    let message = message! { "type": "x", "__asgi_channel__": "elsewhere!a" };
    for result in [
        layer.send("reserved", message.clone()).await,
        layer.group_send("reserved", message.clone()).await,
        layer.send_many(&[("reserved", message.clone())]).await.remove(0),
    ] {
        let error = result.expect_err("the key is reserved");
        assert!(matches!(error, Error::Codec { direction: "encoded", .. }), "{error}");
        assert!(error.to_string().contains("__asgi_channel__"), "{error} does not name the key");
    }
    assert_none(layer.try_receive(&["reserved"]).await.unwrap());
}

pub async fn a_sent_message_does_not_change_with_the_original(kind: &Kind) {
    let layer = kind.start(Options::default()).await.layer();
    let message = message! { "value": Value::list([1, 2, 3]) };
    layer.send("altered", message.clone()).await.unwrap();
    let altered = message.with("value", "new value");
    assert_eq!(altered.text("value"), Some("new value"));
    assert_eq!(take(&layer, &["altered"]).await.message, message! { "value": Value::list([1, 2, 3]) });
}
