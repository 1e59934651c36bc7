//! The background task that frees what expires without anybody reading it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

/// How many times, at the most, it looks at everything while one thing lives.
const SWEEPS_PER_LIFETIME: u32 = 4;

/// Runs a sweep when something may have expired, and sleeps without a timer while there is nothing that could.
///
/// The task is started by the first [`ring`](Self::ring) inside a runtime, and again if that runtime has gone. It holds
/// what it sweeps only while it sweeps, and ends when `stop` is cancelled.
#[derive(Debug)]
pub(super) struct Sweeper {
    /// How long things live at the least from the moment they come in.
    lifetime: Duration,
    stop: CancellationToken,
    alarm: Arc<Alarm>,
}

#[derive(Debug)]
struct Alarm {
    /// Whether the task wants to hear of what comes in. It is set before a sweep reads under the locks that a newcomer
    /// takes before it rings, so that one of the two sees the other.
    armed: AtomicBool,
    running: AtomicBool,
    rung: Notify,
}

impl Sweeper {
    pub(super) fn new(lifetime: Duration, stop: CancellationToken) -> Self {
        let alarm = Alarm { armed: AtomicBool::new(true), running: AtomicBool::new(false), rung: Notify::new() };
        Self { lifetime, stop, alarm: Arc::new(alarm) }
    }

    /// Says that something came in that will expire after the lifetime. `sweep` frees what has expired in `swept` and
    /// gives when the next thing will have, if there is anything.
    pub(super) fn ring<T, F>(&self, swept: &Arc<T>, sweep: F)
    where
        T: Send + Sync + 'static,
        F: Fn(&T, Instant) -> Option<Instant> + Send + Sync + 'static,
    {
        if self.alarm.armed.load(Ordering::Acquire) {
            self.answer(swept, sweep);
        }
    }

    #[cold]
    fn answer<T, F>(&self, swept: &Arc<T>, sweep: F)
    where
        T: Send + Sync + 'static,
        F: Fn(&T, Instant) -> Option<Instant> + Send + Sync + 'static,
    {
        let Ok(runtime) = Handle::try_current() else { return };
        if self.stop.is_cancelled() || !self.alarm.armed.swap(false, Ordering::AcqRel) {
            return;
        }
        self.alarm.rung.notify_one();
        if !self.alarm.running.swap(true, Ordering::AcqRel) {
            let running = Running(Arc::clone(&self.alarm));
            let task = run(running, self.lifetime, Arc::downgrade(swept), sweep);
            let stop = self.stop.clone();
            runtime.spawn(async move { stop.run_until_cancelled(task).await });
        }
    }
}

/// Held by the task; arms the alarm when the task goes, so that the next ring starts another.
struct Running(Arc<Alarm>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.store(false, Ordering::Release);
        self.0.armed.store(true, Ordering::Release);
    }
}

async fn run<T, F>(running: Running, lifetime: Duration, swept: Weak<T>, sweep: F)
where
    T: Send + Sync + 'static,
    F: Fn(&T, Instant) -> Option<Instant> + Send + Sync + 'static,
{
    let alarm = &running.0;
    loop {
        // What rang the alarm has its lifetime before it.
        alarm.rung.notified().await;
        sleep(lifetime).await;
        loop {
            alarm.armed.store(true, Ordering::SeqCst);
            let now = Instant::now();
            let Some(due) = swept.upgrade().map(|swept| sweep(&swept, now)) else { return };
            match due {
                None => break,
                // Whatever comes in lives less long than what is there, and has to be heard of.
                Some(due) if due > now + lifetime => tokio::select! {
                    () = sleep_until(due) => {}
                    () = alarm.rung.notified() => sleep(lifetime).await,
                },
                Some(due) => {
                    alarm.armed.store(false, Ordering::SeqCst);
                    sleep_until(due.max(now + lifetime / SWEEPS_PER_LIFETIME)).await;
                }
            }
        }
    }
}
