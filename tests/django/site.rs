//! How both ends of a wire are set up: the format, the servers, the keys.

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

/// What the two ends have in common, and in which order each has the keys.
#[derive(Clone, Debug)]
pub struct Site {
    pub package: Package,
    serializer: Serializer,
    /// As Python has them; Rust has them the other way round, so that of two keys each end encrypts with another.
    keys: Vec<&'static str>,
    /// The default where there is none.
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

    pub fn group_expiry(self, group_expiry: u64) -> Self {
        Self { group_expiry, ..self }
    }

    pub fn capacity(self, capacity: usize) -> Self {
        Self { capacity, ..self }
    }

    pub fn channel_capacity(self, glob: &'static str, capacity: usize) -> Self {
        Self { rule: Some((glob, capacity)), ..self }
    }

    /// A message with every kind of value that the serializer carries.
    pub fn contents(&self) -> Message {
        if self.serializer == Serializer::Json { contents::for_json() } else { contents::for_message_pack() }
    }

    /// A layer of Python's.
    pub async fn python(&self) -> PythonLayer {
        PythonLayer::open(self.package, self.options(&self.keys)).await
    }

    /// A layer of Python's that has this key and no other.
    pub async fn python_with(&self, key: &'static str) -> PythonLayer {
        PythonLayer::open(self.package, self.options(&[key])).await
    }

    /// A layer of Python's that has the keys as Rust has them.
    pub async fn python_in_place_of_rust(&self) -> PythonLayer {
        let keys: Vec<_> = self.keys.iter().rev().copied().collect();
        PythonLayer::open(self.package, self.options(&keys)).await
    }

    /// The keyword arguments of Python's layer.
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

    /// A layer of ours.
    pub async fn rust(&self) -> RustLayer {
        RustLayer::open(self.package, self.config()).await
    }

    /// The options of our layer.
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

    /// What the keys in Redis begin with.
    pub fn prefix(&self) -> &str {
        let default = if self.package == Package::AsgiRedis { "asgi:" } else { "asgi" };
        self.prefix.as_deref().unwrap_or(default)
    }

    /// All keys that it has on all hosts.
    pub async fn keys(&self) -> Vec<String> {
        let mut keys = Vec::new();
        for server in self.servers() {
            let found: Vec<String> = server.connection().await.keys(format!("{}*", self.prefix())).await.unwrap();
            keys.extend(found);
        }
        keys
    }

    /// A connection to the first host, to look at keys with.
    pub async fn redis(&self) -> MultiplexedConnection {
        self.servers().next().expect("there is a host").connection().await
    }

    /// Waits until somebody has subscribed to `channel` of Redis where messages go to subscribers only.
    pub async fn subscribed(&self, channel: &str) {
        if self.package == Package::PubSub {
            self.subscribed_by(1, channel).await;
        }
    }

    /// Waits until so many processes have subscribed to `channel` of Redis.
    pub async fn subscribed_by(&self, processes: i64, channel: &str) {
        let what = format!("{processes} subscribers of {channel}");
        eventually(&what, async || (self.subscribers(channel).await >= processes).then_some(())).await;
    }

    /// The channel of Redis that carries what is sent to a group.
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

/// Those that tests share.
fn servers() -> impl Iterator<Item = &'static RedisServer> {
    shared_servers().iter().chain([shared_unix_server()])
}

/// Of a prefix that is not the default.
fn stats_prefix(prefix: &str) -> String {
    format!("{prefix}-meta:")
}
