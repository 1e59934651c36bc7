//! Work in the background that those who need it move on themselves, instead of waking its task.
//!
//! A task that is woken by another takes a turn of the scheduler, and after a few such turns in a row the scheduler wakes
//! a further thread. Who has just given the work something to do can as well poll it: then the command is on its way
//! before the caller even waits.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::runtime::Handle;

/// A future that is run by a task, and polled in between by others in the name of that task.
#[derive(Default)]
pub(crate) struct Routine {
    /// Held while the future is polled, which never waits.
    running: Mutex<Option<Running>>,
    /// Tells the future that there is something to do.
    signal: Signal,
}

struct Running {
    future: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// Of the task. Whoever polls, the future wakes the task.
    waker: Waker,
    runtime: Handle,
}

impl Routine {
    /// What the task has to run. When it is dropped or done, so is `future`.
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

    /// Tells the future, by way of its task, that there is something to do.
    pub(crate) fn wake(&self) {
        self.signal.raise();
        self.signal.waker.wake();
    }

    /// Tells the future that there is something to do, and lets it do it now.
    pub(crate) fn drive(&self) {
        self.signal.raise();
        // Somebody may poll it now, and have looked for signals already.
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

/// The task's part.
struct Task(Arc<Routine>);

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
        // The future may hold what holds it.
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

    /// Waits until it is raised, and lowers it.
    fn raised(&self) -> impl Future<Output = ()> {
        std::future::poll_fn(|cx| {
            self.waker.register(cx.waker());
            if self.raised.swap(false, Ordering::AcqRel) { Poll::Ready(()) } else { Poll::Pending }
        })
    }
}
