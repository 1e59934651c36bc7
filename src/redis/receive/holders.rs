//! Who reads which `!` and `?` channel.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::reader::Reader;
use crate::name::ChannelName;

/// For each `!` and `?` channel the reader of this process that read it last. Such a channel has one reader at a time,
/// but a program may read it by a receiver now and by single calls later.
#[derive(Default)]
pub(super) struct Holders {
    /// Held only to read or change it.
    readers: Mutex<HashMap<ChannelName, Weak<Reader>>>,
}

impl Holders {
    /// Makes `reader` the holder of its channels; gives those that were.
    pub(super) fn claim(&self, reader: &Arc<Reader>) -> Vec<Arc<Reader>> {
        let mut predecessors = Vec::new();
        let mut readers = self.readers.lock();
        for channel in reader.channels.iter().filter(|channel| channel.kind().has_one_reader()) {
            match readers.get_mut(channel) {
                Some(holder) if holder.as_ptr() == Arc::as_ptr(reader) => {}
                Some(holder) => {
                    predecessors.extend(std::mem::replace(holder, Arc::downgrade(reader)).upgrade());
                }
                None => {
                    readers.insert(channel.clone(), Arc::downgrade(reader));
                }
            }
        }
        predecessors
    }

    /// Forgets `reader`, which has ended.
    pub(super) fn release(&self, reader: &Arc<Reader>) {
        let mut readers = self.readers.lock();
        for channel in &reader.channels {
            if readers.get(channel).is_some_and(|holder| holder.as_ptr() == Arc::as_ptr(reader)) {
                readers.remove(channel);
            }
        }
    }
}
