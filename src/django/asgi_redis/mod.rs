//! The format of `asgi_redis`: a list of keys for each channel, and under each key a message.
//!
//! It implements the traits of [`StoredLayer`](crate::redis::StoredLayer), so that Rust and Python processes exchange
//! messages and groups in Redis. Redis removes a message when its key expires.

mod read;
mod statistics;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use redis::Cmd;

use super::format::{Base, PythonFormat};
use super::script;
use crate::codec::serializer::Serializer;
use crate::config::{self, Config};
use crate::error::Result;
use crate::message::Message;
use crate::name::ChannelName;
use crate::redis::node::clock::milliseconds;
use crate::redis::node::commands::script::Script;
use crate::redis::node::shard::Shard;
use crate::redis::send::{Batch, OutboundMessage};
use crate::redis::stored::format::StoredFormat;
use crate::redis::stored::layer::StoredLayer;
use crate::redis::stored::scan::Scan;
use crate::redis::topology::places::Places;

/// The name under which the counters of all channels are stored, in the place of a channel's name.
const GLOBAL: &str = "#global#";
const MESSAGES: &str = ":messages_count";
const REFUSALS: &str = ":channel_full_count";
/// How long the counters of a channel, and those of all channels, outlive the last change.
const CHANNEL_STATS_LIVE: Duration = Duration::from_hours(1);
const GLOBAL_STATS_LIVE: Duration = Duration::from_hours(24);

/// A channel layer that shares its channels and groups with Django sites on Channels 1.x and `asgi_redis` 1.x, and with
/// their interface servers.
///
/// Give it the same hosts, in the same order, and the same prefixes, expiries and keys as the site. The prefix defaults
/// to `asgi:` here, as in Python. Redis has to have version 6.0 or later.
///
/// A group send sends one message to each member. A process with more members than its capacity therefore misses some
/// of them.
///
/// ```no_run
/// use channel_layer::django::AsgiRedisLayer;
/// use channel_layer::{ChannelLayer, Config};
///
/// # async fn example() -> channel_layer::Result<()> {
/// let layer = AsgiRedisLayer::connect(Config::new().host("redis://127.0.0.1:6379/0")).await?;
/// let delivery = layer.receive(&["websocket.receive"]).await?;
/// # Ok(())
/// # }
/// ```
pub type AsgiRedisLayer = StoredLayer<AsgiRedis>;

/// The format of `asgi_redis`, as the parameter of a [`StoredLayer`].
#[derive(Debug)]
pub struct AsgiRedis {
    base: Base,
    stats_prefix: String,
}

impl PythonFormat for AsgiRedis {
    const FORMAT: config::Format = config::Format::AsgiRedis;
    const SCRIPTS: &'static [&'static Script] = &script::ASGI_REDIS;

    fn new(config: &Config, places: &Arc<Places>) -> Result<Self> {
        let base = Base::new(config, places, Serializer::MessagePack, 0)?;
        Ok(Self { base, stats_prefix: config.stats_key_prefix() })
    }

    fn base(&self) -> &Base {
        &self.base
    }

    /// Python matches the part of the name up to the `!`.
    fn capacity_of(&self, channel: &ChannelName) -> usize {
        self.base.capacity.of(channel)
    }

    fn push(&self, batch: &Batch<Bytes>, now: Duration) -> Cmd {
        let mut keys = vec![self.counter(GLOBAL, MESSAGES), self.counter(GLOBAL, REFUSALS)];
        for (run, name) in batch.runs().iter().zip(batch.names()) {
            keys.extend([self.base.keys.channel(name), self.counter(name, MESSAGES), self.counter(name, REFUSALS)]);
            keys.extend(run.iter().map(|_| self.new_key()));
        }
        let mut command = script::LIST_SEND.call(&keys);
        command.arg(milliseconds(self.base.payload.expiry));
        command.arg(CHANNEL_STATS_LIVE.as_secs()).arg(GLOBAL_STATS_LIVE.as_secs());
        for run in batch.runs() {
            command.arg(run[0].capacity).arg(i32::from(run[0].is_final)).arg(run.len());
            for message in run {
                command.arg(self.base.payload.wrap(&message.body, now));
            }
        }
        command
    }

    /// A message for each member, as Python sends it.
    fn messages_to(&self, message: &Message, destinations: &[ChannelName]) -> Result<Vec<OutboundMessage<Bytes>>> {
        destinations.iter().map(|member| self.message(member.clone(), message)).collect()
    }

    fn scans<'s>(&'s self, shard: &'s Shard) -> Vec<Scan<'s>> {
        let keys = &self.base.keys;
        vec![
            self.channels(shard),
            Scan::of_kind(shard, "string", &keys.prefix, |key| self.is_message(key)),
            Scan::of_kind(shard, "zset", &keys.prefix, |key| keys.is_group(key)),
            Scan::of_kind(shard, "string", &self.stats_prefix, |key| self.is_counter(key)),
        ]
    }
}

impl AsgiRedis {
    /// A new unique key for one message.
    fn new_key(&self) -> String {
        format!("{}{:032x}", self.base.keys.prefix, rand::random::<u128>())
    }

    fn counter(&self, name: &str, what: &str) -> String {
        format!("{}{name}{what}", self.stats_prefix)
    }

    fn is_message(&self, key: &str) -> bool {
        let id = key.strip_prefix(&self.base.keys.prefix);
        id.is_some_and(|id| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()))
    }

    fn is_counter(&self, key: &str) -> bool {
        let name = key.strip_prefix(&self.stats_prefix);
        let name = name.and_then(|name| name.strip_suffix(MESSAGES).or_else(|| name.strip_suffix(REFUSALS)));
        name.is_some_and(|name| name == GLOBAL || ChannelName::parse(name).is_ok())
    }

    /// A scan for the lists of the channels.
    fn channels<'s>(&'s self, shard: &'s Shard) -> Scan<'s> {
        let keys = &self.base.keys;
        Scan::of_kind(shard, "list", &keys.prefix, |key| keys.parse_channel(key).is_some())
    }
}
