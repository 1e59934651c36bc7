//! Published messages have the bytes that `channels_redis.pubsub` 4.3.0 writes and reads.

use channel_layer::{ChannelLayer, Serializer, message};
use futures_util::StreamExt;

use super::tools::{config, connect, connect_with};
use crate::support::{DEADLINE, RedisServer, within};

/// The message `{"type": "a.b"}` as Python publishes it.
const MESSAGEPACK: &[u8] = b"\x81\xa4type\xa3a.b";
const JSON: &[u8] = br#"{"type": "a.b"}"#;
/// The same as MessagePack under the key `a-test-key`, sealed in 2023.
const FERNET: &[u8] =
    b"gAAAAABlU_EAAAECAwQFBgcICQoLDA0ODwXacYCwq91t2RoFqD8DzR7FjJo2oE8dYpnwLDCLlJGItZX1SGSc7Qr9peL639Qqlg==";

/// A plain client that has subscribed to a Redis channel.
struct Listener(redis::aio::PubSub);

impl Listener {
    async fn at(server: &RedisServer, topic: &str) -> Self {
        let mut listening = redis::Client::open(server.url()).unwrap().get_async_pubsub().await.unwrap();
        listening.subscribe(topic).await.unwrap();
        Self(listening)
    }

    async fn next(&mut self) -> Vec<u8> {
        let mut messages = self.0.on_message();
        let message = within(DEADLINE, "a published message", messages.next()).await.unwrap();
        message.get_payload_bytes().to_vec()
    }
}

async fn publish(server: &RedisServer, topic: &str, payload: &[u8]) {
    let mut connection = server.connection().await;
    let reached: usize = redis::cmd("PUBLISH").arg(topic).arg(payload).query_async(&mut connection).await.unwrap();
    assert_eq!(reached, 1, "{topic} has one listener");
}

#[tokio::test]
async fn channels_and_groups_use_the_redis_channels_of_python() {
    let server = RedisServer::start();
    let layer = connect_with(config([&*server.url()]).prefix("site")).await;
    for (topic, channel) in [("work", "work"), ("specific.a!b", "specific.a!b"), ("body?x", "body?x")] {
        let mut listener = Listener::at(&server, topic).await;
        layer.send(channel, message! { "type": "a.b" }).await.unwrap();
        assert_eq!(listener.next().await, MESSAGEPACK);
    }
    let mut listener = Listener::at(&server, "site__group__chat").await;
    layer.group_send("chat", message! { "type": "a.b" }).await.unwrap();
    assert_eq!(listener.next().await, MESSAGEPACK);
}

#[tokio::test]
async fn messages_published_by_python_are_read() {
    let server = RedisServer::start();
    let layer = connect([&*server.url()]).await;
    layer.subscribe(&["work", "specific.a!"]).await.unwrap();
    layer.group_add("chat", "work").await.unwrap();
    for topic in ["work", "specific.a!b", "asgi__group__chat"] {
        publish(&server, topic, MESSAGEPACK).await;
        let delivery = within(DEADLINE, topic, layer.receive(&["work", "specific.a!"])).await.unwrap();
        assert_eq!(delivery.message, message! { "type": "a.b" });
    }
}

#[tokio::test]
async fn json_is_written_and_read_as_in_python() {
    let server = RedisServer::start();
    let layer = connect_with(config([&*server.url()]).serializer(Serializer::Json)).await;
    let mut listener = Listener::at(&server, "other").await;
    layer.send("other", message! { "type": "a.b" }).await.unwrap();
    assert_eq!(listener.next().await, JSON);
    layer.subscribe(&["work"]).await.unwrap();
    publish(&server, "work", JSON).await;
    let delivery = within(DEADLINE, "the message", layer.receive(&["work"])).await.unwrap();
    assert_eq!(delivery.message, message! { "type": "a.b" });
}

#[tokio::test]
async fn tokens_open_with_any_key_whatever_their_age() {
    let server = RedisServer::start();
    let keys = ["the key in use", "a-test-key"];
    let layer = connect_with(config([&*server.url()]).symmetric_encryption_keys(keys)).await;
    layer.subscribe(&["work"]).await.unwrap();
    publish(&server, "work", FERNET).await;
    let delivery = within(DEADLINE, "the message", layer.receive(&["work"])).await.unwrap();
    assert_eq!(delivery.message, message! { "type": "a.b" });

    let mut listener = Listener::at(&server, "other").await;
    layer.send("other", message! { "type": "a.b" }).await.unwrap();
    let token = listener.next().await;
    assert!(token.starts_with(b"gAAAAA") && !token.windows(3).any(|bytes| bytes == b"a.b"));
}

#[tokio::test]
async fn new_specific_channels_have_the_names_of_python() {
    let server = RedisServer::start();
    let layer = connect_with(config([&*server.url()]).prefix("site")).await;
    let channel = layer.new_specific_channel("specific.").await.unwrap();
    let digits = channel.as_str().strip_prefix("sitespecific.").unwrap();
    assert!(digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()), "{channel}");
    publish(&server, channel.as_str(), MESSAGEPACK).await;
    within(DEADLINE, "the message", layer.receive(&[channel.as_str()])).await.unwrap();
}
