//! Rust never writes a message that Python cannot read or that breaks a consumer of Django.

use channel_layer::{Error, Map, Message, Value, message};
use serde_json::json;

use super::ends::Ends;
use super::routes::assert_same;
use super::side::Side;
use super::site::Site;

/// Sends a message from Rust. Returns `false` if it cannot be encoded.
async fn is_accepted(ends: &Ends, message: &Message) -> bool {
    match ends.rust.layer.send("channel", message.clone()).await {
        Ok(()) => true,
        Err(Error::Codec { .. }) => false,
        Err(error) => panic!("the send failed for another reason: {error}"),
    }
}

async fn python_reads_the_deepest_message(site: Site) {
    let ends = Ends::of(site).await;
    let nested = |depth| {
        let wrap = |inside: Value, level| match level % 2 {
            0 => Value::List(vec![inside]),
            _ => message! { "inside": inside }.into(),
        };
        message! { "type": "deep", "value": (1..depth).fold(Value::None, wrap) }
    };
    let mut depth = 1;
    while is_accepted(&ends, &nested(depth)).await {
        assert_eq!(ends.python.done("receive_depth", json!(["channel"])).await, depth.into());
        depth += 1;
    }
    assert!(depth > 32, "messages of depth {depth} are refused");
}

#[tokio::test]
async fn python_reads_the_deepest_message_in_asgi_redis() {
    python_reads_the_deepest_message(Site::asgi_redis()).await;
}

#[tokio::test]
async fn python_reads_the_deepest_message_in_channels_redis() {
    python_reads_the_deepest_message(Site::channels_redis()).await;
}

#[tokio::test]
async fn python_reads_the_deepest_message_in_channels_redis_in_json() {
    python_reads_the_deepest_message(Site::channels_redis().json()).await;
}

/// The values are large enough for the longest headers of MessagePack.
async fn python_reads_large_messages(site: Site) {
    let ends = Ends::of(site).await;
    let map: Value = (0..70_000).map(|key| (key.to_string(), key)).collect::<Map>().into();
    for value in ["x".repeat(1_000_000).into(), Value::list(vec![1; 70_000]), map] {
        let message = message! { "type": "large", "value": value };
        ends.rust.send("channel", &message).await;
        assert_same(&ends.python.receive("channel").await.1, &message);
    }
}

#[tokio::test]
async fn python_reads_large_messages_in_asgi_redis() {
    python_reads_large_messages(Site::asgi_redis().fernet()).await;
}

#[tokio::test]
async fn python_reads_large_messages_in_channels_redis() {
    python_reads_large_messages(Site::channels_redis().fernet()).await;
}

#[tokio::test]
async fn python_reads_large_messages_in_channels_redis_in_json() {
    python_reads_large_messages(Site::channels_redis().json()).await;
}

async fn messages_that_python_cannot_read_are_refused(site: Site, messages: &[Message]) {
    let ends = Ends::of(site).await;
    for message in messages {
        assert!(!is_accepted(&ends, message).await, "{message:?}");
    }
    // A group send refuses the messages too, and other messages still arrive.
    ends.python.group_add("group", "channel").await;
    for message in messages {
        let sent = ends.rust.layer.group_send("group", message.clone()).await;
        assert!(matches!(sent, Err(Error::Codec { .. })), "{sent:?}");
    }
    let good = message! { "type": "good" };
    ends.rust.group_send("group", &good).await;
    assert_same(&ends.python.receive("channel").await.1, &good);
}

#[tokio::test]
async fn a_message_with_the_routing_key_of_python_is_refused() {
    let messages =
        ["a!b".into(), Value::list(["a!b"]), Value::None].map(|routing| message! { "__asgi_channel__": routing });
    for site in [Site::asgi_redis(), Site::channels_redis(), Site::channels_redis().json()] {
        messages_that_python_cannot_read_are_refused(site, &messages).await;
    }
}

#[tokio::test]
async fn bytes_are_refused_in_json() {
    let bytes = || Value::from(b"bytes");
    let messages = [
        message! { "value": bytes() },
        message! { "value": Value::list([bytes()]) },
        message! { "value": message! { "value": bytes() } },
    ];
    messages_that_python_cannot_read_are_refused(Site::channels_redis().json(), &messages).await;
}
