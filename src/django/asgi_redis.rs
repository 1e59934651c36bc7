//! The format of `asgi_redis`: a list of keys for each channel, and under each key a message.

use std::future::ready;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::FutureExt;
use redis::{Cmd, FromRedisValue, Value};

use super::OLDEST_SERVER;
use super::garbage::Garbage;
use super::groups::Groups;
use super::keys::{self, Keys};
use super::payload::{Payload, Routing, undecodable};
use super::script;
use crate::capacity::Capacity;
use crate::codec::serializer::Serializer;
use crate::config::{self, Config};
use crate::drops::{self, DropReason};
use crate::error::Result;
use crate::layer::Statistics;
use crate::message::{Message, Value as Routed};
use crate::name::{ChannelName, GroupName};
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
use crate::redis::stored::scan::Scan;
use crate::redis::topology::places::Places;
use crate::redis::topology::ring::Ring;

/// Stands for the name of a channel in the counters of all channels.
const GLOBAL: &str = "#global#";
const MESSAGES: &str = ":messages_count";
const REFUSALS: &str = ":channel_full_count";
/// How long the counters of a channel, and those of all channels, outlive the last change.
const CHANNEL_STATS_LIVE: Duration = Duration::from_hours(1);
const GLOBAL_STATS_LIVE: Duration = Duration::from_hours(24);

/// Pauses between attempts to fetch a message whose key has been taken.
const FETCH_PAUSE: Duration = Duration::from_millis(50);

/// A channel layer that shares its channels and groups with Django sites on Channels 1.x and `asgi_redis` 1.x, and with
/// their interface servers.
///
/// Give it the same hosts, in the same order, and the same prefixes, expiries and keys as the site. The prefix defaults to
/// `asgi:` here, as in Python. Redis has to have version 6.0 or later.
///
/// A group message is a message for each member, so that a process with more members than its capacity misses some.
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
    keys: Keys,
    groups: Groups,
    stats_prefix: String,
    payload: Payload,
    capacity: Capacity,
    garbage: Garbage,
}

/// Reads them.
#[derive(Clone)]
struct Reading(Arc<AsgiRedis>);

impl WriteFormat for AsgiRedis {
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
        let mut keys = vec![self.counter(GLOBAL, MESSAGES), self.counter(GLOBAL, REFUSALS)];
        for (run, name) in batch.runs().iter().zip(batch.names()) {
            keys.extend([self.keys.channel(name), self.counter(name, MESSAGES), self.counter(name, REFUSALS)]);
            keys.extend(run.iter().map(|_| self.new_key()));
        }
        let mut command = script::LIST_SEND.call(&keys);
        command.arg(milliseconds(self.payload.expiry));
        command.arg(CHANNEL_STATS_LIVE.as_secs()).arg(GLOBAL_STATS_LIVE.as_secs());
        for run in batch.runs() {
            command.arg(run[0].capacity).arg(i32::from(run[0].is_last)).arg(run.len());
            for message in run {
                command.arg(self.payload.wrap(&message.body, now));
            }
        }
        Pushed::parse(shard.run_once(&command).await?, batch.runs().len())
    }
}

impl StoredFormat for AsgiRedis {
    const FORMAT: config::Format = config::Format::AsgiRedis;
    const OLDEST_SERVER: Version = OLDEST_SERVER;
    const SCRIPTS: &'static [&'static Script] = &script::ASGI_REDIS;

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
            serializer: Serializer::MessagePack,
            keys: config.fernet_keys()?,
            random_prefix: 0,
            expiry: config.expiry,
            max_message_size: config.max_message_size,
        };
        let format = Arc::new(Self {
            groups: Groups { places: places.clone(), keys: keys.clone(), expiry: config.group_expiry },
            keys,
            stats_prefix: config.stats_key_prefix(),
            payload,
            capacity: config.capacities()?,
            garbage: Garbage::default(),
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
        let routing = channel.local().map(|_| Routed::from(channel.as_str()));
        let body = self.payload.encode(message, routing.as_ref())?;
        let capacity = self.capacity.of(&channel);
        Ok(OutboundMessage { capacity, pinned: channel.kind().has_one_reader(), channel, body })
    }

    fn group_message(&self, message: &Message) -> Result<Message> {
        // A message that cannot be sent fails even if the group has no members.
        self.payload.check(message)?;
        Ok(message.clone())
    }

    async fn recipients(&self, groups: &[GroupName]) -> Vec<Result<Vec<ChannelName>, (usize, Fault)>> {
        self.groups.members_of_all(groups).await
    }

    /// A message for each member, as Python sends it.
    fn messages_to(
        &self,
        _: &GroupName,
        message: &Message,
        recipients: &Vec<ChannelName>,
    ) -> Result<Vec<OutboundMessage<Bytes>>> {
        recipients.iter().map(|member| self.message(member.clone(), message)).collect()
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
        let counters = self.counters(shard, non_local).await?;
        Ok(counters.merge(self.pending(shard, &[self.keys.channel(non_local)]).await?))
    }

    async fn global_statistics(&self, shard: &Shard) -> Result<Statistics, Fault> {
        let mut total = self.counters(shard, GLOBAL).await?;
        let mut scan = Scan::of_kind(shard, &self.keys.prefix, "list");
        while let Some(keys) = scan.next().await? {
            let lists: Vec<_> = keys.into_iter().filter(|key| self.keys.parse_channel(key).is_some()).collect();
            if !lists.is_empty() {
                total = total.merge(self.pending(shard, &lists).await?);
            }
        }
        Ok(total)
    }

    fn scans<'s>(&self, shard: &'s Shard) -> Vec<Scan<'s>> {
        let prefix = self.keys.prefix.as_str();
        [(prefix, "list"), (prefix, "string"), (prefix, "zset"), (&self.stats_prefix, "string")]
            .map(|(prefix, kind)| Scan::of_kind(shard, prefix, kind))
            .into()
    }

    fn is_flushed(&self, key: &str, kind: Option<&str>) -> bool {
        match kind {
            Some("list") => self.keys.parse_channel(key).is_some(),
            Some("zset") => self.keys.is_group(key),
            _ => self.is_message(key) || self.is_counter(key),
        }
    }
}

impl AsgiRedis {
    /// A key for one message, which nothing else has.
    fn new_key(&self) -> String {
        format!("{}{:032x}", self.keys.prefix, rand::random::<u128>())
    }

    fn counter(&self, name: &str, what: &str) -> String {
        format!("{}{name}{what}", self.stats_prefix)
    }

    fn is_message(&self, key: &str) -> bool {
        let id = key.strip_prefix(&self.keys.prefix);
        id.is_some_and(|id| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()))
    }

    fn is_counter(&self, key: &str) -> bool {
        let name = key.strip_prefix(&self.stats_prefix);
        let name = name.and_then(|name| name.strip_suffix(MESSAGES).or_else(|| name.strip_suffix(REFUSALS)));
        name.is_some_and(|name| name == GLOBAL || ChannelName::parse(name).is_ok())
    }

    async fn counters(&self, shard: &Shard, name: &str) -> Result<Statistics, Fault> {
        let mut command = redis::cmd("MGET");
        command.arg(self.counter(name, MESSAGES)).arg(self.counter(name, REFUSALS));
        let (sent, refused): (Option<u64>, Option<u64>) = parse(shard.run(&command).await?)?;
        Ok(Statistics {
            messages_count: sent.unwrap_or(0),
            channel_full_count: refused.unwrap_or(0),
            ..Statistics::default()
        })
    }

    /// How many messages wait in `lists`, and since when.
    async fn pending(&self, shard: &Shard, lists: &[String]) -> Result<Statistics, Fault> {
        let mut commands = redis::pipe();
        for list in lists {
            commands.cmd("LLEN").arg(list);
            commands.cmd("LINDEX").arg(list).arg(0);
        }
        let mut total = Statistics::default();
        let mut ages = redis::pipe();
        for pair in shard.run_all(&commands).await?.chunks(2) {
            let [Value::Int(length), head] = pair else { continue };
            total.messages_pending += u64::try_from(*length).unwrap_or(0);
            if let Value::BulkString(message) = head {
                ages.cmd("PTTL").arg(message);
            }
        }
        if ages.is_empty() {
            return Ok(total);
        }
        for answer in shard.run_all(&ages).await? {
            if let Value::Int(remaining) = answer
                && let Ok(remaining) = u64::try_from(remaining)
            {
                let age = self.payload.expiry.saturating_sub(Duration::from_millis(remaining));
                total.messages_max_age = total.messages_max_age.max(age);
            }
        }
        Ok(total)
    }

    fn buffered(&self, shard: &Arc<Shard>, source: &ChannelName, raw: Raw) -> Result<BufferedEntry, Unreadable> {
        let now = Duration::from_millis(shard.clock.now_ms().unwrap_or(0));
        let (message, routing) = self.payload.decode(&raw.body, now)?;
        let channel = match routing {
            Routing::None | Routing::Many(_) if source.as_str().ends_with('!') => {
                return Err(undecodable("its routing names no channel of its process"));
            }
            Routing::One(channel) if channel.non_local() == source.as_str() => channel,
            Routing::One(_) => return Err(undecodable("its routing names a channel elsewhere")),
            Routing::None | Routing::Many(_) => source.clone(),
        };
        let expires = expires(&raw).unwrap_or(0);
        Ok(BufferedEntry::decoded(shard.clone(), source.clone(), expires, (raw, message), [channel].into()))
    }
}

/// A message that has been taken and expires at `expires`, in ms since the epoch.
fn raw((body, expires): (Vec<u8>, u64)) -> Raw {
    Raw { body: body.into(), label: Bytes::copy_from_slice(&expires.to_be_bytes()) }
}

/// When a message expires, in ms since the epoch: what its [`Raw`] has as its label.
fn expires(raw: &Raw) -> Option<u64> {
    raw.label[..].try_into().ok().map(u64::from_be_bytes)
}

fn parse<T: FromRedisValue>(answer: Value) -> Result<T, Fault> {
    redis::from_redis_value(answer).map_err(|error| Fault::unexpected(&error.to_string()))
}

/// The message under `key` and when it expires in ms since the epoch, or `None` if it has expired. A message without an end
/// lives for `lifetime` ms from now on. No list has the key any more, so that nobody else takes the message. An answer may be
/// lost, and the message is there for the next attempt: it is deleted after it has been read. A server that is away is waited
/// for as long as for two answers.
///
/// Not cancel safe: the message may be lost.
async fn fetch(shard: &Shard, key: &[u8], lifetime: u64) -> Result<Option<(Vec<u8>, u64)>, Fault> {
    let mut command = script::LIST_FETCH.call(&[key]);
    command.arg(lifetime);
    let began = Instant::now();
    let message: Option<_> = loop {
        match shard.run_once(&command).await {
            Ok(answer) => break parse(answer)?,
            Err(_) if began.elapsed() < 2 * shard.command_timeout() => tokio::time::sleep(FETCH_PAUSE).await,
            Err(fault) => return Err(fault),
        }
    };
    if message.is_some() {
        // A message that cannot be deleted now expires unseen.
        let _ = shard.run_once(redis::cmd("DEL").arg(key)).await;
    }
    Ok(message)
}

/// What `list_take.lua` returns: a list, the messages taken from it with the times at which they expire, and how many keys had
/// no message any more.
type Taken = (Vec<u8>, Vec<(Vec<u8>, u64)>, usize);

#[async_trait]
impl ReadFormat for Reading {
    fn key(&self, non_local: &str) -> String {
        self.0.keys.channel(non_local)
    }

    fn take(&self, keys: &[&str], count: usize) -> Vec<Cmd> {
        let mut command = script::LIST_TAKE.call(keys);
        command.arg(count).arg(READ_BYTES).arg(&self.0.keys.prefix).arg(milliseconds(self.0.payload.expiry));
        vec![command]
    }

    fn wait(&self, keys: &[&str], timeout: Duration) -> Cmd {
        let mut command = redis::cmd("BLPOP");
        command.arg(keys).arg(timeout.as_secs_f64());
        command
    }

    fn length(&self, _: &str) -> Option<Cmd> {
        None
    }

    fn takes_first(&self, _: usize) -> bool {
        // A wait gives a key, whose message is another trip.
        true
    }

    async fn popped(&self, shard: &Shard, answer: Value) -> Result<Option<Popped>, Fault> {
        let Value::Array(parts) = &answer else { return Ok(None) };
        let mut raw = Vec::new();
        let (key, missing) = if parts.len() == 2 {
            // `BLPOP` gives the list and the key of the message.
            let (list, message): (Vec<u8>, Vec<u8>) = parse(answer)?;
            let fetched = if message.starts_with(self.0.keys.prefix.as_bytes()) {
                fetch(shard, &message, milliseconds(self.0.payload.expiry))
                    .await
                    .inspect_err(|_| drops::count(DropReason::ShardDown, 1))?
            } else {
                None
            };
            let missing = usize::from(fetched.is_none());
            raw.extend(fetched.map(self::raw));
            (list, missing)
        } else {
            let (list, taken, missing): Taken = parse(answer)?;
            raw.extend(taken.into_iter().map(self::raw));
            (list, missing)
        };
        drops::count(DropReason::Expired, missing);
        Ok(Some(Popped { key, raw }))
    }

    fn resolver(&self) -> Box<dyn RecipientResolver> {
        Box::new(self.clone())
    }

    fn open(&self, _: &Entry, _: &ChannelName, _: u64) -> Result<Message, Unreadable> {
        Err(undecodable("it is of the native format"))
    }

    fn reject(&self, _: &Arc<Shard>, _: &ChannelName, _: Bytes, _: String) {}

    fn put_back(&self, list: &str, entries: &[BufferedEntry]) -> Cmd {
        let messages: Vec<_> = entries.iter().filter_map(|entry| entry.decoded_message()).map(|(raw, _)| raw).collect();
        // New keys, since what deletes a message that has been read may still be under way.
        let keys = messages.iter().map(|_| self.0.new_key());
        let keys: Vec<_> = std::iter::once(list.to_owned()).chain(keys).collect();
        let mut command = script::LIST_PUT_BACK.call(&keys);
        for raw in messages {
            command.arg(expires(raw).unwrap_or(0)).arg(&raw.body[..]);
        }
        command
    }
}

#[async_trait]
impl RecipientResolver for Reading {
    async fn resolve(&mut self, shard: &Arc<Shard>, source: &ChannelName, raw: Raw) -> Option<BufferedEntry> {
        let entry = self.0.buffered(shard, source, raw);
        entry.map_err(|unreadable| self.0.garbage.count(shard, source, unreadable)).ok()
    }
}
