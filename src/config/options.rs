//! `Config`: the options of all layers, with their defaults.

use std::path::PathBuf;
use std::time::Duration;

use super::format::Format;
use super::host::Host;
use super::pubsub::{Fallback, Overflow};
use crate::capacity::{Capacity, CapacityRule};
use crate::codec::serializer::Serializer;
use crate::config::sources::origin::Origins;
use crate::crypto::{self, FernetKeys, KeyRing};
use crate::error::Result;
use crate::spread::{Spread, SpreadRule};

/// The default capacity of a channel on layers that refuse messages above it, as in `asgi_redis`.
pub(crate) const DEFAULT_CAPACITY: usize = 100;

/// The options of a layer. Each setter consumes the configuration and returns it.
///
/// A layer validates its configuration once, when it is created; [`validate`](Self::validate) does the same earlier.
/// Files and environment variables use the same option names, with times in seconds. Options that Python's
/// `channels_redis` or `asgi_redis` also have keep the names of the `CONFIG` of a Django site, and hosts may be written
/// in the forms of those packages too.
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
    /// `None` means the default host. An empty list is an error.
    pub(crate) hosts: Option<Vec<Host>>,
    pub(crate) cluster: bool,
    /// The default depends on the format.
    pub(crate) prefix: Option<String>,
    pub(crate) expiry: Duration,
    pub(crate) group_expiry: Duration,
    /// `None` means the default of the layer. [`default_channel_capacity`](Self::default_channel_capacity) then adds
    /// its rules.
    pub(crate) capacity: Option<usize>,
    pub(crate) channel_capacity: Vec<CapacityRule>,
    pub(crate) spread: Vec<SpreadRule>,
    pub(crate) symmetric_encryption_keys: Vec<String>,
    pub(crate) accept_only_keys: Vec<String>,
    pub(crate) format: Format,
    pub(crate) serializer: Serializer,
    pub(crate) random_prefix_length: usize,
    /// The default depends on the format.
    pub(crate) stats_prefix: Option<String>,
    pub(crate) max_message_size: usize,
    pub(crate) connect_timeout: Duration,
    pub(crate) command_timeout: Duration,
    pub(crate) blocking_timeout: Duration,
    pub(crate) pool_size: usize,
    pub(crate) overflow: Overflow,
    pub(crate) max_queue_size: usize,
    /// `None` means the default of the layer.
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
    /// The environment variables that set options, for errors.
    pub(crate) origins: Origins,
}

/// The files for connections over TLS.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct TlsFiles {
    /// Certificates of the accepted authorities. They replace the public authorities.
    pub(crate) ca: Option<PathBuf>,
    /// The client certificate and its key.
    pub(crate) cert: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
}

/// The login and database for masters that are found through sentinels.
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
            cluster: false,
            prefix: None,
            expiry: Duration::from_mins(1),
            group_expiry: Duration::from_hours(24),
            capacity: None,
            channel_capacity: Vec::new(),
            spread: Vec::new(),
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
            origins: Origins::default(),
        }
    }
}

impl Config {
    /// Creates a configuration with every option at its default.
    pub fn new() -> Self {
        Self::default()
    }

    /// Prefix of all keys in Redis. Layers with different prefixes do not see each other. Braces are not allowed
    /// because they decide the slot of a key in a cluster. Defaults to `asgi`, or to `asgi:` in the format
    /// `asgi_redis`.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = Some(prefix.into());
        self
    }

    /// How long a message waits to be read before it expires, from 1 ms to 100 years. Defaults to 60 s.
    ///
    /// In the native format the value of the sender decides. In the formats of Python the value of the reader counts
    /// too, so all processes need the same value there.
    #[must_use]
    pub fn expiry(mut self, expiry: Duration) -> Self {
        self.expiry = expiry;
        self
    }

    /// How long a group membership lasts after it was added or renewed, from 1 ms to 100 years. Defaults to 1 day.
    #[must_use]
    pub fn group_expiry(mut self, group_expiry: Duration) -> Self {
        self.group_expiry = group_expiry;
        self
    }

    /// Capacity of a channel that matches no [`channel_capacity`](Self::channel_capacity) rule, from 1 to 4294967295
    /// unread messages. Messages that a [`Receiver`](crate::Receiver) has prefetched from Redis do not count. Defaults
    /// to 100, or to 10,000 for a [`PubSubLayer`](crate::PubSubLayer), which drops messages above the capacity.
    #[must_use]
    pub fn capacity(mut self, capacity: usize) -> Self {
        self.capacity = Some(capacity);
        self
    }

    /// Adds a capacity rule for channels whose names match a pattern. The first matching rule decides. Defaults to
    /// none.
    #[must_use]
    pub fn channel_capacity(mut self, rule: CapacityRule) -> Self {
        self.channel_capacity.push(rule);
        self
    }

    /// Adds a capacity rule after all others, unless [`capacity`](Self::capacity) is set. With it a program sets the
    /// default capacity of its own channels. Call it after all other setters.
    #[must_use]
    pub fn default_channel_capacity(self, rule: CapacityRule) -> Self {
        if self.capacity.is_some() { self } else { self.channel_capacity(rule) }
    }

    /// Adds a rule that spreads the normal channels whose names match a pattern over several lists of a Redis Cluster,
    /// and so over its masters. The first matching rule decides. Use it for a channel with more messages than one
    /// master can take. Needs [`cluster`](Self::cluster) and the format native. Defaults to none: a channel has one
    /// list.
    ///
    /// The lists share the capacity of the channel. The order of its messages holds within a list only. A process that
    /// reads the channel needs a connection for each list.
    ///
    /// All processes need the same rules. To spread a channel further without losing a message, change the rule in all
    /// processes that read the channel first, and then in those that send to it. To spread it less, change the senders
    /// first, and the readers after [`expiry`](Self::expiry).
    #[must_use]
    pub fn spread(mut self, rule: SpreadRule) -> Self {
        self.spread.push(rule);
        self
    }

    /// Keys for the encryption of messages: the first key encrypts, and all keys decrypt. Any non-empty string is a
    /// key; use at least 32 random bytes. Defaults to none, which means no encryption.
    #[must_use]
    pub fn symmetric_encryption_keys<K: Into<String>>(mut self, keys: impl IntoIterator<Item = K>) -> Self {
        self.symmetric_encryption_keys = keys.into_iter().map(Into::into).collect();
        self
    }

    /// Keys that only decrypt. To rotate keys without losing a message, first add the new key here in every process.
    /// Then put it first in [`symmetric_encryption_keys`](Self::symmetric_encryption_keys) in every process, followed
    /// by the old key. Remove the old key after [`expiry`](Self::expiry). Defaults to none.
    #[must_use]
    pub fn accept_only_keys<K: Into<String>>(mut self, keys: impl IntoIterator<Item = K>) -> Self {
        self.accept_only_keys = keys.into_iter().map(Into::into).collect();
        self
    }

    /// Format of messages and groups in Redis, for [`connect`](crate::connect()) and the program. A layer type that is
    /// connected directly uses its own format instead. Defaults to [`Format::Native`].
    #[must_use]
    pub fn format(mut self, format: Format) -> Self {
        self.format = format;
        self
    }

    /// Encoding of messages in the two formats of Python's `channels_redis`. Files and variables accept its Python name
    /// `serializer_format` too. Other formats ignore it. Defaults to [`Serializer::MessagePack`].
    #[must_use]
    pub fn serializer(mut self, serializer: Serializer) -> Self {
        self.serializer = serializer;
        self
    }

    /// Number of random bytes before each message in the format `channels_redis`, from 0 to 1024 bytes. Use the value
    /// of the Python processes. The bytes make equal messages distinct: with 0, two equal messages that wait in a
    /// channel at the same time become one. Defaults to 12.
    #[must_use]
    pub fn random_prefix_length(mut self, bytes: usize) -> Self {
        self.random_prefix_length = bytes;
        self
    }

    /// Prefix of the statistics keys in Redis. Layers with the same prefix share their counts, and a flush of one layer
    /// deletes the counts of all. Defaults to [`prefix`](Self::prefix) followed by `-meta:`; in the format `asgi_redis`
    /// to `asgi-meta:` with any prefix, as in Python.
    #[must_use]
    pub fn stats_prefix(mut self, stats_prefix: impl Into<String>) -> Self {
        self.stats_prefix = Some(stats_prefix.into());
        self
    }

    /// Size limit of an encoded message, from 1024 to 268435456 bytes. A larger message is refused. Defaults to 8 MiB.
    #[must_use]
    pub fn max_message_size(mut self, bytes: usize) -> Self {
        self.max_message_size = bytes;
        self
    }

    /// The prefix of keys, with the default of the format.
    pub(crate) fn key_prefix(&self) -> &str {
        let default = if self.format == Format::AsgiRedis { "asgi:" } else { "asgi" };
        self.prefix.as_deref().unwrap_or(default)
    }

    /// The prefix of statistics keys, with the default of the format.
    pub(crate) fn stats_key_prefix(&self) -> String {
        match (&self.stats_prefix, self.format) {
            (Some(prefix), _) => prefix.clone(),
            (None, Format::AsgiRedis) => "asgi-meta:".into(),
            (None, _) => format!("{}-meta:", self.key_prefix()),
        }
    }

    /// Returns how long a message waits to be read before it expires.
    pub fn message_expiry(&self) -> Duration {
        self.expiry
    }

    /// Compiles the capacities of all channels, with the default of layers that refuse messages above it.
    ///
    /// ```
    /// use channel_layer::{CapacityRule, ChannelName, Config};
    ///
    /// let capacities = Config::new().channel_capacity(CapacityRule::glob("jobs.*", 1000)).capacities()?;
    /// assert_eq!(capacities.of(&ChannelName::parse("jobs.mail")?), 1000);
    /// assert_eq!(capacities.of(&ChannelName::parse("chat")?), 100);
    /// # Ok::<(), channel_layer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`](crate::Error::InvalidConfig) for a rule with an invalid pattern or capacity.
    pub fn capacities(&self) -> Result<Capacity> {
        self.capacities_or(DEFAULT_CAPACITY)
    }

    /// Compiles the capacities of all channels for a layer whose default capacity is `default`.
    pub(crate) fn capacities_or(&self, default: usize) -> Result<Capacity> {
        Capacity::new(&self.channel_capacity, self.capacity.unwrap_or(default))
    }

    /// Compiles the numbers of lists of all channels.
    pub(crate) fn spreads(&self) -> Result<Spread> {
        Spread::new(&self.spread)
    }

    /// The keys for the encryption of Django Channels; `None` if encryption is off.
    pub(crate) fn fernet_keys(&self) -> Result<Option<FernetKeys>> {
        if self.symmetric_encryption_keys.is_empty() && self.accept_only_keys.is_empty() {
            return Ok(None);
        }
        FernetKeys::new(&self.symmetric_encryption_keys, &self.accept_only_keys).map(Some)
    }

    /// The keys for the native encryption; `None` if encryption is off.
    pub(crate) fn key_ring(&self) -> Result<Option<KeyRing>> {
        if self.symmetric_encryption_keys.is_empty() && self.accept_only_keys.is_empty() {
            return Ok(None);
        }
        KeyRing::new(&self.symmetric_encryption_keys, &self.accept_only_keys).map(Some)
    }

    /// The ids of all keys. The id of the encrypting key comes first.
    pub(crate) fn key_ids(&self) -> impl Iterator<Item = u32> {
        self.symmetric_encryption_keys.iter().chain(&self.accept_only_keys).map(|key| crypto::id_of_key(key))
    }
}
