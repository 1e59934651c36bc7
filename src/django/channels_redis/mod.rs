//! The format of `channels_redis`: a sorted set for each channel, scored by time.
//!
//! It implements the traits of [`StoredLayer`](crate::redis::StoredLayer), so that Rust and Python processes exchange
//! messages and groups in Redis. A reader decides by the score of a message whether it has expired.

mod read;
mod statistics;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use redis::Cmd;
use tracing::warn;

use super::format::{Base, PythonFormat};
use super::script;
use crate::config::{self, Config};
use crate::error::Result;
use crate::message::{Message, Value as Routed};
use crate::name::{ChannelKind, ChannelName, InvalidName};
use crate::redis::node::clock::milliseconds;
use crate::redis::node::commands::script::Script;
use crate::redis::node::shard::Shard;
use crate::redis::send::{Batch, OutboundMessage};
use crate::redis::stored::layer::StoredLayer;
use crate::redis::stored::scan::Scan;
use crate::redis::topology::places::Places;

/// The longest prefix of a new channel. With a dot, the `!` and twice 32 digits the name has 99 bytes, and Python
/// accepts no longer names.
const LONGEST_LOCAL_PREFIX: usize = 33;

/// A channel layer that shares its channels and groups with Django sites on `channels_redis` 3.0 to 4.x
/// (`channels_redis.core.RedisChannelLayer`).
///
/// Give it the same hosts, in the same order, and the same prefix, expiries, keys and serializer as the site. Redis has
/// to have version 6.0 or later.
///
/// - `new_channel("specific")`, without a `?`, returns a channel that Python can send to, read as its part up to the
///   `!`. Names with a `?` work between Rust programs; Python refuses them.
/// - A consumer of Django dispatches on the text `type`; the first message without one is logged as a warning.
/// - The format has no counters: statistics show only the messages that wait.
///
/// ```no_run
/// use channel_layer::django::ChannelsRedisLayer;
/// use channel_layer::{ChannelLayer, Config, message};
///
/// # async fn example() -> channel_layer::Result<()> {
/// let layer = ChannelsRedisLayer::connect(Config::new().host("redis://127.0.0.1:6379/0")).await?;
/// layer.group_send("chat", message! { "type": "chat.message", "text": "hi" }).await?;
/// # Ok(())
/// # }
/// ```
pub type ChannelsRedisLayer = StoredLayer<ChannelsRedis>;

/// The format of `channels_redis`, as the parameter of a [`StoredLayer`].
#[derive(Debug)]
pub struct ChannelsRedis {
    base: Base,
    /// This layer's part of the names of its channels.
    client: String,
    /// Whether a message without a type was sent, which is logged once.
    warned: AtomicBool,
}

fn hexadecimal() -> String {
    format!("{:032x}", rand::random::<u128>())
}

impl PythonFormat for ChannelsRedis {
    const FORMAT: config::Format = config::Format::ChannelsRedis;
    const SCRIPTS: &'static [&'static Script] = &script::CHANNELS_REDIS;

    fn new(config: &Config, places: &Arc<Places>) -> Result<Self> {
        let base = Base::new(config, places, config.serializer, config.random_prefix_length)?;
        Ok(Self { base, client: hexadecimal(), warned: AtomicBool::new(false) })
    }

    fn base(&self) -> &Base {
        &self.base
    }

    /// Python matches the whole name.
    fn capacity_of(&self, channel: &ChannelName) -> usize {
        self.base.capacity.of_name(channel.as_str())
    }

    /// Warns once of messages without a type, at which consumers of Django Channels fail.
    fn inspect(&self, message: &Message, channel: Option<&ChannelName>) {
        // Python cannot read a channel with a `?` in its name.
        let is_read_by_python = channel.is_none_or(|channel| channel.kind() != ChannelKind::SingleReader);
        if is_read_by_python && message.text("type").is_none() && !self.warned.swap(true, Ordering::Relaxed) {
            warn!("a message without a text as its type was sent; consumers of Django Channels fail at such messages");
        }
    }

    fn push(&self, batch: &Batch<Bytes>, now: Duration) -> Cmd {
        let keys: Vec<_> = batch.names().map(|name| self.base.keys.channel(name)).collect();
        let mut command = script::ZSET_SEND.call(&keys);
        command.arg(milliseconds(self.base.payload.expiry));
        for run in batch.runs() {
            command.arg(run[0].capacity).arg(run.len());
            for message in run {
                command.arg(self.base.payload.wrap(&message.body, now));
            }
        }
        command
    }

    /// One message for all members of a process, as Python sends it.
    fn messages_to(&self, message: &Message, destinations: &[ChannelName]) -> Result<Vec<OutboundMessage<Bytes>>> {
        let mut places = HashMap::new();
        let mut keys: Vec<Vec<&ChannelName>> = Vec::new();
        for member in destinations {
            let place = *places.entry(member.non_local()).or_insert(keys.len());
            match keys.get_mut(place) {
                Some(members) => members.push(member),
                None => keys.push(vec![member]),
            }
        }
        let message = |members: Vec<&ChannelName>| {
            let routing = Routed::list(members.iter().map(|member| member.as_str()));
            let body = self.base.payload.encode(message, Some(&routing))?;
            let capacity = self.base.capacity.of_name(members[0].as_str());
            Ok(OutboundMessage { channel: members[0].clone(), capacity, body, pinned: true })
        };
        keys.into_iter().map(message).collect()
    }

    fn new_local_channel(&self, prefix: &str) -> Option<Result<ChannelName>> {
        Some(self.local_channel(prefix))
    }

    fn scans<'s>(&'s self, shard: &'s Shard) -> Vec<Scan<'s>> {
        let keys = &self.base.keys;
        let is_ours = |key: &str| {
            // Python's reader keeps the messages that it is about to hand over under this suffix.
            let key = key.strip_suffix("$inflight").unwrap_or(key);
            keys.parse_channel(key).is_some() || keys.is_group(key)
        };
        vec![Scan::of_kind(shard, "zset", &keys.prefix, is_ours)]
    }
}

impl ChannelsRedis {
    fn local_channel(&self, prefix: &str) -> Result<ChannelName> {
        ChannelName::parse(prefix)?;
        if prefix.len() > LONGEST_LOCAL_PREFIX {
            let reason = "what is added to it makes it too long for Python";
            return Err(InvalidName::new("channel", prefix, reason).into());
        }
        let process = format!("{prefix}.{}!", self.client);
        // Python hashes the full name of a channel that it sends to, and the part up to the `!` of one that it reads.
        // So both have to lie on the same server, which holds for one of a few names.
        let home = self.base.places.home(&process).index;
        let mut name = process + &hexadecimal();
        while self.base.places.home(&name).index != home {
            name.truncate(name.len() - 32);
            name.push_str(&hexadecimal());
        }
        Ok(ChannelName::parse_target(&name)?)
    }
}
