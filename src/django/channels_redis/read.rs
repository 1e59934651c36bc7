//! Reading messages of the format of `channels_redis`, and putting them back.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use redis::{Cmd, Value};

use super::ChannelsRedis;
use crate::django::format::{PythonRead, now_of};
use crate::django::payload::{Routing, undecodable};
use crate::django::script;
use crate::message::{Message, Value as Routed};
use crate::name::ChannelName;
use crate::redis::node::clock::milliseconds;
use crate::redis::node::fault::Fault;
use crate::redis::node::shard::Shard;
use crate::redis::receive::{BufferedEntry, Popped, READ_BYTES, Raw, Unreadable};

impl PythonRead for ChannelsRedis {
    const WAIT: &'static str = "BZPOPMIN";

    fn take(&self, keys: &[&str], count: usize) -> Cmd {
        let mut command = script::ZSET_TAKE.call(keys);
        command.arg(count).arg(READ_BYTES);
        command
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
        // `BZPOPMIN` returns the key, the member and its score; the script returns the key and a list of members and
        // scores.
        let members = match parts.next() {
            Some(Value::Array(members)) => members,
            Some(member) => std::iter::once(member).chain(parts).collect(),
            None => return Err(unexpected()),
        };
        let members: Vec<Bytes> = bytes_of(members).ok_or_else(unexpected)?;
        let raw = members.chunks_exact(2).map(|pair| Raw { body: pair[0].clone(), label: pair[1].clone() }).collect();
        Ok(Some(Popped { key, raw, expired: 0 }))
    }

    fn buffered(&self, shard: &Arc<Shard>, source: &ChannelName, raw: Raw) -> Result<BufferedEntry, Unreadable> {
        let sent = std::str::from_utf8(&raw.label).ok().and_then(time).ok_or_else(|| undecodable("it has no time"))?;
        let (message, routing) = self.base.payload.decode(&raw.body, now_of(shard))?;
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
        let expires = milliseconds(sent + self.base.payload.expiry);
        Ok(BufferedEntry::decoded(shard.clone(), source.clone(), expires, (raw, message), channels.into()))
    }

    fn put_back(&self, key: &str, entries: &[BufferedEntry]) -> Cmd {
        let mut command = script::ZSET_PUT_BACK.call(&[key]);
        command.arg(milliseconds(self.base.payload.expiry));
        for entry in entries {
            if let Some((raw, message)) = entry.decoded_message() {
                command.arg(&raw.label[..]).arg(&self.to_bytes(entry, raw, message)[..]);
            }
        }
        command
    }
}

impl ChannelsRedis {
    /// The bytes of an entry for the recipients that have not received it.
    fn to_bytes(&self, entry: &BufferedEntry, raw: &Raw, message: &Message) -> Bytes {
        let Some(rest) = entry.remaining_members() else { return raw.body.clone() };
        let routing = Routed::list(rest.iter().map(ChannelName::as_str));
        // A message that was decoded can be encoded. If it could not, members that have received it would receive it
        // again.
        self.base.payload.encode_again(message, &routing, now_of(entry.shard())).unwrap_or_else(|_| raw.body.clone())
    }
}

pub(super) fn score(value: &Value) -> Option<Duration> {
    match value {
        Value::BulkString(text) => std::str::from_utf8(text).ok().and_then(time),
        Value::Double(seconds) => Duration::try_from_secs_f64(*seconds).ok(),
        _ => None,
    }
}

fn time(score: &str) -> Option<Duration> {
    let seconds: f64 = score.parse().ok()?;
    // Clamp impossible times to the maximum.
    Some(Duration::try_from_secs_f64(seconds.min(1e11)).unwrap_or_default())
}

fn bytes_of(values: Vec<Value>) -> Option<Vec<Bytes>> {
    let bytes = |value| match value {
        Value::BulkString(bytes) => Some(bytes.into()),
        Value::Double(number) => Some(number.to_string().into()),
        _ => None,
    };
    values.into_iter().map(bytes).collect()
}
