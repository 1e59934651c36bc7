//! `Sweeper`: the background task that frees expired entries without a reader.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

/// Maximum number of sweeps during one lifetime.
const SWEEPS_PER_LIFETIME: u32 = 4;

/// Runs a sweep when something may have expired. The task sleeps without a timer while nothing can expire.
///
/// The first call of [`schedule`](Self::schedule) inside a runtime starts the task, and so does the first call after
/// that runtime has ended. The task holds a strong reference to its target only during a sweep, and ends when `stop` is
/// cancelled.
#[derive(Debug)]
pub(super) struct Sweeper {
    /// Minimum lifetime of an entry.
    lifetime: Duration,
    stop: CancellationToken,
    wakeup: Arc<Wakeup>,
}

#[derive(Debug)]
struct Wakeup {
    /// Whether a new entry has to wake the task. The task sets this before a sweep. An entry is added, under a lock
    /// that the sweep takes too, before [`Sweeper::schedule`] reads this. So the sweep sees the entry, or the call
    /// wakes the task.
    armed: AtomicBool,
    /// Whether the task runs.
    running: AtomicBool,
    notify: Notify,
}

impl Sweeper {
    pub(super) fn new(lifetime: Duration, stop: CancellationToken) -> Self {
        let wakeup = Wakeup { armed: AtomicBool::new(true), running: AtomicBool::new(false), notify: Notify::new() };
        Self { lifetime, stop, wakeup: Arc::new(wakeup) }
    }

    /// Announces an entry that expires after the lifetime. `sweep` frees the expired entries of `target` and returns
    /// when the next one expires, or `None` if there is none.
    pub(super) fn schedule<T, F>(&self, target: &Arc<T>, sweep: F)
    where
        T: Send + Sync + 'static,
        F: Fn(&T, Instant) -> Option<Instant> + Send + Sync + 'static,
    {
        if self.wakeup.armed.load(Ordering::Acquire) {
            self.wake_task(target, sweep);
        }
    }

    #[cold]
    fn wake_task<T, F>(&self, target: &Arc<T>, sweep: F)
    where
        T: Send + Sync + 'static,
        F: Fn(&T, Instant) -> Option<Instant> + Send + Sync + 'static,
    {
        let Ok(runtime) = Handle::try_current() else { return };
        if self.stop.is_cancelled() || !self.wakeup.armed.swap(false, Ordering::AcqRel) {
            return;
        }
        self.wakeup.notify.notify_one();
        if !self.wakeup.running.swap(true, Ordering::AcqRel) {
            let running = Running(Arc::clone(&self.wakeup));
            let task = run(running, self.lifetime, Arc::downgrade(target), sweep);
            let stop = self.stop.clone();
            runtime.spawn(async move { stop.run_until_cancelled(task).await });
        }
    }
}

/// Held by the task. Arms the wake-up when the task ends, so that the next call of [`Sweeper::schedule`] starts another
/// task.
struct Running(Arc<Wakeup>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.store(false, Ordering::Release);
        self.0.armed.store(true, Ordering::Release);
    }
}

async fn run<T, F>(running: Running, lifetime: Duration, target: Weak<T>, sweep: F)
where
    T: Send + Sync + 'static,
    F: Fn(&T, Instant) -> Option<Instant> + Send + Sync + 'static,
{
    let wakeup = &running.0;
    loop {
        // The entry that woke the task lives for `lifetime` at least.
        wakeup.notify.notified().await;
        sleep(lifetime).await;
        loop {
            wakeup.armed.store(true, Ordering::SeqCst);
            let now = Instant::now();
            let Some(due) = target.upgrade().map(|target| sweep(&target, now)) else { return };
            match due {
                None => break,
                // A new entry would expire before the present ones. The wake-up stays armed for it.
                Some(due) if due > now + lifetime => tokio::select! {
                    () = sleep_until(due) => {}
                    () = wakeup.notify.notified() => sleep(lifetime).await,
                },
                Some(due) => {
                    wakeup.armed.store(false, Ordering::SeqCst);
                    sleep_until(due.max(now + lifetime / SWEEPS_PER_LIFETIME)).await;
                }
            }
        }
    }
}
