//! The table of options: each option is declared here once. Parsing of files and variables, validation, `Debug`,
//! `doctor` and the reference documentation use it.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::options::{Config, DEFAULT_CAPACITY};
use super::slot::Slot;
use crate::capacity::CAPACITIES;

/// The longest lifetime. Added to the current time, in milliseconds, it stays exact in the floats of Lua.
pub(crate) const CENTURY: Duration = Duration::from_hours(100 * 366 * 24);
const LIFETIMES: RangeInclusive<Duration> = Duration::from_millis(1)..=CENTURY;
/// The kernel stores connection timeouts as a signed 32-bit number of milliseconds (24 days).
const TIMEOUTS: RangeInclusive<Duration> = Duration::from_millis(10)..=DAY;
const PAUSES: RangeInclusive<Duration> = Duration::from_millis(1)..=DAY;
pub(crate) const DAY: Duration = Duration::from_hours(24);
/// The backoff doubles up to 10 s, so a longer first pause makes no sense.
const BACKOFFS: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(10);
/// The range of `TCP_KEEPIDLE` in Linux.
const KEEPALIVES: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(32_767);
const QUEUE_SIZES: RangeInclusive<usize> = 1 << 10..=1 << 31;
/// Redis limits a string to 512 MiB. Encryption enlarges a message by up to a third, and every format adds some bytes.
const MESSAGE_SIZES: RangeInclusive<usize> = 1 << 10..=256 << 20;
/// A client address can open at most 65,535 connections to a server. A pool allocates memory for all its connections
/// when it is created.
const POOL_SIZES: RangeInclusive<usize> = 1..=65_535;

/// The declaration of one option.
pub(crate) struct Row {
    /// The name in files. `CHANNEL_LAYER_` followed by the name in capitals is the name of the variable.
    pub(crate) name: &'static str,
    /// The field that holds the value, with its type and range.
    pub(crate) slot: for<'c> fn(&'c mut Config) -> Slot<'c>,
    /// The description, one or two sentences.
    pub(crate) summary: &'static str,
    /// The default in words, if the value in a new configuration is not the effective default.
    pub(crate) default: Option<&'static str>,
    /// Further names in files: those of Python's layers.
    pub(crate) aliases: &'static [&'static str],
    /// Further variables: those of other deployments.
    pub(crate) variables: &'static [&'static str],
}

const fn row(name: &'static str, slot: for<'c> fn(&'c mut Config) -> Slot<'c>) -> Row {
    Row { name, slot, summary: "", default: None, aliases: &[], variables: &[] }
}

impl Row {
    const fn about(self, summary: &'static str) -> Self {
        Self { summary, ..self }
    }

    const fn defaults_to(self, default: &'static str) -> Self {
        Self { default: Some(default), ..self }
    }

    const fn aliases(self, aliases: &'static [&'static str]) -> Self {
        Self { aliases, ..self }
    }

    const fn variables(self, variables: &'static [&'static str]) -> Self {
        Self { variables, ..self }
    }

    /// Returns the option with this name or alias.
    pub(crate) fn named(name: &str) -> Option<&'static Self> {
        OPTIONS.iter().find(|row| row.name == name || row.aliases.contains(&name))
    }

    /// The name of the environment variable.
    pub(crate) fn variable(&self) -> String {
        format!("CHANNEL_LAYER_{}", self.name.to_ascii_uppercase())
    }
}

/// All options, in the order of the reference.
pub(crate) const OPTIONS: &[Row] = &[
    row("hosts", |c| Slot::Hosts(&mut c.hosts))
        .about("The Redis servers. Channels and groups are distributed over them.")
        .defaults_to("`redis://127.0.0.1:6379/0`"),
    row("cluster", |c| Slot::Truth(&mut c.cluster))
        .about("Whether `hosts` are nodes of a Redis Cluster. They lead to its other nodes. Needs format `native` or `pubsub`."),
    row("prefix", |c| Slot::Text(&mut c.prefix))
        .about("Prefix of all keys in Redis. Layers with different prefixes do not see each other.")
        .defaults_to("`asgi`; `asgi:` with format `asgi_redis`")
        .variables(&["REDIS_CHANNEL_PREFIX"]),
    row("format", |c| Slot::Word(&mut c.format))
        .about("Format of messages and groups in Redis, for `connect` and the program."),
    row("expiry", |c| Slot::Time(&mut c.expiry, LIFETIMES)).about("How long a message waits to be read before it expires."),
    row("group_expiry", |c| Slot::Time(&mut c.group_expiry, LIFETIMES))
        .about("How long a group membership lasts after `group_add`."),
    row("capacity", |c| Slot::Count(c.capacity.get_or_insert(DEFAULT_CAPACITY), CAPACITIES, "unread messages"))
        .about("Number of unread messages that a channel holds. Messages that a `Receiver` has prefetched do not count.")
        .defaults_to("100; 10000 for a `PubSubLayer`"),
    row("channel_capacity", |c| Slot::Rules(&mut c.channel_capacity))
        .about("Capacities by channel name. The first matching pattern decides."),
    row("spread", |c| Slot::Spread(&mut c.spread))
        .about(
            "Over how many lists of a cluster normal channels are spread, by channel name. The first matching pattern decides. Needs \
             `cluster`. All processes need the same value.",
        )
        .defaults_to("none: one list"),
    row("symmetric_encryption_keys", |c| Slot::Keys(&mut c.symmetric_encryption_keys))
        .about("Encryption keys: the first key encrypts, and all keys decrypt.")
        .defaults_to("none: no encryption"),
    row("accept_only_keys", |c| Slot::Keys(&mut c.accept_only_keys))
        .about("Keys that only decrypt, for key rotation."),
    row("serializer", |c| Slot::Word(&mut c.serializer))
        .about("Encoding of messages in the formats of Python's `channels_redis`.")
        .aliases(&["serializer_format"]),
    row("random_prefix_length", |c| Slot::Count(&mut c.random_prefix_length, 0..=1024, "bytes"))
        .about("Number of random bytes before each message in the format `channels_redis`."),
    row("stats_prefix", |c| Slot::Text(&mut c.stats_prefix))
        .about("Prefix of the statistics keys in Redis.")
        .defaults_to("`prefix` followed by `-meta:`; `asgi-meta:` with format `asgi_redis`"),
    row("max_message_size", |c| Slot::Count(&mut c.max_message_size, MESSAGE_SIZES, "bytes"))
        .about("Size limit of an encoded message. A larger message is refused."),
    row("connect_timeout", |c| Slot::Time(&mut c.connect_timeout, TIMEOUTS))
        .about("Time limit for connecting to a server.")
        .variables(&["REDIS_SOCKET_TIMEOUT"]),
    row("command_timeout", |c| Slot::Time(&mut c.command_timeout, TIMEOUTS))
        .about("Time limit for the reply of a server to a command.")
        .variables(&["REDIS_SOCKET_TIMEOUT"]),
    row("blocking_timeout", |c| Slot::Time(&mut c.blocking_timeout, PAUSES))
        .about("How long one blocking read waits in Redis before it is repeated."),
    row("pool_size", |c| Slot::Count(&mut c.pool_size, POOL_SIZES, "connections"))
        .about("Number of connections for blocking reads, per server.")
        .variables(&["REDIS_POOL_SIZE"]),
    row("retry_attempts", |c| Slot::Count(&mut c.retry_attempts, 0..=u32::MAX as usize, "attempts"))
        .about("Number of retries of a command that cannot have run. Layers with pub/sub or a fallback do not retry.")
        .variables(&["REDIS_RETRY_ATTEMPTS"]),
    row("retry_backoff", |c| Slot::Time(&mut c.retry_backoff, BACKOFFS))
        .about("Delay before the first retry of a command or a connection. It doubles with each retry, up to 10 s, with jitter."),
    row("tcp_keepalive", |c| Slot::Time(&mut c.tcp_keepalive, KEEPALIVES))
        .about("How long a connection is idle before the kernel probes it."),
    row("overflow", |c| Slot::Word(&mut c.overflow))
        .about("Message that a `PubSubLayer` drops when the queue of a channel is full."),
    row("max_queue_size", |c| Slot::Count(&mut c.max_queue_size, QUEUE_SIZES, "bytes"))
        .about("Memory limit for the unread messages of a channel of a `PubSubLayer`. One message always fits."),
    row("fallback", |c| Slot::Word(&mut c.fallback))
        .about("Behaviour of calls while their server is unreachable: they fail, or they work within this process.")
        .defaults_to("`fail`; `local` with format `pubsub`"),
    row("return_after", |c| Slot::Time(&mut c.return_after, Duration::ZERO..=CENTURY))
        .about("How long a server must answer again after an outage before messages are sent to it."),
    row("sharded_pubsub", |c| Slot::Truth(&mut c.sharded_pubsub))
        .about(
            "Whether a `PubSubLayer` publishes with `SPUBLISH`. It needs Redis 7.0, and Python's layers do not support it. In a \
             cluster each message then goes to one master.",
        ),
    row("tls_ca_file", |c| Slot::Path(&mut c.tls.ca))
        .about("PEM file with the certificates of the authorities that sign the servers' certificates.")
        .defaults_to("none: the public authorities of Mozilla's list"),
    row("tls_cert_file", |c| Slot::Path(&mut c.tls.cert)).about("PEM file with the client certificate."),
    row("tls_key_file", |c| Slot::Path(&mut c.tls.key)).about("PEM file with the private key of `tls_cert_file`."),
    row("sentinels", |c| Slot::Sentinels(&mut c.sentinels))
        .about("Sentinels, which know the addresses of the masters. They replace `hosts`. Their default port is 26379."),
    row("services", |c| Slot::Names(&mut c.services))
        .about("Names of the masters to use.")
        .defaults_to("all that the sentinels know"),
    row("service_username", |c| Slot::Secret(&mut c.service_login.username)).about("User for the masters."),
    row("service_password", |c| Slot::Secret(&mut c.service_login.password)).about("Password for the masters."),
    row("service_db", |c| Slot::Database(&mut c.service_login.db)).about("Database number on the masters."),
    row("service_tls", |c| Slot::Truth(&mut c.service_login.tls)).about("Whether connections to the masters use TLS."),
    row("sentinel_refresh_interval", |c| Slot::Time(&mut c.sentinel_refresh_interval, PAUSES))
        .about("How often the sentinels are asked whether each master is still the master."),
];
