//! Adding fetched messages to the buffer of a reader, after their recipients have been looked up.

use std::sync::Arc;
use std::task::Waker;

use crate::drops::{self, DropReason};
use crate::redis::node::shard::Shard;
use crate::redis::receive::buffer::entry::BufferedEntry;
use crate::redis::receive::fetch::fetch_loop::Read;
use crate::redis::receive::format::RecipientResolver;
use crate::redis::receive::panic::{PANICKED, TASK};
use crate::redis::receive::reader::Reader;
use crate::supervise::contained;

/// Adds what was read from `shard` to the buffer. A message whose group's server is unreachable is held.
pub(crate) async fn accept(reader: &Reader, resolver: &mut dyn RecipientResolver, shard: &Arc<Shard>, read: Read) {
    let mut entries = Vec::with_capacity(read.raw.len());
    for raw in read.raw {
        let body = raw.body.clone();
        match contained(TASK, resolver.resolve(shard, &read.channel, raw)).await {
            Some(entry) => entries.extend(entry),
            None => {
                drops::count(DropReason::Undecodable, 1);
                reader.context.format.reject(shard, &read.channel, body, PANICKED.to_owned());
            }
        }
    }
    // Held messages are older, so they come first.
    resolve_held(reader, resolver).await;
    push(reader, entries);
}

/// Looks up the members of held messages again, and makes the messages ready that have to wait no longer.
pub(crate) async fn resolve_held(reader: &Reader, resolver: &mut dyn RecipientResolver) {
    let held = reader.state().buffer.held.take();
    if held.is_empty() {
        return;
    }
    push(reader, resolver.resolve_held(held).await);
}

/// Adds entries behind all others, and wakes a consumer for each that is ready.
fn push(reader: &Reader, entries: Vec<BufferedEntry>) {
    let waiters: Vec<_> = {
        let mut state = reader.state();
        let before = state.buffer.ready.len();
        for entry in entries {
            state.buffer.push(entry);
        }
        (before..state.buffer.ready.len()).map_while(|_| state.waiters.next()).collect()
    };
    waiters.into_iter().for_each(Waker::wake);
}
