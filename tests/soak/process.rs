//! A process: a runtime with a layer of its own, and the actors that use it.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use channel_layer::ChannelLayer;
use metrics_util::debugging::DebuggingRecorder;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::history::{Event, History, MessageId};
use super::hub::Site;
use super::plan::Plan;
use crate::support::Counts;

/// The longest that any call may take that does not wait for a message: several command timeouts, the longest fault, and
/// what a busy machine adds.
pub const CALL_DEADLINE: Duration = Duration::from_mins(1);

/// How soon tasks, connections and keys are gone after the call that ends them.
pub const REST: Duration = Duration::from_secs(10);

/// How long a hub takes to close all of its clients.
const SPREAD: Duration = Duration::from_millis(200);

/// What every actor of a process has.
#[derive(Clone)]
pub struct Context {
    pub layer: Arc<dyn ChannelLayer>,
    pub history: Arc<History>,
    pub plan: Arc<Plan>,
    /// The place of the process among all that run at the same time.
    pub slot: usize,
    /// The process, counted from the start of the round.
    pub process: usize,
    /// Cancelled when writers and members are to end.
    pub writing: CancellationToken,
    /// Cancelled when readers are to end.
    pub reading: CancellationToken,
    /// Cancelled when nothing more is to be recorded.
    pub watching: CancellationToken,
}

impl Context {
    pub fn record(&self, event: Event) {
        self.history.record(self.process, event);
    }

    /// Awaits the group send of the messages `ids` and records what it counts as dropped. A layer counts that in the future
    /// of the call.
    pub async fn count_drops<F: Future>(&self, ids: Vec<MessageId>, call: F) -> F::Output {
        let recorder = DebuggingRecorder::new();
        let mut call = pin!(call);
        let output = poll_fn(|task| metrics::with_local_recorder(&recorder, || call.as_mut().poll(task))).await;
        for (reason, messages) in Counts::of(&recorder).all_dropped() {
            self.record(Event::GroupSendCounted { ids: ids.clone(), reason, messages });
        }
        output
    }

    /// Awaits a call that must not take long; `None` if it did.
    pub async fn soon<F: Future>(&self, call: impl FnOnce() -> String, future: F) -> Option<F::Output> {
        let ended = timeout(CALL_DEADLINE, future).await;
        if ended.is_err() {
            self.record(Event::Overdue { call: call() });
        }
        ended.ok()
    }
}

/// A running process.
pub struct Process {
    pub context: Context,
    runtime: Runtime,
    recorder: &'static DebuggingRecorder,
    counts: Counts,
    pub writers: Vec<JoinHandle<()>>,
    pub readers: Vec<JoinHandle<()>>,
    pub watchers: Vec<JoinHandle<()>>,
    /// Where the process is one of a site.
    pub site: Option<Site>,
}

impl Process {
    /// A runtime whose threads count into `recorder`.
    pub fn runtime(threads: usize) -> (Runtime, &'static DebuggingRecorder) {
        // The threads of a runtime may outlive every scope here; a recorder is small.
        let recorder: &'static DebuggingRecorder = Box::leak(Box::default());
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads)
            .on_thread_start(move || std::mem::forget(metrics::set_default_local_recorder(recorder)))
            .enable_all()
            .build()
            .expect("a runtime starts");
        (runtime, recorder)
    }

    pub fn new(context: Context, runtime: Runtime, recorder: &'static DebuggingRecorder) -> Self {
        let counts = Counts::of(recorder);
        Self {
            context,
            runtime,
            recorder,
            counts,
            writers: Vec::new(),
            readers: Vec::new(),
            watchers: Vec::new(),
            site: None,
        }
    }

    /// Runs `work` in the process.
    pub fn spawn<F>(&self, work: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.runtime.spawn(work)
    }

    /// Deletes all that the layer keeps.
    pub async fn flush(&self) {
        let context = self.context.clone();
        let flushing = self.spawn(async move {
            let wipe = context.history.number();
            context.record(Event::Wiping { wipe, reason: "flush" });
            if context.soon(|| "flush".to_owned(), context.layer.flush()).await.is_some_and(|result| result.is_ok()) {
                context.record(Event::Wiped { wipe });
            }
        });
        // A process that is killed meanwhile takes the flush along.
        let _ = flushing.await;
    }

    /// Waits until the writers have ended.
    pub async fn stop_writing(&mut self) {
        self.context.writing.cancel();
        join(&self.context, "a writer", &mut self.writers).await;
    }

    /// Waits until the readers have ended.
    pub async fn stop_reading(&mut self) {
        self.context.reading.cancel();
        join(&self.context, "a reader", &mut self.readers).await;
    }

    /// Closes the layer, with the actors still at work, and waits until nothing of it is left at work.
    pub async fn close(&mut self, must_succeed: bool) {
        self.context.record(Event::Closing);
        if let Some(site) = self.site.take() {
            let closing = self.spawn(async move { site.hub.close(SPREAD).await });
            self.context.soon(|| "close of a hub".to_owned(), closing).await;
        }
        let layer = Arc::clone(&self.context.layer);
        let closing = self.spawn(async move { layer.close().await });
        match self.context.soon(|| "close".to_owned(), closing).await {
            Some(Ok(Err(error))) if must_succeed => {
                self.context.record(Event::Left { what: format!("close failed: {}", chain(&error)) });
            }
            Some(Err(panicked)) => self.context.record(Event::Left { what: format!("close panicked: {panicked}") }),
            _ => {}
        }
        self.stop_writing().await;
        self.stop_reading().await;
        self.context.watching.cancel();
        join(&self.context, "a watcher", &mut self.watchers).await;
        self.wait_for_tasks().await;
    }

    /// Ends the process at once.
    pub async fn kill(self) {
        let mut routes = Plan::routes(self.context.slot);
        routes.push(Plan::reply_pattern(self.context.slot));
        // Before, for a message that is popped meanwhile may be lost already.
        self.context.record(Event::Killed { routes: routes.clone() });
        let context = self.context.clone();
        self.end().await;
        context.record(Event::Killed { routes });
    }

    /// Waits until the hub has nothing left of clients, which have all gone.
    pub async fn wait_for_an_empty_hub(&self) {
        let Some(site) = &self.site else { return };
        let end = Instant::now() + REST;
        loop {
            let status = site.hub.status();
            let left = status.connections + status.rooms + status.users + status.queues.messages;
            if left == 0 {
                return;
            }
            if Instant::now() > end {
                return self.context.record(Event::Left { what: format!("clients of a hub: {status:?}") });
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until the closed layer has no task left.
    async fn wait_for_tasks(&self) {
        let tasks = || self.runtime.metrics().num_alive_tasks();
        let gone = async {
            while tasks() > 0 {
                sleep(Duration::from_millis(10)).await;
            }
        };
        if timeout(REST, gone).await.is_err() {
            let what = format!("{} tasks of process {} after close", tasks(), self.context.process);
            self.context.record(Event::Left { what });
        }
    }

    /// Ends the runtime with everything in it.
    pub async fn end(self) {
        let Self { context, runtime, recorder, mut counts, .. } = self;
        let history = Arc::clone(&context.history);
        let process = context.process;
        let ending = tokio::task::spawn_blocking(move || {
            metrics::with_local_recorder(recorder, || {
                runtime.shutdown_timeout(CALL_DEADLINE);
                drop(context);
            });
        });
        ending.await.expect("a process ends without a panic");
        for counted in dropped(&mut counts) {
            history.record(process, counted);
        }
    }

    /// What the process has counted as dropped so far.
    pub fn dropped(&mut self) -> Vec<Event> {
        dropped(&mut self.counts)
    }
}

fn dropped(counts: &mut Counts) -> Vec<Event> {
    let counted = counts.all_dropped().into_iter();
    counted.map(|(reason, messages)| Event::Counted { reason, messages }).collect()
}

/// Waits for actors. No actor may hang or panic.
async fn join(context: &Context, what: &str, actors: &mut Vec<JoinHandle<()>>) {
    for actor in actors.drain(..) {
        if let Some(Err(panicked)) = context.soon(|| format!("the end of {what}"), actor).await {
            context.record(Event::Left { what: format!("{what} panicked: {panicked}") });
        }
    }
}

/// An error with its causes.
pub fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
