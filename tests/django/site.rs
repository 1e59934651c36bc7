//! How both ends of a wire are set up: the format, the servers, the keys.

use channel_layer::{Map, Value};

use super::side::PythonLayer;
use crate::support::{RedisServer, eventually, random_prefix, shared_servers, shared_unix_server};

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

/// How messages are protected.
#[derive(Clone, Copy, Debug)]
pub enum Protection {
    Plain,
    /// With one key.
    Fernet,
    /// With two keys, of which each end uses another to encrypt.
    Rotated,
}

/// What the two ends have in common, and how they differ.
#[derive(Clone, Debug)]
pub struct Site {
    pub package: Package,
    /// In the channels_redis formats; None for the default, MessagePack.
    pub serializer: Option<&'static str>,
    pub protection: Protection,
    pub prefix: Option<String>,
    pub hosts: Vec<String>,
    /// More keyword arguments of Python's layer.
    pub options: Map,
}

impl Package {
    /// As the peer calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::AsgiRedis => "asgi_redis",
            Self::ChannelsRedis => "channels_redis",
            Self::PubSub => "pubsub",
        }
    }
}

impl Protection {
    fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Plain => &[],
            Self::Fernet => &["the key"],
            Self::Rotated => &["the old key", "the new key"],
        }
    }
}

impl Site {
    /// One on a shared server, with a prefix of its own.
    pub fn new(package: Package) -> Self {
        Self {
            package,
            serializer: None,
            protection: Protection::Plain,
            prefix: Some(random_prefix()),
            hosts: vec![shared_servers()[0].url()],
            options: Map::new(),
        }
    }

    /// Over so many shared servers, up to four.
    #[must_use]
    pub fn on_hosts(mut self, hosts: usize) -> Self {
        self.hosts = servers().map(RedisServer::url).take(hosts).collect();
        self
    }

    /// Waits until somebody has subscribed to `channel` of Redis where messages go to subscribers only.
    pub async fn subscribed(&self, channel: &str) {
        if self.package == Package::PubSub {
            eventually(&format!("a subscriber of {channel}"), async || {
                (self.subscribers(channel).await > 0).then_some(())
            })
            .await;
        }
    }

    /// The channel of Redis that carries what is sent to a group.
    pub fn group_subscription(&self, group: &str) -> String {
        format!("{}__group__{group}", self.prefix.as_deref().unwrap_or("asgi"))
    }

    async fn subscribers(&self, channel: &str) -> i64 {
        let mut subscribers = 0;
        for server in servers().filter(|server| self.hosts.contains(&server.url())) {
            let mut connection = server.connection().await;
            let (_, count): (String, i64) =
                redis::cmd("PUBSUB").arg("NUMSUB").arg(channel).query_async(&mut connection).await.unwrap();
            subscribers += count;
        }
        subscribers
    }

    /// A layer of Python's.
    pub async fn python(&self) -> PythonLayer {
        self.open(self.protection.keys().to_vec()).await
    }

    /// A layer of Python's that uses the keys as our end does.
    pub async fn python_in_our_place(&self) -> PythonLayer {
        self.open(self.protection.keys().iter().rev().copied().collect()).await
    }

    async fn open(&self, keys: Vec<&'static str>) -> PythonLayer {
        let mut options = self.options.clone();
        options.insert("hosts", Value::list(self.hosts.iter().cloned()));
        if !keys.is_empty() {
            options.insert("symmetric_encryption_keys", Value::list(keys));
        }
        if let Some(prefix) = &self.prefix {
            options.insert("prefix", prefix.clone());
        }
        if let Some(serializer) = self.serializer {
            options.insert("serializer_format", serializer);
        }
        PythonLayer::open(self.package, &options.into()).await
    }
}

fn servers() -> impl Iterator<Item = &'static RedisServer> {
    shared_servers().iter().chain([shared_unix_server()])
}
