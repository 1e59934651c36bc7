//! `NativeReader`: reads the lists of entries of the native format.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use redis::{Cmd, RedisError, Value};

use crate::message::Message;
use crate::name::ChannelName;
use crate::redis::entry::{self, Address, Entry, Locals, Text};
use crate::redis::native::body::BodyCodec;
use crate::redis::native::groups::Groups;
use crate::redis::native::quarantine::writer::QuarantineWriter;
use crate::redis::native::receive::resolver::EntryResolver;
use crate::redis::native::scripts;
use crate::redis::native::send::write::SLACK;
use crate::redis::native::topology::Topology;
use crate::redis::node::clock::milliseconds;
use crate::redis::node::fault::Fault;
use crate::redis::node::shard::Shard;
use crate::redis::receive::format::SMALL_CHANNEL;
use crate::redis::receive::{
    BufferedEntry, EntryFormat, Popped, READ_BYTES, Raw, ReadFormat, RecipientResolver, Unreadable,
};

/// The most expired entries that are removed at once. Redis serves no other client meanwhile.
const MOST_EXPIRED: usize = 1000;

/// Reads lists of entries.
pub(crate) struct NativeReader {
    topology: Arc<Topology>,
    codec: Arc<BodyCodec>,
    groups: Arc<Groups>,
    quarantine: QuarantineWriter,
}

impl NativeReader {
    pub(crate) fn new(
        topology: Arc<Topology>,
        codec: Arc<BodyCodec>,
        groups: Arc<Groups>,
        quarantine: QuarantineWriter,
    ) -> Self {
        Self { topology, codec, groups, quarantine }
    }

    /// The bytes of an entry for the recipients that have not received it.
    fn remaining_bytes(&self, entry: &BufferedEntry) -> Vec<u8> {
        let (Some(native), Some(locals)) = (entry.native_entry(), entry.remaining_locals()) else {
            return entry.to_bytes();
        };
        self.codec.readdress(native, entry.source.as_str(), rest_of(&native.address, locals)).to_bytes()
    }
}

impl EntryFormat for NativeReader {
    fn open(&self, entry: &Entry, source: &ChannelName, now_ms: u64) -> Result<Message, Unreadable> {
        let opened = self.codec.open(entry, source.as_str(), now_ms);
        let age = Duration::from_millis(now_ms.saturating_sub(entry.sent()));
        metrics::histogram!("channel_layer_queue_age_seconds").record(age);
        opened
    }

    fn reject(&self, shard: &Arc<Shard>, source: &ChannelName, entry: Bytes, reason: String) {
        self.quarantine.keep(shard, source, entry, reason);
    }
}

#[async_trait]
impl ReadFormat for NativeReader {
    fn key(&self, non_local: &str) -> String {
        self.topology.keys.channel(non_local)
    }

    fn take(&self, keys: &[&str], count: usize) -> Vec<Cmd> {
        match keys {
            // The gate does not exist, and a node refuses a call with an existing and a missing key of a slot that is
            // being migrated.
            [list] if count > 1 && self.topology.is_cluster() => {
                let mut pop = scripts::BOUND_POP.call_with_source(&[list]);
                pop.arg(count).arg(SMALL_CHANNEL).arg(READ_BYTES);
                vec![pop]
            }
            [list] if count > 1 => {
                let gate = gate(list);
                // A transaction continues after an unknown script, so the source is sent with it.
                let mut bound = scripts::BOUND_POP.call_with_source(&[list, &*gate]);
                bound.arg(count).arg(SMALL_CHANNEL).arg(READ_BYTES);
                vec![bound, pop(&[&gate, list], count)]
            }
            keys => vec![pop(keys, 1)],
        }
    }

    fn wait(&self, keys: &[&str], timeout: Duration) -> Cmd {
        let mut command = redis::cmd("BLMPOP");
        command.arg(timeout.as_secs_f64()).arg(keys.len()).arg(keys).arg("LEFT");
        command
    }

    fn length(&self, key: &str) -> Option<Cmd> {
        let mut command = redis::cmd("LLEN");
        command.arg(key);
        Some(command)
    }

    fn takes_first(&self, _: usize) -> bool {
        false
    }

    async fn popped(&self, _: &Shard, answer: Value) -> Result<Option<Popped>, Fault> {
        let unexpected = || Fault::unexpected("a pop did not return a key and a list");
        let two = |answer| match answer {
            Value::Nil => Ok(None),
            Value::Array(parts) => <[Value; 2]>::try_from(parts).map(Some).map_err(|_| unexpected()),
            _ => Err(unexpected()),
        };
        let taken = match two(answer)? {
            // The answer of a transaction: the entries that the script took, or else those of the pop.
            Some([taken @ Value::Array(_), _]) => two(taken)?,
            Some([Value::Nil, popped]) => two(popped.extract_error()?)?,
            Some([Value::ServerError(error), _]) => return Err(RedisError::from(error).into()),
            other => other,
        };
        let (key, values) = match taken {
            Some([Value::BulkString(key), Value::Array(values)]) => (key, values),
            None => return Ok(None),
            _ => return Err(unexpected()),
        };
        let raw = values.into_iter().filter_map(|value| match value {
            Value::BulkString(entry) => Some(Raw { body: entry.into(), label: Bytes::new() }),
            _ => None,
        });
        Ok(Some(Popped { key, raw: raw.collect(), expired: 0 }))
    }

    fn have_expired(&self, shard: &Shard, messages: &[Raw]) -> bool {
        let now = shard.clock.now_ms().unwrap_or(0);
        !messages.is_empty()
            && messages.iter().all(|message| entry::expires(&message.body).is_some_and(|expires| expires <= now))
    }

    fn drop_expired(&self, key: &str) -> Option<Cmd> {
        let mut command = scripts::DROP_EXPIRED.call(&[key]);
        command.arg(MOST_EXPIRED).arg(READ_BYTES);
        Some(command)
    }

    fn resolver(&self) -> Box<dyn RecipientResolver> {
        Box::new(EntryResolver::new(self.groups.clone()))
    }

    fn put_back(&self, key: &str, entries: &[BufferedEntry]) -> Cmd {
        let mut command = scripts::PUT_BACK.call(&[key]);
        command.arg(milliseconds(SLACK));
        for entry in entries {
            command.arg(&self.remaining_bytes(entry)[..]);
        }
        command
    }
}

/// The command that pops up to `count` entries from the first of `keys` that has any.
fn pop(keys: &[&str], count: usize) -> Cmd {
    let mut command = redis::cmd("LMPOP");
    command.arg(keys.len()).arg(keys).arg("LEFT").arg("COUNT").arg(count);
    command
}

/// The key from which a pop takes its element instead of `list`, if that pop would be too large. It is in the same
/// slot.
fn gate(list: &str) -> String {
    format!("{list}:gate")
}

fn rest_of(address: &Address<Text>, locals: Locals) -> Address<Text> {
    match address {
        Address::Group { group, version } | Address::Rest { group, version, .. } => {
            Address::Rest { group: group.clone(), version: *version, locals }
        }
        other => other.clone(),
    }
}
