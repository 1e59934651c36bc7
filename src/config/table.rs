//! The table of options: each option is declared here once. Files, the environment, validation, `Debug`, `doctor` and the
//! reference follow from it.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::options::{Config, DEFAULT_CAPACITY};
use super::slot::Slot;
use crate::capacity::CAPACITIES;

/// The longest lifetime. In milliseconds since the epoch it stays exact in the floats of Lua.
pub(crate) const CENTURY: Duration = Duration::from_hours(100 * 366 * 24);
const LIFETIMES: RangeInclusive<Duration> = Duration::from_millis(1)..=CENTURY;
/// The kernel takes the timeout of a connection in milliseconds, as a signed 32-bit integer (24 days).
const TIMEOUTS: RangeInclusive<Duration> = Duration::from_millis(10)..=DAY;
const PAUSES: RangeInclusive<Duration> = Duration::from_millis(1)..=DAY;
pub(crate) const DAY: Duration = Duration::from_hours(24);
/// Later pauses are 10 s at most.
const BACKOFFS: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(10);
/// The range of `TCP_KEEPIDLE` in Linux.
const KEEPALIVES: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(32_767);
/// Redis takes strings of up to 512 MiB. Encryption makes a third more of a message, and every format adds some bytes.
const QUEUE_SIZES: RangeInclusive<usize> = 1 << 10..=1 << 31;
const MESSAGE_SIZES: RangeInclusive<usize> = 1 << 10..=256 << 20;
/// One address can open 65,535 connections to a server. A pool takes memory for all its connections when it is made.
const POOL_SIZES: RangeInclusive<usize> = 1..=65_535;

/// One option.
pub(crate) struct Row {
    /// Its name in files; in capitals behind `CHANNEL_LAYER_` it is the name of its variable.
    pub(crate) name: &'static str,
    /// The field that holds it, and the values that it takes.
    pub(crate) slot: for<'c> fn(&'c mut Config) -> Slot<'c>,
    /// What it is for, in one sentence.
    pub(crate) summary: &'static str,
    /// The default in words, where the value in a new configuration does not tell it.
    pub(crate) default: Option<&'static str>,
    /// Further names in files, which Python's layers have for it.
    pub(crate) aliases: &'static [&'static str],
    /// Further variables, which deployments of other programs have for it.
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

    /// The option with this name or alias.
    pub(crate) fn named(name: &str) -> Option<&'static Self> {
        OPTIONS.iter().find(|row| row.name == name || row.aliases.contains(&name))
    }

    /// The name of its variable.
    pub(crate) fn variable(&self) -> String {
        format!("CHANNEL_LAYER_{}", self.name.to_ascii_uppercase())
    }
}

/// All options, in the order in which people read them.
pub(crate) const OPTIONS: &[Row] = &[
    row("hosts", |c| Slot::Hosts(&mut c.hosts))
        .about("The Redis servers, over which channels and groups are spread.")
        .defaults_to("`redis://127.0.0.1:6379/0`"),
    row("prefix", |c| Slot::Text(&mut c.prefix))
        .about("The beginning of all keys in Redis; layers with different prefixes do not see each other.")
        .defaults_to("`asgi`, for `asgi_redis` `asgi:`")
        .variables(&["REDIS_CHANNEL_PREFIX"]),
    row("format", |c| Slot::Word(&mut c.format))
        .about("How messages are stored in Redis, for `connect` and the program."),
    row("expiry", |c| Slot::Time(&mut c.expiry, LIFETIMES)).about("How long a message waits to be read."),
    row("group_expiry", |c| Slot::Time(&mut c.group_expiry, LIFETIMES))
        .about("How long a membership lasts after `group_add`."),
    row("capacity", |c| Slot::Count(c.capacity.get_or_insert(DEFAULT_CAPACITY), CAPACITIES, "unread messages"))
        .about("How many unread messages a channel holds; what a `Receiver` has taken ahead does not count.")
        .defaults_to("100, for a `PubSubLayer` 10000"),
    row("channel_capacity", |c| Slot::Rules(&mut c.channel_capacity))
        .about("Capacities by the name of the channel; the first pattern that matches decides."),
    row("symmetric_encryption_keys", |c| Slot::Keys(&mut c.symmetric_encryption_keys))
        .about("Keys that encrypt messages: the first one seals, and all of them open.")
        .defaults_to("none: no encryption"),
    row("accept_only_keys", |c| Slot::Keys(&mut c.accept_only_keys))
        .about("Keys that open messages and never seal, for a change of keys."),
    row("serializer", |c| Slot::Word(&mut c.serializer))
        .about("How messages become bytes in the formats of Python's `channels_redis`.")
        .aliases(&["serializer_format"]),
    row("random_prefix_length", |c| Slot::Count(&mut c.random_prefix_length, 0..=1024, "bytes"))
        .about("Random bytes before each message in the format `channels_redis`."),
    row("stats_prefix", |c| Slot::Text(&mut c.stats_prefix))
        .about("The beginning of all keys of statistics in Redis.")
        .defaults_to("the prefix and `-meta:`, for `asgi_redis` `asgi-meta:`"),
    row("max_message_size", |c| Slot::Count(&mut c.max_message_size, MESSAGE_SIZES, "bytes"))
        .about("The size of the largest encoded message."),
    row("connect_timeout", |c| Slot::Time(&mut c.connect_timeout, TIMEOUTS))
        .about("How long connecting to a server may take.")
        .variables(&["REDIS_SOCKET_TIMEOUT"]),
    row("command_timeout", |c| Slot::Time(&mut c.command_timeout, TIMEOUTS))
        .about("How long a server may take to answer a command.")
        .variables(&["REDIS_SOCKET_TIMEOUT"]),
    row("blocking_timeout", |c| Slot::Time(&mut c.blocking_timeout, PAUSES))
        .about("How long one blocking read waits before it is repeated."),
    row("pool_size", |c| Slot::Count(&mut c.pool_size, POOL_SIZES, "connections"))
        .about("Connections for blocking reads, on each server.")
        .variables(&["REDIS_POOL_SIZE"]),
    row("retry_attempts", |c| Slot::Count(&mut c.retry_attempts, 0..=u32::MAX as usize, "attempts"))
        .about("How often a command that cannot have run is repeated; layers that publish or fall back do not repeat.")
        .variables(&["REDIS_RETRY_ATTEMPTS"]),
    row("retry_backoff", |c| Slot::Time(&mut c.retry_backoff, BACKOFFS))
        .about("The pause before a command or a connection is tried again; it doubles up to 10 s, with jitter."),
    row("tcp_keepalive", |c| Slot::Time(&mut c.tcp_keepalive, KEEPALIVES))
        .about("How long a connection is silent before the kernel probes it."),
    row("overflow", |c| Slot::Word(&mut c.overflow))
        .about("Which message a `PubSubLayer` drops when the queue of a reader is full."),
    row("max_queue_size", |c| Slot::Count(&mut c.max_queue_size, QUEUE_SIZES, "bytes"))
        .about("Memory that the unread messages of a channel of a `PubSubLayer` take; one message always fits."),
    row("fallback", |c| Slot::Word(&mut c.fallback))
        .about("What calls do while their server is unreachable: they fail, or they reach the members in this process.")
        .defaults_to("`local` for the format `pubsub`, else `fail`"),
    row("return_after", |c| Slot::Time(&mut c.return_after, Duration::ZERO..=CENTURY))
        .about("How long a server has to answer again before messages go to it."),
    row("sharded_pubsub", |c| Slot::Truth(&mut c.sharded_pubsub))
        .about("Whether a `PubSubLayer` uses `SPUBLISH`, which needs Redis 7.0 and is unknown to Python."),
    row("tls_ca_file", |c| Slot::Path(&mut c.tls.ca))
        .about("Certificates, in PEM, of the authorities that sign the servers' certificates.")
        .defaults_to("none: Mozilla's list of public authorities"),
    row("tls_cert_file", |c| Slot::Path(&mut c.tls.cert)).about("The certificate, in PEM, that this client presents."),
    row("tls_key_file", |c| Slot::Path(&mut c.tls.key)).about("The private key, in PEM, of `tls_cert_file`."),
    row("sentinels", |c| Slot::Sentinels(&mut c.sentinels))
        .about("Sentinels, which know where the servers are; they replace `hosts`. Their default port is 26379."),
    row("services", |c| Slot::Names(&mut c.services))
        .about("Names of masters that the sentinels know.")
        .defaults_to("all that the sentinels know"),
    row("service_username", |c| Slot::Secret(&mut c.service_login.username)).about("The user for the masters."),
    row("service_password", |c| Slot::Secret(&mut c.service_login.password)).about("The password for the masters."),
    row("service_db", |c| Slot::Database(&mut c.service_login.db)).about("The database of the masters."),
    row("service_tls", |c| Slot::Truth(&mut c.service_login.tls)).about("Whether connections to the masters use TLS."),
    row("sentinel_refresh_interval", |c| Slot::Time(&mut c.sentinel_refresh_interval, PAUSES))
        .about("How often the sentinels are asked whether a master is still the master."),
];
