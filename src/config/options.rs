//! `Config`: every option of the layers, its default and its limits.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::format::Format;
use super::host::Host;
use super::pubsub::{Fallback, Overflow};
use crate::capacity::{Capacity, CapacityRule};
use crate::codec::serializer::Serializer;
use crate::crypto::{FernetKeys, KeyRing};
use crate::error::{Error, Result};

const DEFAULT_PREFIX: &str = "asgi";

/// The longest time that an option may have. In milliseconds since the epoch it stays exact in the floats of Lua.
const LONGEST: Duration = Duration::from_hours(100 * 366 * 24);

/// The largest string that Redis takes.
const LARGEST_MESSAGE: usize = 512 << 20;
const LONGEST_RANDOM_PREFIX: usize = 1024;
const SMALLEST_MESSAGE: usize = 1 << 10;

/// The options of a layer. Each setter takes the configuration and gives it back.
///
/// A layer checks them all once, when it is made; [`validate`](Self::validate) does the same earlier. Files and the
/// environment have the same options under the same names, times in seconds. Those that Python's `channels_redis` and
/// `asgi_redis` have are called as there, in the `CONFIG` of a Django site; what they hand to redis-py is unknown here.
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
    pub(super) hosts: Option<Vec<Host>>,
    /// Its default depends on the format.
    pub(super) prefix: Option<String>,
    pub(crate) expiry: Duration,
    pub(crate) group_expiry: Duration,
    pub(crate) capacity: usize,
    pub(crate) channel_capacity: Vec<CapacityRule>,
    pub(super) symmetric_encryption_keys: Vec<String>,
    pub(super) accept_only_keys: Vec<String>,
    pub(crate) format: Format,
    pub(crate) serializer: Serializer,
    pub(crate) random_prefix_length: usize,
    /// Its default depends on the format.
    pub(super) stats_prefix: Option<String>,
    pub(crate) max_message_size: usize,
    pub(crate) connect_timeout: Duration,
    pub(crate) command_timeout: Duration,
    pub(crate) blocking_timeout: Duration,
    pub(crate) pool_size: usize,
    pub(crate) overflow: Overflow,
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
}

/// The files that connections over TLS need, if they need any.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct TlsFiles {
    /// Certificates of those who may sign a server's certificate, in place of the public ones.
    pub(crate) ca: Option<PathBuf>,
    /// Our certificate and its key.
    pub(crate) cert: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
}

/// How to log in to the masters of which only sentinels know the addresses.
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
            capacity: 100,
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

    /// How many unread messages a channel holds where no rule says otherwise, at least 1. What a
    /// [`Receiver`](crate::Receiver) has taken ahead of its channel on Redis is not in it any more. Defaults to 100.
    #[must_use]
    pub fn capacity(mut self, capacity: usize) -> Self {
        self.capacity = capacity;
        self
    }

    /// Adds a rule for the capacity of some channels; the first that matches decides. Defaults to none.
    #[must_use]
    pub fn channel_capacity(mut self, rule: CapacityRule) -> Self {
        self.channel_capacity.push(rule);
        self
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

    /// Random bytes before each message in the format of `channels_redis`, up to 1024, as the site has it. They make messages
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

    /// Bytes that an encoded message may have, from 1 KiB to 512 MiB. Defaults to 8 MiB.
    #[must_use]
    pub fn max_message_size(mut self, bytes: usize) -> Self {
        self.max_message_size = bytes;
        self
    }

    /// Checks every option, without connecting to anything.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`], naming the first option whose value cannot work.
    pub fn validate(&self) -> Result<()> {
        self.check_servers()?;
        self.check_prefixes()?;
        for (option, value) in [
            ("expiry", self.expiry),
            ("group_expiry", self.group_expiry),
            ("connect_timeout", self.connect_timeout),
            ("command_timeout", self.command_timeout),
            ("blocking_timeout", self.blocking_timeout),
            ("retry_backoff", self.retry_backoff),
            ("sentinel_refresh_interval", self.sentinel_refresh_interval),
        ] {
            if !(Duration::from_millis(1)..=LONGEST).contains(&value) {
                return Err(Error::config(option, format!("{value:?}"), "it must be from 1 ms to 100 years"));
            }
        }
        if !(SMALLEST_MESSAGE..=LARGEST_MESSAGE).contains(&self.max_message_size) {
            return Err(Error::config("max_message_size", self.max_message_size, "it must be from 1 KiB to 512 MiB"));
        }
        if self.return_after > LONGEST {
            let value = format!("{:?}", self.return_after);
            return Err(Error::config("return_after", value, "it must be 100 years at the most"));
        }
        if self.random_prefix_length > LONGEST_RANDOM_PREFIX {
            return Err(Error::config("random_prefix_length", self.random_prefix_length, "it must be 1024 at most"));
        }
        self.capacities()?;
        self.key_ring()?;
        Ok(())
    }

    fn check_prefixes(&self) -> Result<()> {
        let stats_prefix = self.stats_key_prefix();
        for (option, value) in [("prefix", self.key_prefix()), ("stats_prefix", &stats_prefix)] {
            if value.is_empty() {
                return Err(Error::config(option, "\"\"", "it cannot be empty"));
            }
            if value.chars().any(|char| char.is_control() || matches!(char, '{' | '}')) {
                return Err(Error::config(option, value.escape_debug(), "it cannot have braces or control characters"));
            }
        }
        let keys = format!("{}:", self.key_prefix());
        if keys.starts_with(&stats_prefix) || stats_prefix.starts_with(&keys) {
            let reason = format!("its keys cannot be told from those of prefix = {}", self.key_prefix());
            return Err(Error::config("stats_prefix", stats_prefix, reason));
        }
        Ok(())
    }

    /// What keys begin with in most formats.
    pub(crate) fn key_prefix(&self) -> &str {
        self.prefix_or(DEFAULT_PREFIX)
    }

    /// What keys begin with in a format with another default.
    pub(crate) fn prefix_or<'c>(&'c self, default: &'c str) -> &'c str {
        self.prefix.as_deref().unwrap_or(default)
    }

    /// What keys of statistics begin with in most formats.
    pub(crate) fn stats_key_prefix(&self) -> String {
        self.stats_prefix_or(&format!("{}-meta:", self.key_prefix()))
    }

    /// What keys of statistics begin with in a format with another default.
    pub(crate) fn stats_prefix_or(&self, default: &str) -> String {
        self.stats_prefix.as_deref().unwrap_or(default).to_owned()
    }

    /// The capacities of all channels, compiled.
    pub(crate) fn capacities(&self) -> Result<Capacity> {
        Capacity::new(&self.channel_capacity, self.capacity)
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
}

/// Tells how many keys there are, and none of them.
struct Redacted(usize);

impl fmt::Debug for Redacted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} redacted]", self.0)
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("hosts", &self.host_list())
            .field("prefix", &self.key_prefix())
            .field("expiry", &self.expiry)
            .field("group_expiry", &self.group_expiry)
            .field("capacity", &self.capacity)
            .field("channel_capacity", &self.channel_capacity)
            .field("symmetric_encryption_keys", &Redacted(self.symmetric_encryption_keys.len()))
            .field("accept_only_keys", &Redacted(self.accept_only_keys.len()))
            .field("format", &self.format)
            .field("serializer", &self.serializer)
            .field("random_prefix_length", &self.random_prefix_length)
            .field("stats_prefix", &self.stats_key_prefix())
            .field("max_message_size", &self.max_message_size)
            .field("connect_timeout", &self.connect_timeout)
            .field("command_timeout", &self.command_timeout)
            .field("blocking_timeout", &self.blocking_timeout)
            .field("pool_size", &self.pool_size)
            .field("overflow", &self.overflow)
            .field("fallback", &self.fallback)
            .field("return_after", &self.return_after)
            .field("sharded_pubsub", &self.sharded_pubsub)
            .field("retry_attempts", &self.retry_attempts)
            .field("retry_backoff", &self.retry_backoff)
            .field("tcp_keepalive", &self.tcp_keepalive)
            .field("tls", &self.tls)
            .field("sentinels", &self.sentinels)
            .field("services", &self.services)
            .field("sentinel_refresh_interval", &self.sentinel_refresh_interval)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(config: &Config) -> String {
        config.validate().expect_err("it is refused").to_string()
    }

    #[test]
    fn the_defaults_are_valid() {
        Config::new().validate().expect("they are good");
        assert_eq!(Config::new().host_list(), ["redis://127.0.0.1:6379/0".into()]);
    }

    #[test]
    fn a_host_replaces_the_default_and_the_next_joins_it() {
        let config = Config::new().host("redis://a").host(("b", 1));
        assert_eq!(config.host_list(), [Host::from("redis://a"), Host::from("redis://b:1/0")]);
        config.validate().expect("they are good");
    }

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        let new = Config::new;
        let hosts = |urls: &[&str]| new().hosts(urls.iter().copied());
        let named =
            |one: &str, two: &str| new().host(Host::new("redis://a").name(one)).host(Host::new("redis://b").name(two));
        assert!(new().symmetric_encryption_keys(["k"]).fernet_keys().is_ok_and(|keys| keys.is_some()));
        for (config, fault) in vec![
            (hosts(&[]), "hosts = []"),
            (hosts(&["redis://a", "http://u:secret@b"]), "hosts[1] = http://b: the scheme must be"),
            (
                hosts(&["redis://a", "redis://:x@A:6379/0"]),
                "hosts[1] = redis://A:6379/0: another host has the same address",
            ),
            (named("x", "x"), "hosts[1] = x (redis://b): another host has the same name"),
            (named("x", ""), "hosts[1] =  (redis://b): a name cannot be empty"),
            (new().prefix(""), "prefix = \"\""),
            (new().prefix("a{b}"), "prefix = a{b}"),
            (new().prefix("a\n"), "prefix = a\\n"),
            (new().stats_prefix(""), "stats_prefix = \"\""),
            (new().prefix("shop").stats_prefix("shop:"), "stats_prefix = shop:"),
            (new().stats_prefix("asgi:stats"), "stats_prefix = asgi:stats"),
            (new().stats_prefix("as"), "stats_prefix = as: its keys cannot be told from those of prefix = asgi"),
            (new().expiry(Duration::ZERO), "expiry = 0ns"),
            (new().expiry(Duration::MAX), "expiry = "),
            (new().group_expiry(Duration::ZERO), "group_expiry = 0ns"),
            (new().connect_timeout(Duration::ZERO), "connect_timeout = 0ns"),
            (new().command_timeout(Duration::from_micros(999)), "command_timeout = 999µs"),
            (new().blocking_timeout(Duration::ZERO), "blocking_timeout = 0ns"),
            (new().capacity(0), "capacity = 0"),
            (new().channel_capacity(CapacityRule::glob("*", 0)), "channel_capacity = *: capacity 0"),
            (new().channel_capacity(CapacityRule::regex("(", 1)), "channel_capacity = (: "),
            (new().symmetric_encryption_keys(["secret", ""]), "symmetric_encryption_keys[1] = \"\""),
            (new().accept_only_keys(["secret"]), "symmetric_encryption_keys = []"),
            (new().max_message_size(1023), "max_message_size = 1023"),
            (new().max_message_size(usize::MAX), "max_message_size = "),
            (new().pool_size(0), "pool_size = 0"),
            (new().return_after(Duration::MAX), "return_after = "),
            (new().retry_backoff(Duration::ZERO), "retry_backoff = 0ns"),
            (new().tcp_keepalive(Duration::ZERO), "tcp_keepalive = 0ns: it must be from 1 s"),
            (new().sentinel_refresh_interval(Duration::ZERO), "sentinel_refresh_interval = 0ns"),
            (new().services(["a"]), "services = a: sentinels are needed"),
            (new().sentinel("redis://a").host("redis://b"), "hosts = ...: sentinels tell where"),
            (new().sentinel("redis://a/1"), "sentinels[0] = redis://a/1: a sentinel has no databases"),
            (new().sentinel("unix:///s"), "sentinels[0] = unix:///s: a sentinel is reached over TCP"),
            (new().sentinel("http://:secret@a"), "sentinels[0] = http://a: the scheme must be"),
            (new().sentinel("redis://a").services(["x", "x"]), "services[1] = x: it is given twice"),
            (new().sentinel("redis://a").services(["x", " "]), "services[1] =  : a name cannot be empty"),
            (new().host("rediss://a").tls_cert_file("/c"), "tls_cert_file = /c: its key is missing"),
            (new().host("rediss://a").tls_key_file("/k"), "tls_key_file = /k: its certificate is missing"),
            (new().tls_ca_file("/ca"), "tls_ca_file = /ca: no server is reached over TLS"),
            (new().sentinel("redis://a").tls_ca_file("/ca"), "tls_ca_file = /ca: no server is reached over TLS"),
            (new().random_prefix_length(1025), "random_prefix_length = 1025: it must be 1024 at most"),
        ] {
            let error = refusal(&config);
            assert!(error.contains(fault) && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let config = Config::new()
            .host("redis://user:secret@a")
            .symmetric_encryption_keys(["secret one"])
            .accept_only_keys(["secret two", "secret three"])
            .sentinel("redis://user:secret@b")
            .service_username("user")
            .service_password("secret");
        let shown = format!("{config:?}");
        assert!(!shown.contains("secret") && !shown.contains("user"), "{shown}");
        assert!(shown.contains("[2 redacted]") && shown.contains("redis://a"), "{shown}");
    }

    #[test]
    fn encryption_is_on_when_there_are_keys() {
        assert!(Config::new().key_ring().expect("no keys are good").is_none());
        assert!(Config::new().symmetric_encryption_keys(["secret"]).key_ring().expect("the key is good").is_some());
    }
}
