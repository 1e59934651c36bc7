//! `PythonLayer`: the side in Python.

use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use channel_layer::{Message, Value};
use serde_json::{Value as Json, json};

use super::json::{from_json, message_to_json};
use super::peer::{Peer, Refusal};
use super::side::Side;
use super::site::Package;

/// A layer of a Python package, in a peer process that all tests share.
pub struct PythonLayer {
    peer: &'static Peer,
    number: u64,
}

impl PythonLayer {
    /// Creates a layer with the keyword arguments `options`.
    pub async fn open(package: Package, options: Message) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let (peer, name) = match package {
            Package::AsgiRedis => (Peer::asgi_redis(), "asgi_redis"),
            Package::ChannelsRedis => (Peer::channels_redis(), "channels_redis"),
            Package::PubSub => (Peer::channels_redis(), "pubsub"),
        };
        let layer = Self { peer, number: NEXT.fetch_add(1, Ordering::Relaxed) };
        layer.done("open", json!([name, message_to_json(&options)])).await;
        layer
    }

    /// Calls a method of the layer, or a method that the peer adds.
    pub async fn call(&self, method: &str, arguments: Json) -> Result<Value, Refusal> {
        self.peer.request(self.number, method, arguments).await.map(from_json)
    }

    /// As [`call`](Self::call), without a time limit.
    pub async fn call_without_deadline(&self, method: &str, arguments: Json) -> Result<Value, Refusal> {
        self.peer.wait(self.peer.send(self.number, method, &arguments)).await.map(from_json)
    }

    /// Calls a method. Panics if it fails.
    pub async fn done(&self, method: &str, arguments: Json) -> Value {
        self.call(method, arguments).await.unwrap_or_else(|refusal| panic!("Python's {method}: {refusal:?}"))
    }
}

impl Drop for PythonLayer {
    fn drop(&mut self) {
        // The result is not needed: a layer that fails to close does not affect others.
        drop(self.peer.send(self.number, "close", &json!([])));
    }
}

#[async_trait]
impl Side for PythonLayer {
    async fn send(&self, channel: &str, message: &Message) {
        self.done("send", json!([channel, message_to_json(message)])).await;
    }

    async fn receive(&self, channel: &str) -> (String, Message) {
        received(self.done("receive", json!([channel])).await)
    }

    async fn new_local_channel(&self) -> String {
        name(self.done("new_local_channel", json!([])).await)
    }

    async fn new_single_reader_channel(&self) -> String {
        name(self.done("new_channel", json!(["http.request.body?"])).await)
    }

    async fn group_add(&self, group: &str, channel: &str) {
        self.done("group_add", json!([group, channel])).await;
    }

    async fn group_discard(&self, group: &str, channel: &str) {
        self.done("group_discard", json!([group, channel])).await;
    }

    async fn group_send(&self, group: &str, message: &Message) {
        self.done("group_send", json!([group, message_to_json(message)])).await;
    }

    async fn flush(&self) {
        self.done("flush", json!([])).await;
    }
}

fn name(answer: Value) -> String {
    answer.as_text().expect("a name is text").to_owned()
}

/// Parses the result of `receive`.
fn received(answer: Value) -> (String, Message) {
    let Value::List(pair) = answer else { panic!("Python received {answer:?}") };
    match <[Value; 2]>::try_from(pair) {
        Ok([Value::Text(channel), Value::Map(message)]) => (channel.to_string(), message.into()),
        other => panic!("Python received {other:?}"),
    }
}
