//! The two ends of a wire: a layer of Python's, and one of ours.

use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use channel_layer::{Message, Value};
use serde_json::{Value as Json, json};

use super::json::{from_json, message_to_json, to_json};
use super::peer::{Peer, Refusal};
use super::site::Package;

/// A layer at one end. What it is told to do has to succeed, and what it waits for has to come.
#[async_trait]
pub trait Side: Send + Sync {
    async fn send(&self, channel: &str, message: &Message);
    /// Receives from `channel`; gives the full name as well.
    async fn receive(&self, channel: &str) -> (String, Message);
    /// The name of a process-local channel that this end reads.
    async fn new_local_channel(&self) -> String;
    async fn new_single_reader_channel(&self) -> String;
    async fn group_add(&self, group: &str, channel: &str);
    async fn group_discard(&self, group: &str, channel: &str);
    async fn group_send(&self, group: &str, message: &Message);
}

/// A layer of one of Python's packages, in a peer that tests share.
pub struct PythonLayer {
    peer: &'static Peer,
    number: u64,
}

impl PythonLayer {
    /// Makes one with the keyword arguments `options`.
    pub async fn open(package: Package, options: &Value) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let peer = match package {
            Package::AsgiRedis => Peer::asgi_redis(),
            Package::ChannelsRedis | Package::PubSub => Peer::channels_redis(),
        };
        let layer = Self { peer, number: NEXT.fetch_add(1, Ordering::Relaxed) };
        layer.done("open", json!([package.name(), to_json(options)])).await;
        layer
    }

    /// Calls a method of the layer, or one of those that the peer adds.
    pub async fn call(&self, method: &str, arguments: Json) -> Result<Value, Refusal> {
        self.peer.ask(self.number, method, arguments).await.map(from_json)
    }

    /// Calls a method that has to succeed.
    pub async fn done(&self, method: &str, arguments: Json) -> Value {
        self.call(method, arguments).await.unwrap_or_else(|refusal| panic!("Python's {method}: {refusal:?}"))
    }
}

impl Drop for PythonLayer {
    fn drop(&mut self) {
        // Nobody waits for it: what is left of the layer bothers no other.
        drop(self.peer.tell(self.number, "close", &json!([])));
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
        self.done("new_local_channel", json!([])).await.as_text().unwrap().to_owned()
    }

    async fn new_single_reader_channel(&self) -> String {
        self.done("new_channel", json!(["http.request.body?"])).await.as_text().unwrap().to_owned()
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
}

/// What a call of `receive` gives.
fn received(answer: Value) -> (String, Message) {
    match answer {
        Value::List(pair) => match <[Value; 2]>::try_from(pair) {
            Ok([Value::Text(channel), Value::Map(message)]) => (channel.to_string(), message.into()),
            other => panic!("Python received {other:?}"),
        },
        other => panic!("Python received {other:?}"),
    }
}
