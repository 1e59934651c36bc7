//! Adding fetched messages to the buffer of a reader, after their recipients have been looked up.

use std::collections::{HashMap, HashSet};

use crate::drops::DropReason;
use crate::redis::receive::buffer::fifo::Buffer;
use crate::redis::receive::buffer::held::Lookup;
use crate::redis::receive::fetch::fetch_loop::FetchLoop;
use crate::redis::receive::fetch::fetched::Read;
use crate::redis::receive::format::{RecipientResolver, Undeliverable};
use crate::redis::receive::raw::Unreadable;
use crate::redis::receive::raw::{PANICKED, TASK};
use crate::redis::receive::reader::Reader;
use crate::supervise::contained;

/// Adds what `fetch_loop` read to the buffer. A message whose group's server is unreachable is held.
pub(crate) async fn accept(
    reader: &Reader,
    resolver: &mut dyn RecipientResolver,
    fetch_loop: &mut FetchLoop,
    read: Read,
) {
    {
        let buffer = &mut reader.state().buffer;
        buffer.arrivals.add(&fetch_loop.shard, &read.channel, &read.list, read.raw);
        buffer.dropped.add(DropReason::Expired, read.expired);
    }
    fetch_loop.handed_over();
    resolve_arrivals(reader, resolver).await;
}

/// Looks up the recipients of the messages that have arrived, and adds these to the buffer.
pub(crate) async fn resolve_arrivals(reader: &Reader, resolver: &mut dyn RecipientResolver) {
    loop {
        // The message stays in the state of the reader during the lookup.
        let Some(arrival) = reader.state().buffer.arrivals.first() else { break };
        let (shard, source, body) = (arrival.shard, arrival.source, arrival.raw.body.clone());
        let result = contained(TASK, resolver.resolve(&shard, &source, arrival.raw)).await;
        let result = result
            .unwrap_or_else(|| Err(Unreadable { drop: DropReason::Undecodable, reason: PANICKED.to_owned() }.into()));
        let (entry, dropped, rejected) = match result {
            Ok(entry) => (entry, None, None),
            Err(Undeliverable::Dropped(reason)) => (None, Some(reason), None),
            Err(Undeliverable::Unreadable(unreadable)) => (None, Some(unreadable.drop), Some(unreadable.reason)),
        };
        {
            let buffer = &mut reader.state().buffer;
            buffer.arrivals.replace_first(entry);
            if let Some(reason) = dropped {
                buffer.dropped.add(reason, 1);
            }
        }
        if let Some(reason) = rejected {
            reader.context.format.reject(&shard, &source, body, reason);
        }
    }
    // Held messages are older, so they come first.
    resolve_held(reader, resolver).await;
    reader.change_buffer(Buffer::push_arrivals);
}

/// Looks up the members of held messages again, and makes the messages ready that have to wait no longer.
pub(crate) async fn resolve_held(reader: &Reader, resolver: &mut dyn RecipientResolver) {
    let sends = reader.state().buffer.held.begin_lookups();
    if sends.is_empty() {
        return;
    }
    let mut lookups = HashMap::new();
    // If a lookup for one message of a group is unavailable, so are those for the messages behind it.
    let mut unavailable = HashSet::new();
    for send in sends {
        if unavailable.contains(&send.group) {
            continue;
        }
        match contained(TASK, resolver.members(&send)).await.unwrap_or(Lookup::Failed) {
            Lookup::Unavailable { .. } => {
                unavailable.insert(send.group);
            }
            lookup => {
                lookups.insert(send, lookup);
            }
        }
    }
    reader.change_buffer(|buffer| buffer.apply_lookups(&lookups));
}
