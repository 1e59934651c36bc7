//! `DrivenTask`: a background future that callers may also poll inline.
//!
//! Waking a task costs a turn of the scheduler, and after a few such turns in a row the scheduler wakes another thread.
//! A caller that has just given the future something to do polls it instead, so that the command is on its way before
//! the caller starts to wait.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::runtime::Handle;

/// A future that a task runs, and that callers poll in the name of that task.
#[derive(Default)]
pub(crate) struct DrivenTask {
    /// Held while the future is polled, which never waits.
    running: Mutex<Option<Running>>,
    /// Raised when the future has something to do.
    signal: Signal,
}

struct Running {
    future: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// The waker of the task. The future wakes the task, whichever caller polled it.
    waker: Waker,
    runtime: Handle,
}

impl DrivenTask {
    /// Returns the future that the task has to run. `future` is dropped when the returned future is dropped or
    /// complete.
    pub(crate) fn run(
        self: Arc<Self>,
        future: impl Future<Output = ()> + Send + 'static,
        runtime: Handle,
    ) -> impl Future<Output = ()> + Send {
        let running = Running { future: Box::pin(future), waker: Waker::noop().clone(), runtime };
        *self.running.lock() = Some(running);
        Task(self)
    }

    /// Waits, within the future, until there is something to do.
    pub(crate) async fn signalled(&self) {
        self.signal.raised().await;
    }

    /// Signals the future and wakes its task.
    pub(crate) fn wake(&self) {
        self.signal.raise();
        self.signal.waker.wake();
    }

    /// Signals the future and polls it on this thread.
    pub(crate) fn poll_inline(&self) {
        self.signal.raise();
        // Another thread may be polling it, and may have looked at the signal already.
        let Some(mut running) = self.running.try_lock() else { return self.signal.waker.wake() };
        let Some(Running { future, waker, runtime }) = &mut *running else { return };
        let _inside = runtime.enter();
        if future.as_mut().poll(&mut Context::from_waker(waker)).is_ready() {
            waker.wake_by_ref();
            let done = running.take();
            drop(running);
            drop(done);
        }
    }
}

/// The part that the task runs.
struct Task(Arc<DrivenTask>);

impl Future for Task {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut running = self.0.running.lock();
        let Some(Running { future, waker, .. }) = &mut *running else { return Poll::Ready(()) };
        waker.clone_from(cx.waker());
        if future.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        let done = running.take();
        drop(running);
        drop(done);
        Poll::Ready(())
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        // The future may own an `Arc` of this task, so it is dropped outside the lock.
        let ended = self.0.running.lock().take();
        drop(ended);
    }
}

/// A flag that one task waits for.
#[derive(Default)]
struct Signal {
    raised: AtomicBool,
    waker: AtomicWaker,
}

impl Signal {
    fn raise(&self) {
        self.raised.store(true, Ordering::Release);
    }

    /// Waits until the flag is raised, and lowers it.
    fn raised(&self) -> impl Future<Output = ()> {
        std::future::poll_fn(|cx| {
            self.waker.register(cx.waker());
            if self.raised.swap(false, Ordering::AcqRel) { Poll::Ready(()) } else { Poll::Pending }
        })
    }
}
