//! A process: a runtime with a layer of its own, and the actors that use it.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use channel_layer::{ChannelLayer, Error, MemoryLayer, Mode, Result};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, TryFutureExt};
use serde::{Deserialize, Serialize};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::backend::{Backend, Start, Started};
use super::drops::DropRecorder;
use super::history::{Event, History, MessageId};
use super::hub::Site;
use super::plan::{NORMAL, Plan};
use super::{actors, requests};

/// The longest that any call may take that does not wait for a message: several command timeouts, the longest fault,
/// and what a busy machine adds.
pub const CALL_DEADLINE: Duration = Duration::from_mins(1);

/// How soon tasks, connections and keys are gone after the call that ends them.
pub const REST: Duration = Duration::from_secs(10);

/// How long a hub takes to close all of its clients.
const SPREAD: Duration = Duration::from_millis(200);

/// Which process of a round to start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Assignment {
    pub slot: usize,
    /// Counted from the start of the round.
    pub process: usize,
    /// The URLs of the servers, as this process reaches them.
    pub servers: Vec<String>,
}

/// What a round tells its processes.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Command {
    /// Deletes all that the layer keeps, with the actors at work.
    Flush,
    /// Waits until the writers have ended.
    StopWriting,
    /// Reads the route that nobody has read so far.
    ReadSilentRoute,
    /// Reports readers that do not take what waits for them.
    ReportStuckReaders,
    /// Waits until the readers have ended.
    StopReading,
    /// Waits until the layer is back from outages and has written its counters.
    Settle,
    /// Deletes all that the layer keeps when nobody is at work.
    FlushAtRest,
    /// Closes the layer, with the actors still at work, and waits until nothing of it is left at work.
    Close { must_succeed: bool },
}

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

    /// Records the failure of a call, unless a channel was full, or the layer is closed or does not support it.
    pub fn note_failure<T>(&self, call: &str, result: &Result<T>) {
        if let Err(error) = result
            && !matches!(error, Error::ChannelFull { .. } | Error::Closed | Error::Unsupported { .. })
        {
            self.record(Event::CallFailed { call: call.to_owned(), reason: chain(error) });
        }
    }

    /// Awaits the group send of the messages `ids` and records what it counts as dropped. A layer counts that in the
    /// future of the call.
    pub async fn count_drops<F: Future>(&self, ids: impl IntoIterator<Item = MessageId>, call: F) -> F::Output {
        let recorder = DropRecorder::of_group_send(&self.history, self.process, ids);
        let mut call = pin!(call);
        poll_fn(|task| metrics::with_local_recorder(&recorder, || call.as_mut().poll(task))).await
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
    recorder: &'static DropRecorder,
    pub writers: Vec<JoinHandle<()>>,
    pub readers: Vec<JoinHandle<()>>,
    watchers: Vec<JoinHandle<()>>,
    /// Where the process is one of a site.
    pub site: Option<Site>,
}

impl Process {
    /// Starts a process with its actors; `None` if its layer does not connect in time. The actors of a site are started
    /// by its audience.
    pub async fn start(
        plan: &Arc<Plan>,
        history: &Arc<History>,
        memory: Arc<MemoryLayer>,
        assignment: Assignment,
    ) -> Option<Self> {
        let Assignment { slot, process, servers } = assignment;
        // The threads of a runtime may outlive every scope here; a recorder is small.
        let recorder: &'static _ = Box::leak(Box::new(DropRecorder::of_process(history, process)));
        let runtime = Builder::new_multi_thread()
            .worker_threads(plan.settings[slot].threads)
            .on_thread_start(move || std::mem::forget(metrics::set_default_local_recorder(recorder)))
            .enable_all()
            .build()
            .expect("a runtime starts");
        let connecting = runtime.spawn(connect(Arc::clone(plan), Arc::clone(history), memory, slot, process, servers));
        let Ok(started) = timeout(CALL_DEADLINE, connecting).await else {
            history.record(process, Event::Overdue { call: "connect".to_owned() });
            runtime.shutdown_background();
            return None;
        };
        let Started { layer, events } = started.expect("connecting does not panic");
        let context = Context {
            layer,
            history: Arc::clone(history),
            plan: Arc::clone(plan),
            slot,
            process,
            writing: CancellationToken::new(),
            reading: CancellationToken::new(),
            watching: CancellationToken::new(),
        };
        context.record(Event::Started { slot, routes: Plan::routes(slot) });
        let (writers, readers, watchers) = Default::default();
        let mut process = Self { context, runtime, recorder, writers, readers, watchers, site: None };
        for events in events {
            process.watchers.push(process.spawn(actors::watch(process.context.clone(), events)));
        }
        if plan.backend != Backend::Hub {
            process.start_actors();
        }
        Some(process)
    }

    fn start_actors(&mut self) {
        let context = self.context.clone();
        let settings = &context.plan.settings[context.slot];
        for writer in 0..settings.writers {
            let writer = u32::try_from(context.process * 10 + writer).expect("there are few processes");
            self.writers.push(self.spawn(actors::write(context.clone(), writer)));
        }
        let requests = u32::try_from(context.process * 10 + settings.writers).expect("there are few processes");
        self.readers.push(self.spawn(requests::request(context.clone(), requests)));
        self.writers.push(self.spawn(actors::change_groups(context.clone())));
        self.writers.push(self.spawn(actors::measure(context.clone())));
        let single = Plan::single_routes(context.slot).to_vec();
        let mut readers =
            if settings.joins_readers { vec![single] } else { single.into_iter().map(|r| vec![r]).collect() };
        readers.push(NORMAL.map(str::to_owned).to_vec());
        for routes in readers {
            self.readers.push(self.spawn(actors::read(context.clone(), routes)));
        }
    }

    /// Runs `command` to its end.
    pub async fn run(&mut self, command: Command) {
        match command {
            Command::Flush => self.flush().await,
            Command::StopWriting => self.stop_writing().await,
            Command::ReadSilentRoute => {
                // Only now, so that nothing has made room on the route while anybody wrote.
                let silent = vec![Plan::silent_route(self.context.slot)];
                self.readers.push(self.spawn(actors::read(self.context.clone(), silent)));
            }
            Command::ReportStuckReaders => self.report_stuck_readers().await,
            Command::StopReading => self.stop_reading().await,
            Command::Settle => self.settle().await,
            Command::FlushAtRest => self.flush_at_rest().await,
            Command::Close { must_succeed } => self.close(must_succeed).await,
        }
    }

    /// Runs `work` in the process.
    pub fn spawn<F>(&self, work: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.runtime.spawn(work)
    }

    async fn flush(&self) {
        let context = self.context.clone();
        let flushing = self.spawn(async move {
            let wipe = context.history.number();
            context.record(Event::Wiping { wipe, reason: "flush".to_owned() });
            if context.soon(|| "flush".to_owned(), context.layer.flush()).await.is_some_and(|result| result.is_ok()) {
                context.record(Event::Wiped { wipe });
            }
        });
        flushing.await.expect("a flush does not panic");
    }

    async fn settle(&self) {
        let layer = &self.context.layer;
        let mut mode = layer.mode();
        // A layer that returns from an outage adds its members again first.
        let returning = async { _ = mode.wait_for(|mode| *mode == Mode::Remote).await };
        self.context.soon(|| "the return to the servers".to_owned(), returning).await;
        self.at_rest("global_statistics", || layer.global_statistics().map_ok(drop).boxed()).await;
    }

    async fn flush_at_rest(&self) {
        self.at_rest("flush", || self.context.layer.flush()).await;
    }

    /// Repeats `call` until it succeeds. The layer may not have tried again since the last fault.
    async fn at_rest<'a>(&self, name: &str, call: impl Fn() -> BoxFuture<'a, Result<()>>) {
        let calling = async {
            while let Err(error) = call().await {
                if !error.is_transient() {
                    self.context.record(Event::Left { what: format!("{name} failed: {}", chain(&error)) });
                    break;
                }
                sleep(Duration::from_millis(100)).await;
            }
        };
        self.context.soon(|| name.to_owned(), calling).await;
    }

    async fn stop_writing(&mut self) {
        self.context.writing.cancel();
        join(&self.context, "a writer", &mut self.writers).await;
    }

    async fn stop_reading(&mut self) {
        self.context.reading.cancel();
        join(&self.context, "a reader", &mut self.readers).await;
    }

    async fn report_stuck_readers(&self) {
        let context = &self.context;
        for route in Plan::routes(context.slot) {
            let waiting = context.layer.channel_statistics(&route);
            let waiting = context.soon(|| format!("channel_statistics of {route}"), waiting).await;
            if let Some(Ok(waiting)) = waiting.filter(|waiting| waiting.as_ref().is_ok_and(|w| w.messages_pending > 0))
            {
                let call = format!("the read of {} messages that wait on {route}", waiting.messages_pending);
                context.record(Event::Overdue { call });
            }
        }
    }

    async fn close(&mut self, must_succeed: bool) {
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
        let Self { context, runtime, recorder, .. } = self;
        let ending = tokio::task::spawn_blocking(move || {
            metrics::with_local_recorder(recorder, || {
                runtime.shutdown_timeout(CALL_DEADLINE);
                drop(context);
            });
        });
        ending.await.expect("a process ends without a panic");
    }
}

/// Starts the layer of a process, again while that fails.
async fn connect(
    plan: Arc<Plan>,
    history: Arc<History>,
    memory: Arc<MemoryLayer>,
    slot: usize,
    process: usize,
    servers: Vec<String>,
) -> Started {
    let start = Start { plan: &plan, slot, servers: &servers, memory };
    loop {
        match plan.backend.start(&start).await {
            Ok(started) => return started,
            Err(error) => history.record(process, Event::Fault(format!("cannot connect: {}", chain(&error)))),
        }
        sleep(Duration::from_millis(100)).await;
    }
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
