//! All readers of a layer.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::broadcast;
use tokio_util::task::TaskTracker;

use super::consumer::Consumer;
use super::format::ReadFormat;
use super::reader::{Phase, Reader, ReaderContext, TASK};
use super::task;
use crate::layer::Event;
use crate::name::ChannelName;
use crate::redis::closing::Closing;
use crate::redis::node::fault::Fault;
use crate::redis::receive::fetch::ownership::ChannelOwners;
use crate::redis::topology::places::Places;
use crate::supervise::contained;

/// Starts readers, and lets calls of `receive` for the same channels share one.
pub(crate) struct Readers {
    surroundings: Arc<ReaderContext>,
    tasks: TaskTracker,
    runtime: Handle,
    shared: Arc<Shared>,
}

/// Readers that calls of `receive` share, by their channels. Held only to find, add or remove one; taken before the
/// state of a reader.
type Shared = Mutex<HashMap<Box<[ChannelName]>, Arc<Reader>>>;

impl Readers {
    /// Readers run on `tasks`, in this runtime, and end with the layer.
    pub(crate) fn new(
        places: Arc<Places>,
        format: Box<dyn ReadFormat>,
        events: broadcast::Sender<Event>,
        tasks: &TaskTracker,
        closing: &Closing,
    ) -> Self {
        let surroundings = ReaderContext {
            places,
            format,
            events,
            closing: closing.clone(),
            holders: ChannelOwners::default(),
            lost: Mutex::default(),
        };
        Self {
            surroundings: Arc::new(surroundings),
            tasks: tasks.clone(),
            runtime: Handle::current(),
            shared: Arc::default(),
        }
    }

    /// Tells, once, what could not be put back and why.
    pub(crate) fn lost(&self) -> Option<(usize, Fault)> {
        self.surroundings.lost.lock().take()
    }

    /// A consumer with a reader of its own, which takes more than it is asked from channels that have one reader.
    pub(crate) fn own(&self, channels: Vec<ChannelName>) -> Consumer {
        let reader = Arc::new(Reader::new(self.surroundings.clone(), without_duplicates(channels), true));
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
        let reader = Arc::new(Reader::new(self.surroundings.clone(), channels, false));
        shared.insert(reader.channels.clone(), reader.clone());
        let consumer = Consumer::new(reader.clone());
        let home = Arc::downgrade(&self.shared);
        self.start(reader, move |reader| leave(&home, reader));
        consumer
    }

    fn start(&self, reader: Arc<Reader>, may_end: impl Fn(&Reader) -> bool + Send + Sync + 'static) {
        let work = reader.work.clone();
        // The runtime may have ended, now or later; then the task is dropped wherever it is, even before it begins.
        let ending = Ending(reader.clone());
        let run = async move {
            while contained(TASK, Box::pin(task::run(&reader, &may_end))).await.is_none() {
                reader.begin_anew();
                tokio::time::sleep(reader.surroundings.retry_pause()).await;
            }
            drop(ending);
        };
        self.tasks.spawn_on(work.run(run, self.runtime.clone()), &self.runtime);
    }
}

/// The end of a reader, which comes with that of its task.
struct Ending(Arc<Reader>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.finish();
    }
}

fn without_duplicates(mut channels: Vec<ChannelName>) -> Box<[ChannelName]> {
    channels.sort();
    channels.dedup();
    channels.into()
}

/// Takes `reader` out of its home if nobody uses it; then nobody can come back to it.
fn leave(home: &Weak<Shared>, reader: &Reader) -> bool {
    let Some(home) = home.upgrade() else { return reader.state().users == 0 };
    let mut shared = home.lock();
    let unused = reader.state().users == 0;
    if unused {
        shared.remove(&reader.channels);
    }
    unused
}
