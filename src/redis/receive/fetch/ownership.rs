//! `ChannelOwners`: which reader of this process reads each `!` and `?` channel.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tracing::warn;

use crate::name::ChannelName;
use crate::redis::receive::reader::Reader;

/// For each `!` and `?` channel, the reader of this process that acquired it last.
///
/// Such a channel has one reader at a time, but a program may read it by a receiver now and by single calls later.
#[derive(Default)]
pub(crate) struct ChannelOwners {
    /// Locked only to read or change it, and always before the state of a reader.
    acquisitions: Mutex<Acquisitions>,
}

#[derive(Default)]
struct Acquisitions {
    owners: HashMap<ChannelName, Weak<Reader>>,
    last_ticket: u64,
    /// Whether contention has been logged.
    logged_contention: bool,
}

impl Acquisitions {
    /// Logs contention once: it is a mistake in the program, and lasts as long as the program does.
    fn log_contention(&mut self, channel: &ChannelName) {
        if !std::mem::replace(&mut self.logged_contention, true) {
            warn!(%channel, "two readers wait for a channel that can have one, and take turns");
        }
    }
}

/// The right of a reader to read channels that other readers owned before.
///
/// Tickets order all acquisitions. Each acquisition waits only for earlier ones, so no two wait for each other.
pub(crate) struct Acquisition {
    pub(crate) ticket: u64,
    pub(crate) previous_owners: Vec<Arc<Reader>>,
}

/// Another reader waits for a single-reader channel at the same time.
pub(crate) struct Contested;

impl ChannelOwners {
    /// Makes `reader` the owner of its single-reader channels. Returns `None` if no other reader owned any of them.
    ///
    /// Unless it `insists`, it acquires no channel while another owner waits for any of them, and the result is
    /// [`Contested`].
    pub(crate) fn acquire(&self, reader: &Arc<Reader>, insists: bool) -> Result<Option<Acquisition>, Contested> {
        let mut previous_owners: Vec<Arc<Reader>> = Vec::new();
        let mut acquisitions = self.acquisitions.lock();
        let channels = || reader.channels.iter().filter(|channel| channel.kind().has_one_reader());
        for channel in channels() {
            if let Some(owner) = acquisitions.owners.get(channel)
                && owner.as_ptr() != Arc::as_ptr(reader)
                && let Some(previous) = owner.upgrade()
                && !previous_owners.iter().any(|known| Arc::ptr_eq(known, &previous))
            {
                if !insists && previous.state().missing() > 0 {
                    acquisitions.log_contention(channel);
                    return Err(Contested);
                }
                previous_owners.push(previous);
            }
        }
        for channel in channels() {
            match acquisitions.owners.get_mut(channel) {
                Some(owner) if owner.as_ptr() == Arc::as_ptr(reader) => {}
                Some(owner) => *owner = Arc::downgrade(reader),
                None => {
                    acquisitions.owners.insert(channel.clone(), Arc::downgrade(reader));
                }
            }
        }
        if previous_owners.is_empty() {
            return Ok(None);
        }
        acquisitions.last_ticket += 1;
        Ok(Some(Acquisition { ticket: acquisitions.last_ticket, previous_owners }))
    }

    /// Removes `reader`, which ends, from the owners.
    pub(crate) fn release(&self, reader: &Arc<Reader>) {
        let mut acquisitions = self.acquisitions.lock();
        for channel in &reader.channels {
            if acquisitions.owners.get(channel).is_some_and(|owner| owner.as_ptr() == Arc::as_ptr(reader)) {
                acquisitions.owners.remove(channel);
            }
        }
    }
}
