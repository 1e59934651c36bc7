//! `Site`: a separate deployment for each test, with its keys, and helpers of the tests.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use channel_layer::health::Status;
use channel_layer::{ChannelLayer, Config, Delivery, Event, Fallback, Message, PubSubLayer, RedisLayer, message};
use redis::aio::MultiplexedConnection;
use redis::{AsyncCommands, FromRedisValue};
use tokio::sync::broadcast;

use crate::support::{DEADLINE, RedisServer, python_formats, random_prefix, within};

pub type Layer = Arc<RedisLayer>;

/// A prefix on some servers, and layers that use it.
pub struct Site {
    pub prefix: String,
    urls: Vec<String>,
}

impl Site {
    pub fn on(servers: &[RedisServer]) -> Self {
        Self::at(servers.iter().map(RedisServer::url))
    }

    pub fn at(urls: impl IntoIterator<Item = String>) -> Self {
        Self { prefix: random_prefix(), urls: urls.into_iter().collect() }
    }

    /// The options of the layers. Capacities and timeouts are large, and messages are small enough for the first read
    /// to take several.
    pub fn config(&self) -> Config {
        Config::new()
            .hosts(self.urls.iter().cloned())
            .prefix(&self.prefix)
            .capacity(100_000)
            .max_message_size(1 << 19)
            .connect_timeout(DEADLINE)
            .command_timeout(DEADLINE)
            .blocking_timeout(DEADLINE)
    }

    pub async fn layer(&self) -> Layer {
        connect(self.config()).await
    }

    /// A key under the prefix.
    pub fn key(&self, rest: &str) -> String {
        format!("{}:{rest}", self.prefix)
    }

    /// The key of a channel's list, by the non-local part of its name.
    pub fn list(&self, non_local: &str) -> String {
        self.key(&format!("channel:{{{non_local}}}"))
    }

    /// Returns the names of the deployment's keys without the prefix, with their Redis types.
    pub async fn keys(&self, server: &RedisServer) -> BTreeMap<String, String> {
        let mut connection = server.connection().await;
        let mut types = BTreeMap::new();
        for key in all_keys(&mut connection, &format!("{}*", self.prefix)).await {
            let kind: String = ask(&mut connection, redis::cmd("TYPE").arg(&key)).await;
            types.insert(key.strip_prefix(&self.prefix).unwrap().to_owned(), kind);
        }
        types
    }

    /// Returns for each server the name of a `?` channel on it.
    pub async fn pinned_channels(&self, layer: &RedisLayer, servers: &[RedisServer]) -> Vec<String> {
        let mut names = vec![None; servers.len()];
        while names.iter().any(Option::is_none) {
            let name = layer.new_channel("pinned?").await.unwrap();
            layer.send(name.as_str(), numbered(0)).await.unwrap();
            for (server, place) in servers.iter().zip(&mut names) {
                if server.connection().await.exists(self.list(name.as_str())).await.unwrap() {
                    *place = Some(name.to_string());
                }
            }
            take(layer, name.as_str()).await;
        }
        names.into_iter().flatten().collect()
    }
}

pub async fn connect(config: Config) -> Layer {
    Arc::new(within(DEADLINE, "a connection", RedisLayer::connect(config)).await.unwrap())
}

/// Publishes from one layer to another through the server, and checks that the message arrives.
pub async fn publishes(config: Config) {
    let connect = async || PubSubLayer::connect(config.clone().fallback(Fallback::Fail)).await.unwrap();
    let (reader, writer) = (connect().await, connect().await);
    let mut receiver = reader.receiver(&["l!"]).unwrap();
    reader.group_add("g", "l!a").await.unwrap();
    writer.group_send("g", numbered(1)).await.unwrap();
    assert_eq!(number(&within(DEADLINE, "a message", receiver.recv()).await.unwrap()), 1);
    assert_eq!(reader.health().await.status, Status::Healthy);
}

pub async fn all_keys(connection: &mut MultiplexedConnection, pattern: &str) -> Vec<String> {
    let mut keys: Vec<String> = ask(connection, redis::cmd("KEYS").arg(pattern)).await;
    keys.sort();
    keys
}

pub async fn ask<T: FromRedisValue>(connection: &mut MultiplexedConnection, command: &redis::Cmd) -> T {
    within(DEADLINE, "an answer of the server", command.query_async(connection)).await.unwrap()
}

pub async fn entries(connection: &mut MultiplexedConnection, list: &str) -> Vec<Vec<u8>> {
    connection.lrange(list, 0, -1).await.unwrap()
}

/// Returns the entries in quarantine, oldest first.
pub async fn quarantined(connection: &mut MultiplexedConnection, site: &Site) -> Vec<Vec<u8>> {
    let command = redis::cmd("XRANGE").arg(site.key("quarantine")).arg("-").arg("+").clone();
    let records: Vec<(String, HashMap<String, Vec<u8>>)> = ask(connection, &command).await;
    records.into_iter().map(|(_, mut fields)| fields.remove("entry").unwrap()).collect()
}

/// Returns the time to live of `key` in ms; -1 if it has none, -2 if the key does not exist.
pub async fn ttl(connection: &mut MultiplexedConnection, key: &str) -> i64 {
    ask(connection, redis::cmd("PTTL").arg(key)).await
}

/// Returns the time of the server in ms since the epoch.
pub async fn now_ms(connection: &mut MultiplexedConnection) -> u64 {
    let (seconds, micros): (u64, u64) = ask(connection, &redis::cmd("TIME")).await;
    seconds * 1000 + micros / 1000
}

/// Checks that the time to live of a key was recently set to `lifetime`.
#[track_caller]
pub fn assert_lives(ttl: i64, lifetime: Duration) {
    let lifetime = i64::try_from(lifetime.as_millis()).unwrap();
    assert!((lifetime - 15_000..=lifetime).contains(&ttl), "it lives for {ttl} ms, and not {lifetime} ms");
}

pub fn numbered(number: i64) -> Message {
    message! { "number": number }
}

pub fn number(delivery: &Delivery) -> i64 {
    delivery.message.int("number").expect("the message is numbered")
}

/// Receives one message. Panics if none arrives.
pub async fn take(layer: &RedisLayer, channel: &str) -> Delivery {
    within(DEADLINE, &format!("a message on {channel}"), layer.receive(&[channel])).await.unwrap()
}

/// Receives one message and returns its number. Panics if none arrives.
pub async fn take_number(layer: &RedisLayer, channel: &str) -> i64 {
    number(&take(layer, channel).await)
}

/// Receives messages until none is left. Returns their numbers.
pub async fn take_numbers(layer: &RedisLayer, channel: &str) -> Vec<i64> {
    let mut numbers = Vec::new();
    while let Some(delivery) = layer.try_receive(&[channel]).await.unwrap() {
        numbers.push(number(&delivery));
    }
    numbers
}

/// Waits for an event that `matches`, and skips others.
pub async fn event(events: &mut broadcast::Receiver<Event>, what: &str, matches: impl Fn(&Event) -> bool) -> Event {
    within(DEADLINE, what, async {
        loop {
            let event = events.recv().await.unwrap();
            if matches(&event) {
                return event;
            }
        }
    })
    .await
}

/// Returns the events that have not been read yet.
pub fn events_so_far(events: &mut broadcast::Receiver<Event>) -> Vec<Event> {
    std::iter::from_fn(|| events.try_recv().ok()).collect()
}

/// Sends from one layer to another in each of Python's formats, over every kind of connection that a layer has.
pub async fn shares_with_python(config: Config) {
    for format in python_formats() {
        // Both formats use the same key for a channel.
        let prefix = random_prefix();
        let config = config.clone().stats_prefix(format!("{prefix}-meta:")).prefix(prefix).format(format);
        let connect = async || channel_layer::connect(config.clone()).await.unwrap();
        let (reader, writer) = (connect().await, connect().await);
        let mut receiver = reader.receiver(&["l!"]).unwrap();
        let waiting = tokio::spawn(async move { receiver.recv().await });
        reader.group_add("g", "l!a").await.unwrap();
        writer.group_send("g", numbered(1)).await.unwrap();
        assert_eq!(number(&within(DEADLINE, "a message", waiting).await.unwrap().unwrap()), 1);
        writer.send("n", numbered(2)).await.unwrap();
        assert_eq!(number(&within(DEADLINE, "a message", reader.receive(&["n"])).await.unwrap()), 2);
    }
}
