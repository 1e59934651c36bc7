//! The tasks that run handlers: how many at once, in which order, and what becomes of them at the end.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytestring::ByteString;
use futures_util::FutureExt;
use futures_util::future::Either;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tracing::{Instrument, Span};

use super::back::give_back;
use super::context::Context;
use super::faults::Faults;
use super::handlers::Handler;
use super::lines::{Entered, Lines, Ordered};
use crate::drops::{self, DropReason};
use crate::layer::{ChannelLayer, Delivery};
use crate::message;
use crate::message::Value;

/// A message and its handler.
pub(crate) struct Job {
    handler: Handler,
    context: Context,
    /// In its sender's count of messages, if it counts.
    order: Option<i64>,
    /// A place among those that this worker has taken.
    _place: OwnedSemaphorePermit,
}

impl Ordered for Job {
    fn comes_before(&self, other: &Self) -> bool {
        matches!((self.order, other.order), (Some(this), Some(other)) if this < other)
    }

    /// A client may send as many frames as it likes; of everything else there is little for each.
    fn is_bounded(&self) -> bool {
        self.context.channel().as_str() == FRAMES
    }
}

impl Job {
    pub(crate) fn new(handler: Handler, context: Context, place: OwnedSemaphorePermit) -> Self {
        Self { order: context.message().int("order"), handler, context, _place: place }
    }

    async fn run(self, faults: &Faults) {
        let channel = self.context.channel().clone();
        let begun = Instant::now();
        let span = span(&self.context);
        let trace = self.context.trace();
        let handling = (self.handler)(self.context);
        let handling = match trace {
            Some(trace) => {
                trace.tell("taken by a handler", channel.non_local());
                Either::Right(trace.scope(handling))
            }
            None => Either::Left(handling),
        };
        match AssertUnwindSafe(handling).catch_unwind().instrument(span).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => faults.failed(&channel, &*error),
            Err(_panic) => faults.panicked(&channel),
        }
        metrics::histogram!("channel_layer_worker_seconds", "channel" => channel.non_local().to_owned())
            .record(begun.elapsed().as_secs_f64());
    }
}

/// What a handler does, for `tracing`.
fn span(context: &Context) -> Span {
    let channel = context.channel().non_local();
    match context.trace() {
        Some(trace) => {
            tracing::debug_span!("handle", channel, trace_id = trace.trace_id(), span_id = trace.span_id())
        }
        None => tracing::debug_span!("handle", channel),
    }
}

/// What stands in one line: messages about the same connection.
pub(crate) fn line_of(delivery: &Delivery) -> Option<ByteString> {
    match delivery.message.get("reply_channel") {
        Some(Value::Text(channel)) => Some(channel.clone()),
        _ => None,
    }
}

pub(crate) struct Crew {
    layer: Arc<dyn ChannelLayer>,
    /// One for each handler that runs. Jobs that wait in a line hold none, so that one connection, whatever it sends,
    /// keeps one.
    hands: Arc<Semaphore>,
    /// One for each message that was taken and is not done with.
    places: Arc<Semaphore>,
    lines: Arc<Lines<Job>>,
    /// A line waits for a hand.
    wanted: Arc<Notify>,
    faults: Arc<Faults>,
    tasks: JoinSet<()>,
}

/// How many messages are taken at once: enough for trips to Redis to cost little, and few, for other workers are to get
/// theirs.
const AT_ONCE: usize = 16;

/// For messages that are about to be taken.
pub(crate) struct Room {
    places: OwnedSemaphorePermit,
    hands: OwnedSemaphorePermit,
}

impl Room {
    /// For how many there is room.
    pub(crate) fn size(&self) -> usize {
        self.hands.num_permits()
    }

    /// A place and a hand for one of them.
    pub(crate) fn take(&mut self) -> Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)> {
        self.places.split(1).zip(self.hands.split(1))
    }
}

/// Where clients' frames come.
const FRAMES: &str = "websocket.receive";

/// Frames of one client may take up so much of the backlog, so that one that floods does not stop the others.
const LINES: usize = 10;
const SHORTEST_LINE: usize = 16;

/// The close code for that (RFC 6455's registry).
const TRY_AGAIN_LATER: i64 = 1013;

impl Crew {
    pub(crate) fn new(layer: Arc<dyn ChannelLayer>, concurrency: usize, backlog: usize) -> Self {
        Self {
            layer,
            hands: Arc::new(Semaphore::new(concurrency)),
            places: Arc::new(Semaphore::new((concurrency + backlog).min(Semaphore::MAX_PERMITS))),
            lines: Arc::new(Lines::new((backlog / LINES).max(SHORTEST_LINE))),
            wanted: Arc::default(),
            faults: Arc::default(),
            tasks: JoinSet::new(),
        }
    }

    /// Waits until there is a place for one more message, and a hand for it: taken before that, it would be kept from
    /// other workers. Gives as many as are free then, up to [`AT_ONCE`].
    ///
    /// # Cancel safety
    ///
    /// When dropped, nothing is taken.
    pub(crate) async fn room(&self) -> Option<Room> {
        let mut places = self.places.clone().acquire_owned().await.ok()?;
        let mut hands = self.hands.clone().acquire_owned().await.ok()?;
        let more = self.places.available_permits().min(self.hands.available_permits()).min(AT_ONCE - 1);
        let more = u32::try_from(more).unwrap_or(0);
        // What somebody else takes between these lines is not needed: one of each is there.
        if let Ok(place) = self.places.clone().try_acquire_many_owned(more)
            && let Ok(hand) = self.hands.clone().try_acquire_many_owned(more)
        {
            places.merge(place);
            hands.merge(hand);
        }
        Some(Room { places, hands })
    }

    /// Waits until a line waits for a hand; who holds one and has nothing to do lays it down then.
    ///
    /// # Cancel safety
    ///
    /// When dropped, the next call tells of it.
    pub(crate) async fn hand_is_wanted(&self) {
        self.wanted.notified().await;
    }

    /// Runs a job with this hand, or puts it into its line if that is being worked through.
    pub(crate) fn take(&mut self, line: Option<ByteString>, job: Job, hand: OwnedSemaphorePermit) {
        // Finished tasks leave their result behind until it is looked at.
        while self.tasks.try_join_next().is_some() {}
        let faults = self.faults.clone();
        let Some(line) = line else {
            self.tasks.spawn(async move {
                job.run(&faults).await;
                drop(hand);
            });
            return;
        };
        let first = match self.lines.enter(&line, job) {
            Entered::First(first) => first,
            Entered::Waits => return,
            Entered::TooLong(job, first_time) => return self.turn_away(job, first_time),
        };
        let (lines, hands, wanted) = (self.lines.clone(), self.hands.clone(), self.wanted.clone());
        self.tasks.spawn(async move {
            first.run(&faults).await;
            drop(hand);
            // Between two jobs of a line others have their turn.
            loop {
                if hands.available_permits() == 0 {
                    wanted.notify_one();
                }
                let Ok(_hand) = hands.acquire().await else { return };
                let Some(job) = lines.next(&line) else { return };
                job.run(&faults).await;
            }
        });
    }

    /// Drops a frame of a client that sends faster than its frames can be handled, and has the client closed.
    fn turn_away(&mut self, job: Job, first_time: bool) {
        drops::count(DropReason::Overflow, 1);
        if first_time {
            tracing::info!(channel = job.context.reply_channel(), "a client floods the worker and is closed");
            self.tasks.spawn(async move {
                if let Err(error) = job.context.reply(message! { "close": TRY_AGAIN_LATER }).await {
                    tracing::debug!(%error, "a client that floods the worker could not be closed");
                }
            });
        }
    }

    /// Waits for what was taken, gives back what has not begun by then, and stops the rest.
    pub(crate) async fn finish(mut self, patience: Duration) {
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(patience, all).await.is_ok() {
            return;
        }
        let waiting = self.lines.drain();
        let unfinished = self.tasks.len();
        tracing::warn!(unfinished, waiting = waiting.len(), "handlers did not finish in time and are stopped");
        Faults::stopped(unfinished);
        self.tasks.shutdown().await;
        let waiting: Vec<_> = waiting.into_iter().map(|job| job.context.into_parts()).collect();
        give_back(&*self.layer, &waiting).await;
    }
}
