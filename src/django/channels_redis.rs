//! The format of `channels_redis`: a sorted set for each channel, scored by time.

use std::collections::HashMap;
use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::FutureExt;
use redis::{Cmd, Value};
use tracing::warn;

use super::OLDEST_SERVER;
use super::garbage::Garbage;
use super::groups::Groups;
use super::keys::{self, Keys};
use super::payload::{Payload, Routing, undecodable};
use super::script;
use crate::capacity::Capacity;
use crate::config::{self, Config};
use crate::error::Result;
use crate::layer::Statistics;
use crate::message::{Message, Value as Routed};
use crate::name::{ChannelKind, ChannelName, GroupName, InvalidName};
use crate::redis::native::entry::Entry;
use crate::redis::node::connection::Version;
use crate::redis::node::fault::Fault;
use crate::redis::node::script::Script;
use crate::redis::node::shard::Shard;
use crate::redis::receive::{BufferedEntry, Popped, READ_BYTES, Raw, ReadFormat, RecipientResolver, Unreadable};
use crate::redis::send::batch::milliseconds;
use crate::redis::send::{Batch, OutboundMessage, Pushed, WriteFormat};
use crate::redis::stored::format::{Background, Started, StoredFormat};
use crate::redis::stored::layer::StoredLayer;
use crate::redis::stored::scan::{CHANNELS_AT_ONCE, Scan};
use crate::redis::topology::places::Places;
use crate::redis::topology::ring::Ring;

/// The longest beginning of a new channel: with a dot, the mark and twice 32 digits it has 99 bytes, and Python takes no
/// names that are longer.
const LONGEST_LOCAL_PREFIX: usize = 33;

/// A channel layer that shares its channels and groups with Django sites on `channels_redis` 3.0 to 4.x
/// (`channels_redis.core.RedisChannelLayer`).
///
/// Give it the same hosts, in the same order, and the same prefix, expiries, keys and serializer as the site. Redis has to
/// have version 6.0 or later.
///
/// - `new_channel("specific")`, without a `?`, gives a channel that Python can send to, read as its part up to the `!`.
///   Names with a `?` work between Rust programs; Python refuses them.
/// - A consumer of Django dispatches on the text `type`; the first message without one is warned of in the log.
/// - The format has no counters: statistics tell what waits and nothing else.
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
    places: Arc<Places>,
    keys: Keys,
    groups: Groups,
    payload: Payload,
    capacity: Capacity,
    /// This layer's part of the names of its channels.
    client: String,
    garbage: Garbage,
    /// Whether a message without a type was sent, which is logged once.
    warned: AtomicBool,
}

/// Reads them.
#[derive(Clone)]
struct Reading(Arc<ChannelsRedis>);

fn hexadecimal() -> String {
    format!("{:032x}", rand::random::<u128>())
}

fn now_of(shard: &Shard) -> Duration {
    // Whatever came from a server came over a connection that has told the time.
    Duration::from_millis(shard.clock.now_ms().unwrap_or(0))
}

impl WriteFormat for ChannelsRedis {
    type Body = Bytes;

    /// The first shard: Python's senders begin with it, and so do its workers, which wait on one host at a time.
    fn first_shard(&self, _: usize) -> usize {
        0
    }

    /// The whole capacity: Python counts on each host by itself.
    fn capacity_on(&self, _: usize, capacity: usize, _: usize) -> usize {
        capacity
    }

    async fn push(&self, shard: &Shard, batch: &Batch<Bytes>) -> Result<Pushed, Fault> {
        let now = Duration::from_millis(shard.now_ms()?);
        let keys: Vec<_> = batch.names().map(|name| self.keys.channel(name)).collect();
        let mut command = script::ZSET_SEND.call(&keys);
        command.arg(milliseconds(self.payload.expiry));
        for run in batch.runs() {
            command.arg(run[0].capacity).arg(run.len());
            for message in run {
                command.arg(self.payload.wrap(&message.body, now));
            }
        }
        Pushed::parse(shard.run_once(&command).await?, batch.runs().len())
    }
}

impl StoredFormat for ChannelsRedis {
    const FORMAT: config::Format = config::Format::ChannelsRedis;
    const OLDEST_SERVER: Version = OLDEST_SERVER;
    const SCRIPTS: &'static [&'static Script] = &script::CHANNELS_REDIS;

    type GroupMessage = Message;
    type Recipients = Vec<ChannelName>;

    fn epoch_key(config: &Config) -> String {
        keys::epoch(config.key_prefix())
    }

    fn ring(identities: &[String]) -> Ring {
        Ring::crc(identities.len())
    }

    fn start(config: &Config, places: &Arc<Places>, _: &Background<'_>) -> Result<Started<Self>> {
        let keys = Keys { prefix: config.key_prefix().to_owned() };
        let payload = Payload {
            serializer: config.serializer,
            keys: config.fernet_keys()?,
            random_prefix: config.random_prefix_length,
            expiry: config.expiry,
            max_message_size: config.max_message_size,
        };
        let format = Arc::new(Self {
            places: places.clone(),
            groups: Groups { places: places.clone(), keys: keys.clone(), expiry: config.group_expiry },
            keys,
            payload,
            capacity: config.capacities()?,
            client: hexadecimal(),
            garbage: Garbage::default(),
            warned: AtomicBool::new(false),
        });
        Ok(Started { reading: Box::new(Reading(format.clone())), format, drain: ready(()).boxed() })
    }

    fn channel_key(&self, non_local: &str) -> String {
        self.keys.channel(non_local)
    }

    fn max_message_size(&self) -> usize {
        self.payload.max_message_size
    }

    fn message(&self, channel: ChannelName, message: &Message) -> Result<OutboundMessage<Bytes>> {
        // Python cannot read a channel with a `?` in its name.
        if channel.kind() != ChannelKind::SingleReader {
            self.check_type(message);
        }
        let routing = channel.local().map(|_| Routed::from(channel.as_str()));
        let body = self.payload.encode(message, routing.as_ref())?;
        let capacity = self.capacity.of_name(channel.as_str());
        Ok(OutboundMessage { capacity, pinned: channel.kind().has_one_reader(), channel, body })
    }

    fn group_message(&self, message: &Message) -> Result<Message> {
        self.check_type(message);
        // A message that cannot be sent fails even if the group has no members.
        self.payload.check(message)?;
        Ok(message.clone())
    }

    async fn recipients(&self, groups: &[GroupName]) -> Vec<Result<Vec<ChannelName>, (usize, Fault)>> {
        self.groups.members_of_all(groups).await
    }

    /// One message for all members of a process, as Python sends it.
    fn messages_to(
        &self,
        _: &GroupName,
        message: &Message,
        recipients: &Vec<ChannelName>,
    ) -> Result<Vec<OutboundMessage<Bytes>>> {
        let mut places = HashMap::new();
        let mut keys: Vec<Vec<&ChannelName>> = Vec::new();
        for member in recipients {
            let place = *places.entry(member.non_local()).or_insert(keys.len());
            match keys.get_mut(place) {
                Some(members) => members.push(member),
                None => keys.push(vec![member]),
            }
        }
        let message = |members: Vec<&ChannelName>| {
            let routing = Routed::list(members.iter().map(|member| member.as_str()));
            let body = self.payload.encode(message, Some(&routing))?;
            let capacity = self.capacity.of_name(members[0].as_str());
            Ok(OutboundMessage { channel: members[0].clone(), capacity, body, pinned: true })
        };
        keys.into_iter().map(message).collect()
    }

    fn new_local_channel(&self, prefix: &str) -> Option<Result<ChannelName>> {
        Some(self.local_channel(prefix))
    }

    fn group_expiry(&self) -> Duration {
        self.groups.expiry
    }

    async fn group_add(&self, group: &GroupName, channel: &ChannelName, lasts: Duration) -> Result<()> {
        self.groups.add(group, channel, lasts).await
    }

    async fn group_discard(&self, group: &GroupName, channel: &ChannelName) -> Result<()> {
        self.groups.discard(group, channel).await
    }

    async fn group_channels(&self, group: &GroupName) -> Result<Vec<ChannelName>> {
        self.groups.channels(group).await
    }

    async fn channel_statistics(&self, shard: &Shard, non_local: &str) -> Result<Statistics, Fault> {
        self.pending(shard, &[self.keys.channel(non_local)]).await
    }

    async fn global_statistics(&self, shard: &Shard) -> Result<Statistics, Fault> {
        let mut total = Statistics::default();
        let mut scan = Scan::of_kind(shard, &self.keys.prefix, "zset");
        while let Some(keys) = scan.next().await? {
            let channels: Vec<_> = keys.into_iter().filter(|key| self.keys.parse_channel(key).is_some()).collect();
            if !channels.is_empty() {
                total = total.merge(self.pending(shard, &channels).await?);
            }
        }
        Ok(total)
    }

    fn scans<'s>(&self, shard: &'s Shard) -> Vec<Scan<'s>> {
        vec![Scan::of_kind(shard, &self.keys.prefix, "zset")]
    }

    fn is_flushed(&self, key: &str, _: Option<&str>) -> bool {
        // Python's reader keeps the messages that it is about to hand over under this suffix.
        let key = key.strip_suffix("$inflight").unwrap_or(key);
        self.keys.parse_channel(key).is_some() || self.keys.is_group(key)
    }
}

impl ChannelsRedis {
    /// Warns once of messages without a type, at which consumers of Django Channels fail.
    fn check_type(&self, message: &Message) {
        if message.text("type").is_none() && !self.warned.swap(true, Ordering::Relaxed) {
            warn!("a message without a text as its type was sent; consumers of Django Channels fail at such messages");
        }
    }

    fn local_channel(&self, prefix: &str) -> Result<ChannelName> {
        ChannelName::parse(prefix)?;
        if prefix.len() > LONGEST_LOCAL_PREFIX {
            let reason = "what is added to it makes it too long for Python";
            return Err(InvalidName::new("channel", prefix, reason).into());
        }
        let process = format!("{prefix}.{}!", self.client);
        // Python hashes the full name of a channel that it sends to, and the part up to the `!` of one that it reads. So both
        // have to lie on the same server, which holds for one of a few names.
        let home = self.places.shard_of_name(&process);
        let mut name = process + &hexadecimal();
        while self.places.shard_of_name(&name) != home {
            name.truncate(name.len() - 32);
            name.push_str(&hexadecimal());
        }
        Ok(ChannelName::parse_target(&name)?)
    }

    /// How many messages wait under `keys`, and since when.
    async fn pending(&self, shard: &Shard, keys: &[String]) -> Result<Statistics, Fault> {
        let now = now_of(shard);
        let oldest = now.saturating_sub(self.payload.expiry).as_secs_f64();
        let mut total = Statistics::default();
        for keys in keys.chunks(CHANNELS_AT_ONCE) {
            let mut command = script::ZSET_PENDING.call(keys);
            command.arg(oldest);
            let Value::Array(answer) = shard.run(&command).await? else {
                return Err(Fault::unexpected("zset_pending.lua returned something else than a list"));
            };
            for pair in answer.chunks(2) {
                let [Value::Int(count), oldest] = pair else { continue };
                total = total.merge(Statistics {
                    messages_pending: u64::try_from(*count).unwrap_or(0),
                    messages_max_age: score(oldest).map_or(Duration::ZERO, |sent| now.saturating_sub(sent)),
                    ..Statistics::default()
                });
            }
        }
        Ok(total)
    }

    fn buffered(&self, shard: &Arc<Shard>, source: &ChannelName, raw: Raw) -> Result<BufferedEntry, Unreadable> {
        let sent = std::str::from_utf8(&raw.label).ok().and_then(time).ok_or_else(|| undecodable("it has no time"))?;
        let (message, routing) = self.payload.decode(&raw.body, now_of(shard))?;
        let is_here = |channel: &ChannelName| channel.non_local() == source.as_str();
        let channels: Vec<_> = match routing {
            // A channel that any process may read gets it once, however its writer named it.
            _ if !source.as_str().ends_with('!') => vec![source.clone()],
            Routing::One(channel) => vec![channel],
            Routing::Many(channels) => channels,
            Routing::None => vec![],
        };
        let channels: Vec<_> = channels.into_iter().filter(is_here).collect();
        if channels.is_empty() {
            return Err(undecodable("its routing names no channel of its process"));
        }
        let expires = milliseconds(sent + self.payload.expiry);
        Ok(BufferedEntry::decoded(shard.clone(), source.clone(), expires, (raw, message), channels.into()))
    }

    /// The bytes of an entry for the recipients that have not received it.
    fn to_bytes(&self, entry: &BufferedEntry, raw: &Raw, message: &Message) -> Bytes {
        let Some(rest) = entry.remaining_members() else { return raw.body.clone() };
        let routing = Routed::list(rest.iter().map(ChannelName::as_str));
        // A message that was decoded can be encoded. If it could not, members that have received it would receive it again.
        self.payload.encode_again(message, &routing, now_of(entry.shard())).unwrap_or_else(|_| raw.body.clone())
    }
}

fn score(value: &Value) -> Option<Duration> {
    match value {
        Value::BulkString(text) => std::str::from_utf8(text).ok().and_then(time),
        Value::Double(seconds) => Duration::try_from_secs_f64(*seconds).ok(),
        _ => None,
    }
}

fn time(score: &str) -> Option<Duration> {
    let seconds: f64 = score.parse().ok()?;
    // A time that cannot be is as good as the farthest that can.
    Some(Duration::try_from_secs_f64(seconds.min(1e11)).unwrap_or_default())
}

#[async_trait]
impl ReadFormat for Reading {
    fn key(&self, non_local: &str) -> String {
        self.0.keys.channel(non_local)
    }

    fn take(&self, keys: &[&str], count: usize) -> Vec<Cmd> {
        let mut command = script::ZSET_TAKE.call(keys);
        command.arg(count).arg(READ_BYTES);
        vec![command]
    }

    fn wait(&self, keys: &[&str], timeout: Duration) -> Cmd {
        let mut command = redis::cmd("BZPOPMIN");
        command.arg(keys).arg(timeout.as_secs_f64());
        command
    }

    fn length(&self, _: &str) -> Option<Cmd> {
        None
    }

    fn takes_first(&self, count: usize) -> bool {
        count > 1
    }

    async fn popped(&self, _: &Shard, answer: Value) -> Result<Option<Popped>, Fault> {
        if answer == Value::Nil {
            return Ok(None);
        }
        let unexpected = || Fault::unexpected("a pop returned something other than a key and members with scores");
        let Value::Array(parts) = answer else { return Err(unexpected()) };
        let mut parts = parts.into_iter();
        let Some(Value::BulkString(key)) = parts.next() else { return Err(unexpected()) };
        // `BZPOPMIN` gives the member and its score behind the key, the script a list of both in turns.
        let members = match parts.next() {
            Some(Value::Array(members)) => members,
            Some(member) => std::iter::once(member).chain(parts).collect(),
            None => return Err(unexpected()),
        };
        let members: Vec<Bytes> = bytes_of(members).ok_or_else(unexpected)?;
        let raw = members.chunks_exact(2).map(|pair| Raw { body: pair[0].clone(), label: pair[1].clone() }).collect();
        Ok(Some(Popped { key, raw }))
    }

    fn resolver(&self) -> Box<dyn RecipientResolver> {
        Box::new(self.clone())
    }

    fn open(&self, _: &Entry, _: &ChannelName, _: u64) -> Result<Message, Unreadable> {
        Err(undecodable("it is of the native format"))
    }

    fn reject(&self, _: &Arc<Shard>, _: &ChannelName, _: Bytes, _: String) {}

    fn put_back(&self, key: &str, entries: &[BufferedEntry]) -> Cmd {
        let mut command = script::ZSET_PUT_BACK.call(&[key]);
        command.arg(milliseconds(self.0.payload.expiry));
        for entry in entries {
            if let Some((raw, message)) = entry.decoded_message() {
                command.arg(&raw.label[..]).arg(&self.0.to_bytes(entry, raw, message)[..]);
            }
        }
        command
    }
}

fn bytes_of(values: Vec<Value>) -> Option<Vec<Bytes>> {
    let bytes = |value| match value {
        Value::BulkString(bytes) => Some(bytes.into()),
        Value::Double(number) => Some(number.to_string().into()),
        _ => None,
    };
    values.into_iter().map(bytes).collect()
}

#[async_trait]
impl RecipientResolver for Reading {
    async fn resolve(&mut self, shard: &Arc<Shard>, source: &ChannelName, raw: Raw) -> Option<BufferedEntry> {
        let entry = self.0.buffered(shard, source, raw);
        entry.map_err(|unreadable| self.0.garbage.count(shard, source, unreadable)).ok()
    }
}
