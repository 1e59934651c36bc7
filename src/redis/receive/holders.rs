//! Who reads which `!` and `?` channel.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::reader::Reader;
use crate::name::ChannelName;

/// For each `!` and `?` channel the reader of this process that claimed it last. Such a channel has one reader at a
/// time, but a program may read it by a receiver now and by single calls later.
#[derive(Default)]
pub(super) struct Holders {
    /// Held only to read or change it.
    claims: Mutex<Claims>,
}

#[derive(Default)]
struct Claims {
    holders: HashMap<ChannelName, Weak<Reader>>,
    last_ticket: u64,
}

/// That a reader is about to read channels which others have read before.
///
/// Claims are in one order, by their tickets, and each waits for earlier ones alone, so that no two wait for each
/// other.
pub(super) struct Claim {
    pub(super) ticket: u64,
    pub(super) predecessors: Vec<Arc<Reader>>,
}

impl Holders {
    /// Makes `reader` the holder of its channels; nothing if it was, or nobody was.
    pub(super) fn claim(&self, reader: &Arc<Reader>) -> Option<Claim> {
        let mut predecessors: Vec<Arc<Reader>> = Vec::new();
        let mut claims = self.claims.lock();
        for channel in reader.channels.iter().filter(|channel| channel.kind().has_one_reader()) {
            let before = match claims.holders.get_mut(channel) {
                Some(holder) if holder.as_ptr() == Arc::as_ptr(reader) => None,
                Some(holder) => std::mem::replace(holder, Arc::downgrade(reader)).upgrade(),
                None => {
                    claims.holders.insert(channel.clone(), Arc::downgrade(reader));
                    None
                }
            };
            if let Some(before) = before
                && !predecessors.iter().any(|known| Arc::ptr_eq(known, &before))
            {
                predecessors.push(before);
            }
        }
        if predecessors.is_empty() {
            return None;
        }
        claims.last_ticket += 1;
        Some(Claim { ticket: claims.last_ticket, predecessors })
    }

    /// Forgets `reader`, which has ended.
    pub(super) fn release(&self, reader: &Arc<Reader>) {
        let mut claims = self.claims.lock();
        for channel in &reader.channels {
            if claims.holders.get(channel).is_some_and(|holder| holder.as_ptr() == Arc::as_ptr(reader)) {
                claims.holders.remove(channel);
            }
        }
    }
}
