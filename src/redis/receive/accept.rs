//! Putting what was read into the buffer of a reader, once it is known who it is for.

use std::sync::Arc;
use std::task::Waker;

use super::format::Sorter;
use super::lane::Read;
use super::reader::{PANICKED, Reader, TASK};
use crate::drops::{self, DropReason};
use crate::redis::shard::Shard;
use crate::supervise::contained;

/// Puts what was read from `shard` into the buffer. A message whose group's server is away is held: all others would have to
/// wait behind it.
pub(super) async fn accept(reader: &Reader, sorter: &mut dyn Sorter, shard: &Arc<Shard>, read: Read) {
    let mut parcels = Vec::with_capacity(read.raw.len());
    for raw in read.raw {
        let body = raw.body.clone();
        match contained(TASK, sorter.parcel(shard, &read.channel, raw)).await {
            Some(parcel) => parcels.extend(parcel),
            None => {
                drops::count(DropReason::Undecodable, 1);
                reader.surroundings.format.refuse(shard, body, PANICKED.to_owned());
            }
        }
    }
    // What is held for the same groups comes first.
    ask_again(reader, sorter).await;
    let waiters: Vec<_> = {
        let mut state = reader.state();
        // What goes back goes in the order in which it came.
        let ends = state.is_closed() || reader.surroundings.closing.is_cancelled();
        let before = state.parcels.len();
        for parcel in parcels {
            if parcel.is_for_unknown() && !ends {
                state.held.push(parcel);
            } else {
                state.parcels.push_back(parcel);
            }
        }
        (before..state.parcels.len()).map_while(|_| state.next_waiter()).collect()
    };
    waiters.into_iter().for_each(Waker::wake);
}

/// Asks again who messages are for that are held, and puts those of which it is known now before all others.
pub(super) async fn ask_again(reader: &Reader, sorter: &mut dyn Sorter) {
    let held = reader.state().held.take();
    if held.is_empty() {
        return;
    }
    let parcels = sorter.ask_again(held).await;
    let waiters: Vec<_> = {
        let mut state = reader.state();
        let before = state.parcels.len();
        state.prepend(parcels);
        (before..state.parcels.len()).map_while(|_| state.next_waiter()).collect()
    };
    waiters.into_iter().for_each(Waker::wake);
}
