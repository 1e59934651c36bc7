//! `Readers`: all readers of a layer.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::broadcast;
use tokio_util::task::TaskTracker;

use super::consumer::Consumer;
use super::fetch::ownership::ChannelOwners;
use super::format::ReadFormat;
use super::reader::{Phase, Reader};
use super::task;
use crate::layer::Event;
use crate::name::ChannelName;
use crate::redis::closing::Closing;
use crate::redis::node::fault::Fault;
use crate::redis::receive::raw::TASK;
use crate::redis::receive::reader::context::ReaderContext;
use crate::redis::topology::places::Places;
use crate::supervise::contained;

/// Starts readers. Calls of `receive` for the same channels share a reader.
pub(crate) struct Readers {
    context: Arc<ReaderContext>,
    owners: Arc<ChannelOwners>,
    tasks: TaskTracker,
    runtime: Handle,
    shared: Arc<Shared>,
}

/// The shared readers by their channels. Locked only to find, add or remove one, and always before the state of a
/// reader.
type Shared = Mutex<HashMap<Box<[ChannelName]>, Arc<Reader>>>;

impl Readers {
    /// Creates no reader yet. Readers run on `tasks` in the current runtime, and end with the layer.
    pub(crate) fn new(
        places: Arc<Places>,
        format: Box<dyn ReadFormat>,
        events: broadcast::Sender<Event>,
        tasks: &TaskTracker,
        closing: &Closing,
    ) -> Self {
        let context = ReaderContext { places, format, events, closing: closing.clone(), lost: Mutex::default() };
        Self {
            context: Arc::new(context),
            owners: Arc::default(),
            tasks: tasks.clone(),
            runtime: Handle::current(),
            shared: Arc::default(),
        }
    }

    /// Takes out the shard to which entries could not be put back, and the cause.
    pub(crate) fn lost(&self) -> Option<(usize, Fault)> {
        self.context.lost.lock().take()
    }

    /// A consumer with a reader of its own, which prefetches from single-reader channels.
    pub(crate) fn own(&self, channels: Vec<ChannelName>) -> Consumer {
        let reader = Arc::new(Reader::new(self.context.clone(), without_duplicates(channels), true));
        let consumer = Consumer::new(reader.clone());
        self.start(reader, |reader| reader.state().phase == Phase::Abandoned);
        consumer
    }

    /// A consumer of the reader that all calls for these channels share.
    pub(crate) fn shared(&self, channels: Vec<ChannelName>) -> Consumer {
        let channels = without_duplicates(channels);
        let mut shared = self.shared.lock();
        if let Some(reader) = shared.get(&channels[..]) {
            return Consumer::new(reader.clone());
        }
        let reader = Arc::new(Reader::new(self.context.clone(), channels, false));
        shared.insert(reader.channels.clone(), reader.clone());
        let consumer = Consumer::new(reader.clone());
        let registry = Arc::downgrade(&self.shared);
        self.start(reader, move |reader| remove_unused(&registry, reader));
        consumer
    }

    fn start(&self, reader: Arc<Reader>, may_end: impl Fn(&Reader) -> bool + Send + Sync + 'static) {
        let (work, owners) = (reader.work.clone(), self.owners.clone());
        // The runtime may end at any time. Then the task is dropped where it stands, even before it begins.
        let ending = Ending { reader: reader.clone(), owners: owners.clone() };
        let run = async move {
            while contained(TASK, Box::pin(task::run(&reader, &owners, &may_end))).await.is_none() {
                reader.restart();
                tokio::time::sleep(reader.context.retry_pause()).await;
            }
            drop(ending);
        };
        self.tasks.spawn_on(work.run(run, self.runtime.clone()), &self.runtime);
    }
}

/// Finishes a reader when its task ends or is dropped.
struct Ending {
    reader: Arc<Reader>,
    owners: Arc<ChannelOwners>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.owners.release(&self.reader);
        self.reader.finish();
    }
}

fn without_duplicates(mut channels: Vec<ChannelName>) -> Box<[ChannelName]> {
    channels.sort();
    channels.dedup();
    channels.into()
}

/// Removes `reader` from the shared readers if it has no consumer. Returns whether it has none; a removed reader gets
/// no new one.
fn remove_unused(registry: &Weak<Shared>, reader: &Reader) -> bool {
    let Some(registry) = registry.upgrade() else { return reader.state().waiters.consumers == 0 };
    let mut shared = registry.lock();
    let unused = reader.state().waiters.consumers == 0;
    if unused {
        shared.remove(&reader.channels);
    }
    unused
}
