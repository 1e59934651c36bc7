//! `PythonFormat`: the common part of the formats of Python, and the trait that each of them implements.

use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::FutureExt;
use redis::{Cmd, Value};

use super::OLDEST_SERVER;
use super::garbage::Garbage;
use super::groups::Groups;
use super::keys::{self, Keys};
use super::payload::{Payload, undecodable};
use crate::capacity::Capacity;
use crate::codec::serializer::Serializer;
use crate::config::{self, Config};
use crate::error::Result;
use crate::message::{Message, Value as Routed};
use crate::name::{ChannelName, GroupName};
use crate::redis::entry::Entry;
use crate::redis::node::commands::asking::Node;
use crate::redis::node::commands::script::Script;
use crate::redis::node::connection::Version;
use crate::redis::node::fault::Fault;
use crate::redis::node::shard::Shard;
use crate::redis::receive::{
    BufferedEntry, EntryFormat, Popped, Raw, ReadFormat, RecipientResolver, Undeliverable, Unreadable,
};
use crate::redis::send::{Batch, OutboundMessage, Pushed, WriteFormat};
use crate::redis::stored::format::{Background, Started, StoredFormat, StoredStatistics};
use crate::redis::stored::scan::Scan;
use crate::redis::topology::places::Places;
use crate::redis::topology::ring::Ring;

/// A format of Python. Each is a [`StoredFormat`].
pub(super) trait PythonFormat: PythonRead + StoredStatistics {
    const FORMAT: config::Format;
    const SCRIPTS: &'static [&'static Script];

    /// Makes the format for a layer that has just connected.
    fn new(config: &Config, places: &Arc<Places>) -> Result<Self>;

    fn base(&self) -> &Base;

    /// The capacity of `channel`.
    fn capacity_of(&self, channel: &ChannelName) -> usize;

    /// Called for every message to a channel, and for every message to a group with `None`.
    fn inspect(&self, _: &Message, _: Option<&ChannelName>) {}

    /// The command that adds the messages of `batch` to their channels at the time `now` of the server.
    fn push(&self, batch: &Batch<Bytes>, now: Duration) -> Cmd;

    /// The messages that carry a group message to its destinations.
    fn messages_to(&self, message: &Message, destinations: &[ChannelName]) -> Result<Vec<OutboundMessage<Bytes>>>;

    /// As [`StoredFormat::new_local_channel`].
    fn new_local_channel(&self, _: &str) -> Option<Result<ChannelName>> {
        None
    }

    /// As [`StoredFormat::scans`].
    fn scans<'s>(&'s self, shard: &'s Shard) -> Vec<Scan<'s>>;
}

/// How a format of Python reads. The methods are those of [`ReadFormat`].
pub(super) trait PythonRead: Send + Sync + Sized + 'static {
    /// The command that waits for a message under one of several keys and takes it.
    const WAIT: &'static str;

    fn take(&self, keys: &[&str], count: usize) -> Cmd;

    fn takes_first(&self, count: usize) -> bool;

    fn popped(&self, shard: &Shard, answer: Value) -> impl Future<Output = Result<Option<Popped>, Fault>> + Send;

    /// The message that was taken from `source`, with its destinations.
    fn buffered(&self, shard: &Arc<Shard>, source: &ChannelName, raw: Raw) -> Result<BufferedEntry, Unreadable>;

    fn put_back(&self, key: &str, entries: &[BufferedEntry]) -> Cmd;
}

/// The fields that every format of Python has.
#[derive(Debug)]
pub(super) struct Base {
    pub(super) places: Arc<Places>,
    pub(super) keys: Keys,
    pub(super) groups: Groups,
    pub(super) payload: Payload,
    pub(super) capacity: Capacity,
    garbage: Garbage,
}

impl Base {
    /// The base of a format that encodes with `serializer` and writes `random_prefix` random bytes before each message.
    pub(super) fn new(
        config: &Config,
        places: &Arc<Places>,
        serializer: Serializer,
        random_prefix: usize,
    ) -> Result<Self> {
        let keys = Keys { prefix: config.key_prefix().to_owned() };
        Ok(Self {
            places: places.clone(),
            groups: Groups { places: places.clone(), keys: keys.clone(), expiry: config.group_expiry },
            keys,
            payload: Payload {
                serializer,
                keys: config.fernet_keys()?,
                random_prefix,
                expiry: config.expiry,
                max_message_size: config.max_message_size,
            },
            capacity: config.capacities()?,
            garbage: Garbage::default(),
        })
    }
}

/// The time of a server since the epoch.
pub(super) fn now_of(shard: &Shard) -> Duration {
    // A connection reads the time of its server before any message.
    Duration::from_millis(shard.clock.now_ms().unwrap_or(0))
}

impl<F: PythonFormat> WriteFormat for F {
    type Body = Bytes;

    /// The first shard: Python's senders begin with it, and so do its workers, which wait on one host at a time.
    fn first_shard(&self, _: usize) -> usize {
        0
    }

    /// The whole capacity: Python counts on each host by itself.
    fn capacity_on(&self, _: usize, capacity: usize, _: usize) -> usize {
        capacity
    }

    async fn push(&self, node: Node<'_>, batch: &Batch<Bytes>) -> Result<Pushed, Fault> {
        let command = PythonFormat::push(self, batch, Duration::from_millis(node.shard.now_ms()?));
        Pushed::parse(node.run_once(&command).await?, batch.runs().len())
    }
}

impl<F: PythonFormat> StoredFormat for F {
    const FORMAT: config::Format = F::FORMAT;
    const OLDEST_SERVER: Version = OLDEST_SERVER;
    const SCRIPTS: &'static [&'static Script] = F::SCRIPTS;

    type GroupMessage = Message;
    type Groups = Groups;

    fn epoch_key(config: &Config) -> String {
        keys::epoch(config.key_prefix())
    }

    fn ring(identities: &[String]) -> Ring {
        Ring::crc(identities.len())
    }

    fn start(config: &Config, places: &Arc<Places>, _: &Background<'_>) -> Result<Started<Self>> {
        let format = Arc::new(F::new(config, places)?);
        Ok(Started { reading: Box::new(Reader(format.clone())), format, drain: ready(()).boxed() })
    }

    fn channel_key(&self, non_local: &str) -> String {
        self.base().keys.channel(non_local)
    }

    fn max_message_size(&self) -> usize {
        self.base().payload.max_message_size
    }

    fn message(&self, channel: ChannelName, message: &Message) -> Result<OutboundMessage<Bytes>> {
        self.inspect(message, Some(&channel));
        let routing = channel.local().map(|_| Routed::from(channel.as_str()));
        let body = self.base().payload.encode(message, routing.as_ref())?;
        let capacity = self.capacity_of(&channel);
        Ok(OutboundMessage { capacity, pinned: channel.kind().has_one_reader(), channel, body })
    }

    fn group_message(&self, message: &Message) -> Result<Message> {
        self.inspect(message, None);
        // A message that cannot be sent fails even if the group has no members.
        self.base().payload.check(message)?;
        Ok(message.clone())
    }

    fn messages_to(
        &self,
        _: &GroupName,
        message: &Message,
        destinations: &Vec<ChannelName>,
    ) -> Result<Vec<OutboundMessage<Bytes>>> {
        PythonFormat::messages_to(self, message, destinations)
    }

    fn new_local_channel(&self, pattern: &str) -> Option<Result<ChannelName>> {
        PythonFormat::new_local_channel(self, pattern)
    }

    fn groups(&self) -> &Groups {
        &self.base().groups
    }

    fn scans<'s>(&'s self, shard: &'s Shard) -> Vec<Scan<'s>> {
        PythonFormat::scans(self, shard)
    }
}

/// Reads messages of the format `F`.
struct Reader<F>(Arc<F>);

impl<F: PythonFormat> EntryFormat for Reader<F> {
    fn open(&self, _: &Entry, _: &ChannelName, _: u64) -> Result<Message, Unreadable> {
        Err(undecodable("it is of the native format"))
    }

    fn reject(&self, shard: &Arc<Shard>, source: &ChannelName, _: Bytes, reason: String) {
        self.0.base().garbage.log(shard, source, reason);
    }
}

#[async_trait]
impl<F: PythonFormat> ReadFormat for Reader<F> {
    fn key(&self, non_local: &str) -> String {
        self.0.channel_key(non_local)
    }

    fn take(&self, keys: &[&str], count: usize) -> Vec<Cmd> {
        vec![self.0.take(keys, count)]
    }

    fn wait(&self, keys: &[&str], timeout: Duration) -> Cmd {
        let mut command = redis::cmd(F::WAIT);
        command.arg(keys).arg(timeout.as_secs_f64());
        command
    }

    fn length(&self, _: &str) -> Option<Cmd> {
        None
    }

    fn takes_first(&self, count: usize) -> bool {
        self.0.takes_first(count)
    }

    async fn popped(&self, shard: &Shard, answer: Value) -> Result<Option<Popped>, Fault> {
        self.0.popped(shard, answer).await
    }

    fn resolver(&self) -> Box<dyn RecipientResolver> {
        Box::new(Self(self.0.clone()))
    }

    fn put_back(&self, key: &str, entries: &[BufferedEntry]) -> Cmd {
        self.0.put_back(key, entries)
    }
}

#[async_trait]
impl<F: PythonFormat> RecipientResolver for Reader<F> {
    async fn resolve(
        &mut self,
        shard: &Arc<Shard>,
        source: &ChannelName,
        raw: Raw,
    ) -> Result<Option<BufferedEntry>, Undeliverable> {
        Ok(Some(self.0.buffered(shard, source, raw)?))
    }
}
