//! Putting what was read into the buffer of a reader, once it is known who it is for.

use std::sync::Arc;
use std::task::Waker;

use crate::drops::{self, DropReason};
use crate::redis::node::shard::Shard;
use crate::redis::receive::buffer::entry::BufferedEntry;
use crate::redis::receive::fetch::fetch_loop::Read;
use crate::redis::receive::format::RecipientResolver;
use crate::redis::receive::reader::{PANICKED, Reader, TASK};
use crate::supervise::contained;

/// Puts what was read from `shard` into the buffer. A message whose group's server is away is held.
pub(crate) async fn accept(reader: &Reader, sorter: &mut dyn RecipientResolver, shard: &Arc<Shard>, read: Read) {
    let mut parcels = Vec::with_capacity(read.raw.len());
    for raw in read.raw {
        let body = raw.body.clone();
        match contained(TASK, sorter.parcel(shard, &read.channel, raw)).await {
            Some(parcel) => parcels.extend(parcel),
            None => {
                drops::count(DropReason::Undecodable, 1);
                reader.surroundings.format.refuse(shard, &read.channel, body, PANICKED.to_owned());
            }
        }
    }
    // What is held came before.
    ask_again(reader, sorter).await;
    push(reader, parcels);
}

/// Asks again for the members of messages that are held, and puts those messages into the buffer that need not wait any more.
pub(crate) async fn ask_again(reader: &Reader, sorter: &mut dyn RecipientResolver) {
    let held = reader.state().held.take();
    if held.is_empty() {
        return;
    }
    push(reader, sorter.ask_again(held).await);
}

/// Puts parcels behind all others, and wakes consumers for those that can be taken.
fn push(reader: &Reader, parcels: Vec<BufferedEntry>) {
    let waiters: Vec<_> = {
        let mut state = reader.state();
        let before = state.parcels.len();
        for parcel in parcels {
            state.push(parcel);
        }
        (before..state.parcels.len()).map_while(|_| state.next_waiter()).collect()
    };
    waiters.into_iter().for_each(Waker::wake);
}
