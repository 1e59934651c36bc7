//! Containment of panics in shared tasks: a panic costs one item, and the task continues with the next.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};

use futures_util::FutureExt;

/// Handles one item of a task. Returns `None` if it panics.
///
/// Afterwards the state of the task may be partly changed. Handling an item must therefore not leave state inconsistent
/// at a point that can panic.
pub(crate) fn contain<T>(task: &'static str, handle: impl FnOnce() -> T) -> Option<T> {
    let handle = AssertUnwindSafe(|| {
        #[cfg(test)]
        trap::spring(task);
        handle()
    });
    catch_unwind(handle).inspect_err(|_| report(task)).ok()
}

/// Handles one item of a task asynchronously, as [`contain`].
///
/// # Cancel safety
///
/// As `handling`.
pub(crate) async fn contained<T>(task: &'static str, handling: impl Future<Output = T>) -> Option<T> {
    #[cfg(test)]
    let handling = async {
        trap::spring(task);
        handling.await
    };
    AssertUnwindSafe(handling).catch_unwind().await.inspect_err(|_| report(task)).ok()
}

/// Updates a metric. The recorder of metrics is foreign code: a panic of it costs only this update.
///
/// Every metric of the crate is updated through this function, and outside of locks, because the recorder may call the
/// layer. The exceptions are the metrics of one command, one entry or one connection of Redis, where a panic costs only
/// that: a test of the source tree lists their files, and `redis::panics` makes the tasks panic there.
pub(crate) fn update_metric(update: impl FnOnce()) {
    contain("recorder of metrics", update);
}

/// The value of a metric for a number of items.
pub(crate) fn metric_value(items: usize) -> f64 {
    u32::try_from(items).unwrap_or(u32::MAX).into()
}

/// Logs and counts a panic. The panic hook of the process has already printed its message.
fn report(task: &'static str) {
    let log = || tracing::error!(task, "a task panicked while handling an item, and continues with the next");
    let count = || metrics::counter!("channel_layer_task_panics_total", "task" => task).increment(1);
    // The panic may come from the log or the recorder of metrics, which would panic again.
    let _ = catch_unwind(AssertUnwindSafe(log));
    let _ = catch_unwind(AssertUnwindSafe(count));
}

/// Panics injected by tests.
#[cfg(test)]
pub(crate) mod trap {
    use std::cell::Cell;
    use std::sync::{Arc, mpsc};
    use std::thread;
    use std::time::Duration;

    use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, SharedString, Unit};
    use parking_lot::Mutex;

    thread_local! {
        static ARMED: Cell<Option<&'static str>> = const { Cell::new(None) };
    }

    /// Makes the next item of `task` on this thread panic. Tests run all their tasks on one thread.
    pub(crate) fn arm(task: &'static str) {
        ARMED.set(Some(task));
    }

    /// Whether the panic has not happened yet.
    pub(crate) fn is_armed() -> bool {
        ARMED.get().is_some()
    }

    pub(super) fn spring(task: &str) {
        if ARMED.get() == Some(task) {
            ARMED.set(None);
            panic!("injected by the test");
        }
    }

    /// A recorder of metrics that calls the layer whenever a metric is updated.
    pub(crate) struct CallingRecorder {
        call: Arc<dyn Fn() + Send + Sync>,
        returned: Mutex<Vec<bool>>,
    }

    impl CallingRecorder {
        pub(crate) fn new(call: impl Fn() + Send + Sync + 'static) -> Self {
            Self { call: Arc::new(call), returned: Mutex::default() }
        }

        /// For each update since the last call of this function, whether the call of the layer returned.
        pub(crate) fn returned(&self) -> Vec<bool> {
            std::mem::take(&mut self.returned.lock())
        }

        fn call(&self) {
            let (call, (done, ended)) = (self.call.clone(), mpsc::channel());
            // Another thread, so that a deadlock ends with the test.
            thread::spawn(move || {
                call();
                done.send(())
            });
            self.returned.lock().push(ended.recv_timeout(Duration::from_secs(5)).is_ok());
        }
    }

    impl metrics::Recorder for CallingRecorder {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
            self.call();
            Counter::noop()
        }

        fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
            self.call();
            Gauge::noop()
        }

        fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
            self.call();
            Histogram::noop()
        }
    }

    /// A recorder of metrics that always panics.
    pub(crate) struct BrokenRecorder;

    impl metrics::Recorder for BrokenRecorder {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
            panic!("injected by the test")
        }

        fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
            panic!("injected by the test")
        }

        fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
            panic!("injected by the test")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_costs_one_item() {
        let recorder = metrics_util::debugging::DebuggingRecorder::new();
        let _recording = metrics::set_default_local_recorder(&recorder);
        assert_eq!(contain("a", || 1), Some(1));
        assert_eq!(contain("a", || -> i32 { panic!("injected by the test") }), None);
        assert_eq!(contained("a", async { 2 }).await, Some(2));
        let panics = async || -> i32 { panic!("injected by the test") };
        assert_eq!(contained("a", panics()).await, None);
        let counted = recorder.snapshotter().snapshot().into_vec();
        assert_eq!(counted.len(), 1);
        assert_eq!(counted[0].3, metrics_util::debugging::DebugValue::Counter(2));
    }

    #[tokio::test]
    async fn a_panic_is_contained_though_it_cannot_be_counted() {
        let _recording = metrics::set_default_local_recorder(&trap::BrokenRecorder);
        let counts = || metrics::counter!("n").increment(1);
        assert_eq!(contain("a", counts), None);
        assert_eq!(contained("a", async { counts() }).await, None);
    }
}
