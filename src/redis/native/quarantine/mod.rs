//! `Quarantine`: lists, restores and deletes the entries that no reader could read.
//!
//! Readers move an entry here when it cannot be opened or parsed. The `writer` limits how many entries a server keeps.
//! An operator may restore an entry after the missing key has been configured.

mod delete;
mod partial;
mod record;
mod restore;
pub(crate) mod writer;

use std::time::Duration;

use futures_util::future::join_all;
use redis::{Cmd, Value};

pub use self::partial::Partial;
use self::record::Record;
pub use self::record::{InvalidQuarantineId, QuarantineId};
pub use self::restore::Restored;
use crate::crypto;
use crate::error::Result;
use crate::message::Message;
use crate::name::ChannelName;
use crate::redis::closing::Closing;
use crate::redis::entry::Entry;
use crate::redis::native::address::addressee;
use crate::redis::native::body::BodyCodec;
use crate::redis::native::topology::Topology;
use crate::redis::node::fault::Fault;
use crate::redis::node::shard::Shard;
use crate::redis::stored::scan::parse;

/// How many records one command reads. All records of a server together have at most 16 MiB.
const PAGE: usize = 4;

/// The quarantine of a [`RedisLayer`](crate::RedisLayer): the entries that readers have taken from a server and could
/// not read.
///
/// An entry is unreadable if it was sealed with a key that the reader lacks, or if it is not a message of this format.
/// The reader counts the entry as dropped and moves it to the stream `<prefix>:quarantine` of the same server; a
/// cluster has one such stream. Each stream keeps the last 256 entries, at most 16 MiB of them, for 3 days.
///
/// ```no_run
/// use channel_layer::redis::quarantine::QuarantineState;
///
/// # async fn example(layer: channel_layer::RedisLayer) -> channel_layer::Result<()> {
/// let quarantine = layer.quarantine();
/// let entries = quarantine.entries().await?.complete()?;
/// let readable: Vec<_> =
///     entries.iter().filter(|entry| entry.state == QuarantineState::Readable).map(|entry| entry.id).collect();
/// quarantine.restore(&readable).await?.complete()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Quarantine<'l> {
    topology: &'l Topology,
    codec: &'l BodyCodec,
    closing: &'l Closing,
}

/// The stream of a server, or of a cluster.
#[derive(Clone, Copy)]
struct Stream<'s> {
    /// The number of the server in the ids of its records; 0 in a cluster.
    server: usize,
    shard: &'s Shard,
}

/// An entry in quarantine, without its message. [`Quarantine::message`] returns the message.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct QuarantineEntry {
    /// The id of the entry. It stays the same until the entry is restored or deleted.
    pub id: QuarantineId,
    /// The channel in whose list the entry was, up to the `!` if the channel is process-local. `None` if the record
    /// names no valid channel. Then another program has written the record.
    pub channel: Option<ChannelName>,
    /// Why the reader could not read it.
    pub reason: String,
    /// How long it has been in quarantine, by the clock of its server.
    pub age: Duration,
    /// The size of the entry, in bytes.
    pub size: usize,
    /// The head of the entry. `None` if the bytes are not an entry.
    pub head: Option<QuarantineHead>,
    /// Whether this layer can read it now.
    pub state: QuarantineState,
}

/// The head of an entry, which precedes its body. It is known to be genuine only if the entry opens.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct QuarantineHead {
    /// How long after it was sent the message expires.
    pub lifetime: Duration,
    /// How long ago it was sent, by the clock of its server.
    pub sent: Duration,
    /// The id of the key with which it is sealed, as in logs. `None` if it is not sealed.
    pub key_id: Option<u32>,
    /// The group to which it was sent, if it is a group message.
    pub group: Option<String>,
}

/// Whether an entry in quarantine can be read now.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum QuarantineState {
    /// This layer can read it: [`Quarantine::restore`] puts it back.
    Readable,
    /// The message has expired, and nothing else keeps this layer from reading it: [`Quarantine::restore_anew`] puts it
    /// back.
    Expired,
    /// This layer cannot read it, for this reason.
    Unreadable(String),
}

impl<'l> Quarantine<'l> {
    pub(crate) fn new(topology: &'l Topology, codec: &'l BodyCodec, closing: &'l Closing) -> Self {
        Self { topology, codec, closing }
    }

    /// Returns the entries of all servers, ordered by server and then from the oldest to the newest.
    ///
    /// # Cancel safety
    ///
    /// A dropped call has changed nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`](crate::Error::Closed) and [`Error::RuntimeEnded`](crate::Error::RuntimeEnded). Within the
    /// result, [`Error::Redis`](crate::Error::Redis) for each server that cannot be reached.
    pub async fn entries(&self) -> Result<Partial<Vec<QuarantineEntry>>> {
        let entries = self.on_every_stream(async |stream| self.entries_of(stream).await).await?;
        Ok(entries.map(|entries| entries.into_iter().flatten().collect()))
    }

    async fn entries_of(&self, stream: Stream<'_>) -> Result<Vec<QuarantineEntry>, Fault> {
        let (mut entries, mut after) = (Vec::new(), None);
        loop {
            let page = self.page(stream, after).await?;
            let now = stream.shard.now_ms()?;
            let Some(last) = page.last() else { return Ok(entries) };
            after = Some(last.id);
            entries.extend(page.iter().map(|record| self.describe(stream, record, now)));
        }
    }

    /// Runs a call on every stream at the same time.
    async fn on_every_stream<T>(&self, call: impl AsyncFn(Stream<'l>) -> Result<T, Fault>) -> Result<Partial<Vec<T>>> {
        self.closing.check()?;
        let call = async |stream: Stream<'l>| call(stream).await.map_err(|fault| stream.shard.error(fault));
        let streams = (0..self.servers()).filter_map(|server| self.stream(server));
        Ok(join_all(streams.map(call)).await.into_iter().collect())
    }

    /// How many streams there are.
    fn servers(&self) -> usize {
        if self.topology.is_cluster() { 1 } else { self.topology.count() }
    }

    /// The stream with this number.
    fn stream(&self, server: usize) -> Option<Stream<'l>> {
        let shard = match server {
            0 if self.topology.is_cluster() => self.topology.home(&self.topology.keys.quarantine()),
            _ if server < self.servers() => self.topology.shard(server),
            _ => return None,
        };
        Some(Stream { server, shard })
    }

    /// Runs a command with keys of `name` on the server of `stream`, or in a cluster on that of `name`.
    async fn run(&self, stream: Stream<'_>, name: &str, command: &Cmd) -> Result<Value, Fault> {
        self.topology.run_on(stream.shard, name, command).await.map_err(|(_, fault)| fault)
    }

    /// As [`run`](Self::run), for a command that only reads.
    async fn query(&self, stream: Stream<'_>, name: &str, command: &Cmd) -> Result<Value, Fault> {
        self.topology.query_on(stream.shard, name, command).await.map_err(|(_, fault)| fault)
    }

    /// Returns one entry; `None` if it is no longer in quarantine.
    ///
    /// # Cancel safety
    ///
    /// A dropped call has changed nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Redis`](crate::Error::Redis) if its server cannot be reached; [`Error::Closed`](crate::Error::Closed)
    /// and [`Error::RuntimeEnded`](crate::Error::RuntimeEnded).
    pub async fn entry(&self, id: QuarantineId) -> Result<Option<QuarantineEntry>> {
        let Some((stream, record)) = self.find(id).await? else { return Ok(None) };
        let now = stream.shard.now_ms().map_err(|fault| stream.shard.error(fault))?;
        Ok(Some(self.describe(stream, &record, now)))
    }

    /// Returns the message of an entry, expired or not; `None` if this layer cannot read it, or if it is no longer in
    /// quarantine.
    ///
    /// # Cancel safety
    ///
    /// A dropped call has changed nothing.
    ///
    /// # Errors
    ///
    /// As [`entry`](Self::entry).
    pub async fn message(&self, id: QuarantineId) -> Result<Option<Message>> {
        let Some((stream, record)) = self.find(id).await? else { return Ok(None) };
        let now = stream.shard.now_ms().map_err(|fault| stream.shard.error(fault))?;
        Ok(self.open(stream, &record, now).ok().map(|opened| opened.message))
    }

    /// Reads the next records of a server after the id `after`.
    async fn page(&self, stream: Stream<'_>, after: Option<QuarantineId>) -> Result<Vec<Record>, Fault> {
        let key = self.topology.keys.quarantine();
        let mut command = redis::cmd("XRANGE");
        command.arg(&key);
        match after {
            Some(id) => command.arg(format!("({}", id.of_stream())),
            None => command.arg("-"),
        };
        command.arg("+").arg("COUNT").arg(PAGE);
        Record::parse_all(stream.server, self.query(stream, &key, &command).await?)
    }

    async fn find(&self, id: QuarantineId) -> Result<Option<(Stream<'l>, Record)>> {
        self.closing.check()?;
        let Some(stream) = self.stream(id.shard()) else { return Ok(None) };
        let record = self.record(stream, id).await.map_err(|fault| stream.shard.error(fault))?;
        Ok(record.map(|record| (stream, record)))
    }

    async fn record(&self, stream: Stream<'_>, id: QuarantineId) -> Result<Option<Record>, Fault> {
        let key = self.topology.keys.quarantine();
        let mut command = redis::cmd("XRANGE");
        command.arg(&key).arg(id.of_stream()).arg(id.of_stream());
        Ok(Record::parse_all(stream.server, self.query(stream, &key, &command).await?)?.pop())
    }

    async fn remove(&self, stream: Stream<'_>, ids: &[QuarantineId]) -> Result<usize, Fault> {
        if ids.is_empty() {
            return Ok(0);
        }
        let key = self.topology.keys.quarantine();
        let mut command = redis::cmd("XDEL");
        command.arg(&key);
        for id in ids {
            command.arg(id.of_stream());
        }
        parse(self.run(stream, &key, &command).await?)
    }

    fn describe(&self, stream: Stream<'_>, record: &Record, now: u64) -> QuarantineEntry {
        let since = |then: u64| Duration::from_millis(now.saturating_sub(then));
        let head = Entry::parse(record.entry.clone()).ok().map(|entry| QuarantineHead {
            lifetime: Duration::from_millis(entry.lifetime),
            sent: since(entry.sent()),
            key_id: entry.sealed.then(|| crypto::key_id(&entry.body)).flatten(),
            group: entry.address.group().map(ToString::to_string),
        });
        QuarantineEntry {
            id: record.id,
            channel: record.channel.clone(),
            reason: record.reason.clone(),
            age: since(record.id.time_ms()),
            size: record.entry.len(),
            head,
            state: match self.open(stream, record, now) {
                Ok(Opened { expired: false, .. }) => QuarantineState::Readable,
                Ok(Opened { expired: true, .. }) => QuarantineState::Expired,
                Err(reason) => QuarantineState::Unreadable(reason),
            },
        }
    }

    /// Opens a record as a reader of its channel would, but also if the message has expired.
    fn open(&self, stream: Stream<'_>, record: &Record, now: u64) -> Result<Opened, String> {
        let channel = record.channel.clone().ok_or("its channel is unknown")?;
        let is_here = self.topology.lists(&channel).any(|(_, other)| other.index == stream.shard.index);
        if !is_here && !self.topology.is_cluster() {
            return Err("its channel is on another server now".to_owned());
        }
        let entry = Entry::parse(record.entry.clone()).map_err(|fault| fault.to_string())?;
        addressee(&entry, &channel)?;
        let opened = self.codec.open_late(&entry, channel.as_str(), now);
        let message = opened.map_err(|unreadable| unreadable.reason)?;
        let expired = entry.expires <= now || self.codec.open(&entry, channel.as_str(), now).is_err();
        Ok(Opened { channel, entry, message, expired })
    }
}

/// An entry in quarantine that can be read.
struct Opened {
    channel: ChannelName,
    entry: Entry,
    message: Message,
    expired: bool,
}
