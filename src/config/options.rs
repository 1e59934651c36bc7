//! `Config`: every option of the layers, its default and its limits.

use std::path::PathBuf;
use std::time::Duration;

use super::format::Format;
use super::host::Host;
use super::pubsub::{Fallback, Overflow};
use crate::capacity::{Capacity, CapacityRule};
use crate::codec::serializer::Serializer;
use crate::config::sources::source::Sources;
use crate::crypto::{self, FernetKeys, KeyRing};
use crate::error::Result;

/// The capacity of a channel on layers that refuse messages above it. It is that of `asgi_redis`.
pub(crate) const DEFAULT_CAPACITY: usize = 100;

/// The options of a layer. Each setter takes the configuration and gives it back.
///
/// A layer checks them all once, when it is made; [`validate`](Self::validate) does the same earlier. Files and the
/// environment have the same options under the same names, times in seconds. Those that Python's `channels_redis` and
/// `asgi_redis` have are called as there, in the `CONFIG` of a Django site, and the forms of hosts that those have are read as well.
///
/// ```
/// use std::time::Duration;
/// use channel_layer::{CapacityRule, Config};
///
/// let config = Config::new()
///     .host("redis://10.0.0.1:6379/0")
///     .prefix("chat")
///     .expiry(Duration::from_secs(30))
///     .channel_capacity(CapacityRule::glob("websocket.send.*", 10_000));
/// config.validate()?;
///
/// let same = Config::from_toml(r#"
///     hosts = ["redis://10.0.0.1:6379/0"]
///     prefix = "chat"
///     expiry = 30
///     channel_capacity = { "websocket.send.*" = 10000 }
/// "#)?;
/// assert_eq!(config, same);
/// # Ok::<(), channel_layer::Error>(())
/// ```
#[derive(Clone, PartialEq)]
pub struct Config {
    /// Nothing stands for the default host; an empty list that someone gave is an error.
    pub(crate) hosts: Option<Vec<Host>>,
    /// Its default depends on the format.
    pub(crate) prefix: Option<String>,
    pub(crate) expiry: Duration,
    pub(crate) group_expiry: Duration,
    /// Nothing stands for the default, which depends on the layer, and for rules that are one.
    pub(crate) capacity: Option<usize>,
    pub(crate) channel_capacity: Vec<CapacityRule>,
    pub(crate) symmetric_encryption_keys: Vec<String>,
    pub(crate) accept_only_keys: Vec<String>,
    pub(crate) format: Format,
    pub(crate) serializer: Serializer,
    pub(crate) random_prefix_length: usize,
    /// Its default depends on the format.
    pub(crate) stats_prefix: Option<String>,
    pub(crate) max_message_size: usize,
    pub(crate) connect_timeout: Duration,
    pub(crate) command_timeout: Duration,
    pub(crate) blocking_timeout: Duration,
    pub(crate) pool_size: usize,
    pub(crate) overflow: Overflow,
    pub(crate) max_queue_size: usize,
    /// Nothing stands for the default of each layer.
    pub(crate) fallback: Option<Fallback>,
    pub(crate) return_after: Duration,
    pub(crate) sharded_pubsub: bool,
    pub(crate) retry_attempts: usize,
    pub(crate) retry_backoff: Duration,
    pub(crate) tcp_keepalive: Duration,
    pub(crate) tls: TlsFiles,
    pub(crate) sentinels: Vec<Host>,
    pub(crate) services: Vec<String>,
    pub(crate) service_login: ServiceLogin,
    pub(crate) sentinel_refresh_interval: Duration,
    /// The variables that have set options.
    pub(crate) sources: Sources,
}

/// The files that connections over TLS need, if they need any.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct TlsFiles {
    /// Certificates of the authorities that may sign a server's certificate, in place of the public authorities.
    pub(crate) ca: Option<PathBuf>,
    /// Our certificate and its key.
    pub(crate) cert: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
}

/// The login for masters whose addresses come from sentinels.
#[derive(Clone, Default, PartialEq)]
pub(crate) struct ServiceLogin {
    pub(crate) username: Option<String>,
    pub(crate) password: Option<String>,
    pub(crate) db: u32,
    pub(crate) tls: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            hosts: None,
            prefix: None,
            expiry: Duration::from_mins(1),
            group_expiry: Duration::from_hours(24),
            capacity: None,
            channel_capacity: Vec::new(),
            symmetric_encryption_keys: Vec::new(),
            accept_only_keys: Vec::new(),
            format: Format::default(),
            serializer: Serializer::default(),
            random_prefix_length: 12,
            stats_prefix: None,
            max_message_size: 8 << 20,
            connect_timeout: Duration::from_secs(1),
            command_timeout: Duration::from_secs(4),
            blocking_timeout: Duration::from_secs(5),
            pool_size: 256,
            overflow: Overflow::default(),
            max_queue_size: 64 << 20,
            fallback: None,
            return_after: Duration::from_secs(2),
            sharded_pubsub: false,
            retry_attempts: 0,
            retry_backoff: Duration::from_millis(250),
            tcp_keepalive: Duration::from_secs(30),
            tls: TlsFiles::default(),
            sentinels: Vec::new(),
            services: Vec::new(),
            service_login: ServiceLogin::default(),
            sentinel_refresh_interval: Duration::from_secs(10),
            sources: Sources::default(),
        }
    }
}

impl Config {
    /// Every option at its default.
    pub fn new() -> Self {
        Self::default()
    }

    /// What the keys in Redis begin with; layers with different prefixes do not see each other. Braces are not allowed,
    /// since they decide the slot of a key in a cluster. Defaults to `asgi`, and in the format of `asgi_redis` to `asgi:`.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = Some(prefix.into());
        self
    }

    /// How long a message waits to be read, from 1 ms to 100 years. Defaults to 60 s.
    ///
    /// It has to be the same in all processes: readers tell by it when a message was sent, and so who was a member of
    /// its group.
    #[must_use]
    pub fn expiry(mut self, expiry: Duration) -> Self {
        self.expiry = expiry;
        self
    }

    /// How long a membership in a group lasts after it was added or renewed, from 1 ms to 100 years. Defaults to 1 day.
    #[must_use]
    pub fn group_expiry(mut self, group_expiry: Duration) -> Self {
        self.group_expiry = group_expiry;
        self
    }

    /// How many messages a channel holds where no rule says otherwise, from 1 to 4294967295 unread messages. What a
    /// [`Receiver`](crate::Receiver) has taken ahead of its channel on Redis is not in it any more. Defaults to 100, and for a
    /// [`PubSubLayer`](crate::PubSubLayer), which drops messages above it, to 10,000.
    #[must_use]
    pub fn capacity(mut self, capacity: usize) -> Self {
        self.capacity = Some(capacity);
        self
    }

    /// Adds a rule for the capacity of some channels; the first that matches decides. Defaults to none.
    #[must_use]
    pub fn channel_capacity(mut self, rule: CapacityRule) -> Self {
        self.channel_capacity.push(rule);
        self
    }

    /// Adds a rule behind all others, unless [`capacity`](Self::capacity) is set: for programs that know what their channels
    /// need where nobody says. Call it when everything else is set.
    #[must_use]
    pub fn default_channel_capacity(self, rule: CapacityRule) -> Self {
        if self.capacity.is_some() { self } else { self.channel_capacity(rule) }
    }

    /// Encrypts messages: the first key seals, all of them open. Any text is a key; at least 32 bytes that cannot be
    /// guessed are recommended. Defaults to none, and no encryption.
    #[must_use]
    pub fn symmetric_encryption_keys<K: Into<String>>(mut self, keys: impl IntoIterator<Item = K>) -> Self {
        self.symmetric_encryption_keys = keys.into_iter().map(Into::into).collect();
        self
    }

    /// Keys that open messages and never seal. To change keys without losing a message, add the new one here in every
    /// process, then make it the first of [`symmetric_encryption_keys`](Self::symmetric_encryption_keys) everywhere with
    /// the old one behind it, and remove the old one after [`expiry`](Self::expiry). Defaults to none.
    #[must_use]
    pub fn accept_only_keys<K: Into<String>>(mut self, keys: impl IntoIterator<Item = K>) -> Self {
        self.accept_only_keys = keys.into_iter().map(Into::into).collect();
        self
    }

    /// How messages are kept in Redis, for [`connect`](crate::connect()) and the program; a layer that is made by its own
    /// name has its own format. Defaults to [`Format::Native`].
    #[must_use]
    pub fn format(mut self, format: Format) -> Self {
        self.format = format;
        self
    }

    /// How messages become bytes in the formats of Python's `channels_redis`, where it is called `serializer_format`; files
    /// and the environment know both names. Other formats have no choice. Defaults to [`Serializer::MessagePack`].
    #[must_use]
    pub fn serializer(mut self, serializer: Serializer) -> Self {
        self.serializer = serializer;
        self
    }

    /// Random bytes before each message in the format of `channels_redis`, from 0 to 1024 bytes, as the site has it. They make messages
    /// with the same content differ; with none, equal messages that wait at the same time become one. Defaults to 12.
    #[must_use]
    pub fn random_prefix_length(mut self, bytes: usize) -> Self {
        self.random_prefix_length = bytes;
        self
    }

    /// What the keys of statistics in Redis begin with. Layers with the same one count together, and a flush of one
    /// deletes what the other has counted. Defaults to [`prefix`](Self::prefix) and `-meta:`, and in the format of
    /// `asgi_redis` to `asgi-meta:` whatever the prefix, as in Python.
    #[must_use]
    pub fn stats_prefix(mut self, stats_prefix: impl Into<String>) -> Self {
        self.stats_prefix = Some(stats_prefix.into());
        self
    }

    /// Bytes that an encoded message may have, from 1024 to 268435456 bytes. Defaults to 8 MiB.
    #[must_use]
    pub fn max_message_size(mut self, bytes: usize) -> Self {
        self.max_message_size = bytes;
        self
    }

    /// What keys begin with.
    pub(crate) fn key_prefix(&self) -> &str {
        let default = if self.format == Format::AsgiRedis { "asgi:" } else { "asgi" };
        self.prefix.as_deref().unwrap_or(default)
    }

    /// What keys of statistics begin with.
    pub(crate) fn stats_key_prefix(&self) -> String {
        match (&self.stats_prefix, self.format) {
            (Some(prefix), _) => prefix.clone(),
            (None, Format::AsgiRedis) => "asgi-meta:".into(),
            (None, _) => format!("{}-meta:", self.key_prefix()),
        }
    }

    /// The capacities of all channels, compiled.
    pub(crate) fn capacities(&self) -> Result<Capacity> {
        self.capacities_or(DEFAULT_CAPACITY)
    }

    /// The capacities of all channels of a layer with another default, compiled.
    pub(crate) fn capacities_or(&self, default: usize) -> Result<Capacity> {
        Capacity::new(&self.channel_capacity, self.capacity.unwrap_or(default))
    }

    /// The keys, if messages are to be encrypted as Django Channels does it.
    pub(crate) fn fernet_keys(&self) -> Result<Option<FernetKeys>> {
        if self.symmetric_encryption_keys.is_empty() && self.accept_only_keys.is_empty() {
            return Ok(None);
        }
        FernetKeys::new(&self.symmetric_encryption_keys, &self.accept_only_keys).map(Some)
    }

    /// The keys, if messages are to be encrypted.
    pub(crate) fn key_ring(&self) -> Result<Option<KeyRing>> {
        if self.symmetric_encryption_keys.is_empty() && self.accept_only_keys.is_empty() {
            return Ok(None);
        }
        KeyRing::new(&self.symmetric_encryption_keys, &self.accept_only_keys).map(Some)
    }

    /// The ids of all keys that open messages, that of the key that seals first.
    pub(crate) fn key_ids(&self) -> impl Iterator<Item = u32> {
        self.symmetric_encryption_keys.iter().chain(&self.accept_only_keys).map(|key| crypto::id_of_key(key))
    }
}
