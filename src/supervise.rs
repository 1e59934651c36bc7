//! Panics in tasks that others depend on: each costs the item that was being handled, and the task goes on.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};

use futures_util::FutureExt;

/// Handles one item of a task. Returns `None` if that panics.
///
/// What the task has may be seen half changed afterwards: an item is not to leave anything between two states that have to
/// go together.
pub(crate) fn contain<T>(task: &'static str, handle: impl FnOnce() -> T) -> Option<T> {
    let handle = AssertUnwindSafe(|| {
        #[cfg(test)]
        trap::spring(task);
        handle()
    });
    catch_unwind(handle).inspect_err(|_| count(task)).ok()
}

/// Handles one item of a task, as [`contain`].
///
/// # Cancel safety
///
/// That of `handling`.
pub(crate) async fn contained<T>(task: &'static str, handling: impl Future<Output = T>) -> Option<T> {
    #[cfg(test)]
    let handling = async {
        trap::spring(task);
        handling.await
    };
    AssertUnwindSafe(handling).catch_unwind().await.inspect_err(|_| count(task)).ok()
}

/// The message of the panic is printed by the hook of the process.
fn count(task: &'static str) {
    metrics::counter!("channel_layer_task_panics_total", "task" => task).increment(1);
    tracing::error!(task, "a task panicked at what it was handling, and goes on with the next");
}

/// Panics that tests want.
#[cfg(test)]
pub(crate) mod trap {
    use std::cell::Cell;

    thread_local! {
        static ARMED: Cell<Option<&'static str>> = const { Cell::new(None) };
    }

    /// Has the next item of `task` on this thread panic. A test has all its tasks on one thread.
    pub(crate) fn arm(task: &'static str) {
        ARMED.set(Some(task));
    }

    /// Whether no item has come since.
    pub(crate) fn is_armed() -> bool {
        ARMED.get().is_some()
    }

    pub(super) fn spring(task: &str) {
        if ARMED.get() == Some(task) {
            ARMED.set(None);
            panic!("as the test wants it");
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
        assert_eq!(contain("a", || -> i32 { panic!("as the test wants it") }), None);
        assert_eq!(contained("a", async { 2 }).await, Some(2));
        let panics = async || -> i32 { panic!("as the test wants it") };
        assert_eq!(contained("a", panics()).await, None);
        let counted = recorder.snapshotter().snapshot().into_vec();
        assert_eq!(counted.len(), 1);
        assert_eq!(counted[0].3, metrics_util::debugging::DebugValue::Counter(2));
    }
}
