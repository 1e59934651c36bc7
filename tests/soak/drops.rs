//! Records dropped messages when the layer counts them, so that those of a process that is killed later are known too.

use std::sync::{Arc, Weak};

use metrics::{Counter, CounterFn, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

use super::history::{Event, History, MessageId};

/// A recorder of metrics for a process, or for one of its group sends.
#[derive(Clone)]
pub struct DropRecorder {
    /// Weak, because threads of a runtime may keep their recorder for as long as the test runs.
    history: Weak<History>,
    process: usize,
    /// The messages of the group send.
    ids: Option<Arc<[MessageId]>>,
}

impl DropRecorder {
    pub fn of_process(history: &Arc<History>, process: usize) -> Self {
        Self { history: Arc::downgrade(history), process, ids: None }
    }

    /// Records what is counted in the future of a group send of the messages `ids`.
    pub fn of_group_send(history: &Arc<History>, process: usize, ids: impl IntoIterator<Item = MessageId>) -> Self {
        Self { ids: Some(ids.into_iter().collect()), ..Self::of_process(history, process) }
    }
}

impl Recorder for DropRecorder {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        if key.name() != "channel_layer_dropped_total" {
            return Counter::noop();
        }
        let reason = key.labels().map(|label| label.value().to_owned()).collect();
        Counter::from_arc(Arc::new(DropCounter { recorder: self.clone(), reason }))
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

/// The counter of the messages that are dropped for one reason.
struct DropCounter {
    recorder: DropRecorder,
    reason: String,
}

impl CounterFn for DropCounter {
    fn increment(&self, messages: u64) {
        let DropRecorder { history, process, ids } = &self.recorder;
        let Some(history) = history.upgrade() else { return };
        let reason = self.reason.clone();
        history.record(
            *process,
            match ids {
                Some(ids) => Event::GroupSendCounted { ids: ids.to_vec(), reason, messages },
                None => Event::Counted { reason, messages },
            },
        );
    }

    fn absolute(&self, _: u64) {
        unreachable!("drops are counted one after the other");
    }
}
