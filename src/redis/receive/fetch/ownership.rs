//! Who reads which `!` and `?` channel.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tracing::warn;

use crate::name::ChannelName;
use crate::redis::receive::reader::Reader;

/// For each `!` and `?` channel the reader of this process that claimed it last. Such a channel has one reader at a
/// time, but a program may read it by a receiver now and by single calls later.
#[derive(Default)]
pub(crate) struct ChannelOwners {
    /// Held only to read or change it; taken before the state of a reader.
    claims: Mutex<Acquisitions>,
}

#[derive(Default)]
struct Acquisitions {
    holders: HashMap<ChannelName, Weak<Reader>>,
    last_ticket: u64,
    /// Whether it was logged that a channel has two readers.
    told_contested: bool,
}

impl Acquisitions {
    /// Logs, once, what is a mistake in the program, and goes on for as long as it does.
    fn tell_contested(&mut self, channel: &ChannelName) {
        if !std::mem::replace(&mut self.told_contested, true) {
            warn!(%channel, "two readers wait for a channel that can have one, and take turns");
        }
    }
}

/// That a reader is about to read channels which others have read before.
///
/// Acquisitions are in one order, by their tickets, and each waits for earlier ones alone, so that no two wait for each
/// other.
pub(crate) struct Acquisition {
    pub(crate) ticket: u64,
    pub(crate) predecessors: Vec<Arc<Reader>>,
}

/// A channel of one reader that another reader waits for at the same time.
pub(crate) struct Contested;

impl ChannelOwners {
    /// Makes `reader` the holder of its channels; the claim is nothing if it was, or nobody was. Unless it `insists`, it
    /// becomes the holder of none while another one waits for any of them.
    pub(crate) fn claim(&self, reader: &Arc<Reader>, insists: bool) -> Result<Option<Acquisition>, Contested> {
        let mut predecessors: Vec<Arc<Reader>> = Vec::new();
        let mut claims = self.claims.lock();
        let channels = || reader.channels.iter().filter(|channel| channel.kind().has_one_reader());
        for channel in channels() {
            if let Some(holder) = claims.holders.get(channel)
                && holder.as_ptr() != Arc::as_ptr(reader)
                && let Some(before) = holder.upgrade()
                && !predecessors.iter().any(|known| Arc::ptr_eq(known, &before))
            {
                if !insists && before.state().missing() > 0 {
                    claims.tell_contested(channel);
                    return Err(Contested);
                }
                predecessors.push(before);
            }
        }
        for channel in channels() {
            match claims.holders.get_mut(channel) {
                Some(holder) if holder.as_ptr() == Arc::as_ptr(reader) => {}
                Some(holder) => *holder = Arc::downgrade(reader),
                None => {
                    claims.holders.insert(channel.clone(), Arc::downgrade(reader));
                }
            }
        }
        if predecessors.is_empty() {
            return Ok(None);
        }
        claims.last_ticket += 1;
        Ok(Some(Acquisition { ticket: claims.last_ticket, predecessors }))
    }

    /// Forgets `reader`, which has ended.
    pub(crate) fn release(&self, reader: &Arc<Reader>) {
        let mut claims = self.claims.lock();
        for channel in &reader.channels {
            if claims.holders.get(channel).is_some_and(|holder| holder.as_ptr() == Arc::as_ptr(reader)) {
                claims.holders.remove(channel);
            }
        }
    }
}
