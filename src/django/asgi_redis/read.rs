//! Reading messages of the format of `asgi_redis`, and putting them back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use redis::{Cmd, Value};

use super::AsgiRedis;
use crate::django::format::{PythonRead, now_of};
use crate::django::payload::{Routing, undecodable};
use crate::django::script;
use crate::drops::{self, DropReason};
use crate::name::ChannelName;
use crate::redis::node::clock::milliseconds;
use crate::redis::node::fault::Fault;
use crate::redis::node::shard::Shard;
use crate::redis::receive::{BufferedEntry, Popped, READ_BYTES, Raw, Unreadable};
use crate::redis::stored::scan::parse;

/// Pauses between attempts to fetch a message whose key has been taken.
const FETCH_PAUSE: Duration = Duration::from_millis(50);

/// The answer of `list_take.lua`: a list, the messages taken from it with the times at which they expire, and how many
/// keys had no message any more.
type Taken = (Vec<u8>, Vec<(Vec<u8>, u64)>, usize);

impl PythonRead for AsgiRedis {
    const WAIT: &'static str = "BLPOP";

    fn take(&self, keys: &[&str], count: usize) -> Cmd {
        let mut command = script::LIST_TAKE.call(keys);
        let lifetime = milliseconds(self.base.payload.expiry);
        command.arg(count).arg(READ_BYTES).arg(&self.base.keys.prefix).arg(lifetime);
        command
    }

    fn takes_first(&self, _: usize) -> bool {
        // A wait returns a key, and its message takes another round trip.
        true
    }

    async fn popped(&self, shard: &Shard, answer: Value) -> Result<Option<Popped>, Fault> {
        let Value::Array(parts) = &answer else { return Ok(None) };
        let mut raw = Vec::new();
        let (key, missing) = if parts.len() == 2 {
            // `BLPOP` returns the list and the key of the message.
            let (list, message): (Vec<u8>, Vec<u8>) = parse(answer)?;
            let fetched = if message.starts_with(self.base.keys.prefix.as_bytes()) {
                fetch(shard, &message, milliseconds(self.base.payload.expiry))
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
        Ok(Some(Popped { key, raw, expired: missing }))
    }

    fn buffered(&self, shard: &Arc<Shard>, source: &ChannelName, raw: Raw) -> Result<BufferedEntry, Unreadable> {
        let (message, routing) = self.base.payload.decode(&raw.body, now_of(shard))?;
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

    fn put_back(&self, list: &str, entries: &[BufferedEntry]) -> Cmd {
        let messages: Vec<_> = entries.iter().filter_map(|entry| entry.decoded_message()).map(|(raw, _)| raw).collect();
        // New keys, because the delete of a message that was read may still be under way.
        let keys = messages.iter().map(|_| self.new_key());
        let keys: Vec<_> = std::iter::once(list.to_owned()).chain(keys).collect();
        let mut command = script::LIST_PUT_BACK.call(&keys);
        for raw in messages {
            command.arg(expires(raw).unwrap_or(0)).arg(&raw.body[..]);
        }
        command
    }
}

/// Fetches the message under `key`. Returns it with the time at which it expires, in ms since the epoch, or `None` if
/// it has expired. A message without an expiry lives for `lifetime` ms from now on.
///
/// No list has the key any more, so no other reader takes the message. An answer may be lost, so the message is deleted
/// only after it has been read. Retries for two command timeouts while the server is unreachable.
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
        // If the delete fails, the message expires with its key.
        let _ = shard.run_once(redis::cmd("DEL").arg(key)).await;
    }
    Ok(message)
}

/// A message that has been taken and expires at `expires`, in ms since the epoch.
fn raw((body, expires): (Vec<u8>, u64)) -> Raw {
    Raw { body: body.into(), label: Bytes::copy_from_slice(&expires.to_be_bytes()) }
}

/// When a message expires, in ms since the epoch. Its [`Raw`] has this time as its label.
fn expires(raw: &Raw) -> Option<u64> {
    raw.label[..].try_into().ok().map(u64::from_be_bytes)
}
