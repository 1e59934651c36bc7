//! `Site`: the configuration of both sides: format, servers and keys.

use std::time::Duration;

use channel_layer::{CapacityRule, Config, Message, Serializer, Value, message};
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;

use super::contents;
use super::python::PythonLayer;
use super::rust::RustLayer;
use crate::support::{DEADLINE, RedisServer, eventually, random_prefix, shared_servers, shared_unix_server};

/// One of Python's layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Package {
    /// asgi_redis.
    AsgiRedis,
    /// The core layer of channels_redis.
    ChannelsRedis,
    /// The pub/sub layer of channels_redis.
    PubSub,
}

/// The configuration that both sides share. Only the order of the keys differs.
#[derive(Clone, Debug)]
pub struct Site {
    pub package: Package,
    serializer: Serializer,
    /// The keys of Python. Rust has them in reverse order, so that with two keys each side encrypts with another one.
    keys: Vec<&'static str>,
    /// `None` for the default prefix.
    prefix: Option<String>,
    hosts: Vec<String>,
    pub group_expiry: u64,
    pub capacity: usize,
    /// A glob, and the capacity of the names that it matches.
    rule: Option<(&'static str, usize)>,
}

impl Site {
    fn new(package: Package) -> Self {
        Self {
            package,
            serializer: Serializer::MessagePack,
            keys: Vec::new(),
            prefix: Some(random_prefix()),
            hosts: vec![shared_servers()[0].url()],
            group_expiry: 86_400,
            capacity: 1000,
            rule: None,
        }
    }

    pub fn asgi_redis() -> Self {
        Self::new(Package::AsgiRedis)
    }

    pub fn channels_redis() -> Self {
        Self::new(Package::ChannelsRedis)
    }

    pub fn pubsub() -> Self {
        Self::new(Package::PubSub)
    }

    pub fn message_pack(self) -> Self {
        Self { serializer: Serializer::MessagePack, ..self }
    }

    pub fn json(self) -> Self {
        Self { serializer: Serializer::Json, ..self }
    }

    pub fn plain(self) -> Self {
        Self { keys: vec![], ..self }
    }

    pub fn fernet(self) -> Self {
        Self { keys: vec!["the key"], ..self }
    }

    pub fn rotated(self) -> Self {
        Self { keys: vec!["the old key", "the new key"], ..self }
    }

    pub fn default_prefix(self) -> Self {
        Self { prefix: None, ..self }
    }

    pub fn other_prefix(self) -> Self {
        Self { prefix: Some(random_prefix()), ..self }
    }

    pub fn on_one_host(self) -> Self {
        self.on_hosts(1)
    }

    pub fn on_two_hosts(self) -> Self {
        self.on_hosts(2)
    }

    pub fn on_four_hosts(self) -> Self {
        self.on_hosts(4)
    }

    fn on_hosts(self, hosts: usize) -> Self {
        Self { hosts: servers().map(RedisServer::url).take(hosts).collect(), ..self }
    }

    /// The same on other hosts than the shared ones.
    pub fn on(self, hosts: Vec<String>) -> Self {
        Self { hosts, ..self }
    }

    pub fn group_expiry(self, group_expiry: u64) -> Self {
        Self { group_expiry, ..self }
    }

    pub fn capacity(self, capacity: usize) -> Self {
        Self { capacity, ..self }
    }

    pub fn channel_capacity(self, glob: &'static str, capacity: usize) -> Self {
        Self { rule: Some((glob, capacity)), ..self }
    }

    /// Returns a message with every kind of value that the serializer supports.
    pub fn contents(&self) -> Message {
        if self.serializer == Serializer::Json { contents::for_json() } else { contents::for_message_pack() }
    }

    /// Opens a Python layer.
    pub async fn python(&self) -> PythonLayer {
        PythonLayer::open(self.package, self.options(&self.keys)).await
    }

    /// Opens a Python layer with this key only.
    pub async fn python_with(&self, key: &'static str) -> PythonLayer {
        PythonLayer::open(self.package, self.options(&[key])).await
    }

    /// Opens a Python layer with the keys in the order of Rust.
    pub async fn python_in_place_of_rust(&self) -> PythonLayer {
        let keys: Vec<_> = self.keys.iter().rev().copied().collect();
        PythonLayer::open(self.package, self.options(&keys)).await
    }

    /// Returns the keyword arguments of a Python layer.
    fn options(&self, keys: &[&'static str]) -> Message {
        let mut options = message! {
            "hosts": Value::list(self.hosts.iter().cloned()),
            "group_expiry": i64::try_from(self.group_expiry).unwrap(),
            "capacity": i64::try_from(self.capacity).unwrap(),
        };
        if !keys.is_empty() {
            options = options.with("symmetric_encryption_keys", Value::list(keys.iter().copied()));
        }
        if let Some((glob, capacity)) = self.rule {
            options = options.with("channel_capacity", Message::new().with(glob, i64::try_from(capacity).unwrap()));
        }
        if let Some(prefix) = &self.prefix {
            options = options.with("prefix", prefix.clone());
            if self.package == Package::AsgiRedis {
                options = options.with("stats_prefix", stats_prefix(prefix));
            }
        }
        if self.serializer == Serializer::Json {
            options = options.with("serializer_format", "json");
        }
        options
    }

    /// Opens a Rust layer.
    pub async fn rust(&self) -> RustLayer {
        RustLayer::open(self.package, self.config()).await
    }

    /// Returns the options of a Rust layer.
    pub fn config(&self) -> Config {
        let mut config = Config::new()
            .hosts(self.hosts.iter().cloned())
            .group_expiry(Duration::from_secs(self.group_expiry))
            .capacity(self.capacity)
            .serializer(self.serializer)
            .symmetric_encryption_keys(self.keys.iter().rev().copied())
            .connect_timeout(DEADLINE)
            .command_timeout(DEADLINE);
        if let Some(prefix) = &self.prefix {
            config = config.prefix(prefix).stats_prefix(stats_prefix(prefix));
        }
        let rules = self.rule.map(|(glob, capacity)| CapacityRule::glob(glob, capacity));
        rules.into_iter().fold(config, Config::channel_capacity)
    }

    /// The prefix of the keys in Redis.
    pub fn prefix(&self) -> &str {
        let default = if self.package == Package::AsgiRedis { "asgi:" } else { "asgi" };
        self.prefix.as_deref().unwrap_or(default)
    }

    /// Returns the keys of the site on all hosts.
    pub async fn keys(&self) -> Vec<String> {
        let mut keys = Vec::new();
        for server in self.servers() {
            let found: Vec<String> = server.connection().await.keys(format!("{}*", self.prefix())).await.unwrap();
            keys.extend(found);
        }
        keys
    }

    /// Connects to the first host.
    pub async fn redis(&self) -> MultiplexedConnection {
        self.servers().next().expect("there is a host").connection().await
    }

    /// Waits until a process has subscribed to `channel` of Redis. Returns at once except in the pub/sub format.
    pub async fn subscribed(&self, channel: &str) {
        if self.package == Package::PubSub {
            self.subscribed_by(1, channel).await;
        }
    }

    /// Waits until at least `processes` processes have subscribed to `channel` of Redis.
    pub async fn subscribed_by(&self, processes: i64, channel: &str) {
        let what = format!("{processes} subscribers of {channel}");
        eventually(&what, async || (self.subscribers(channel).await >= processes).then_some(())).await;
    }

    /// Returns the Redis channel for messages to a group.
    pub fn group_subscription(&self, group: &str) -> String {
        format!("{}__group__{group}", self.prefix())
    }

    async fn subscribers(&self, channel: &str) -> i64 {
        let mut subscribers = 0;
        for server in self.servers() {
            let mut connection = server.connection().await;
            let (_, count): (String, i64) =
                redis::cmd("PUBSUB").arg("NUMSUB").arg(channel).query_async(&mut connection).await.unwrap();
            subscribers += count;
        }
        subscribers
    }

    fn servers(&self) -> impl Iterator<Item = &'static RedisServer> {
        servers().filter(|server| self.hosts.contains(&server.url()))
    }
}

/// The servers that tests share.
fn servers() -> impl Iterator<Item = &'static RedisServer> {
    shared_servers().iter().chain([shared_unix_server()])
}

/// The default `stats_prefix` of a prefix other than the default.
fn stats_prefix(prefix: &str) -> String {
    format!("{prefix}-meta:")
}
