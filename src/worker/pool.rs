//! The tasks that run handlers: how many at once, in which order, and what becomes of them at the end.

use std::future::ready;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytestring::ByteString;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::drops::{self, DropReason};
use crate::layer::{ChannelLayer, Delivery};
use crate::message;
use crate::message::Value;
use crate::worker::context::Context;
use crate::worker::faults::Faults;
use crate::worker::handlers::Handler;
use crate::worker::job::{Job, Unbegun};
use crate::worker::queues::{Entered, Lines};
use crate::worker::requeue::give_back;

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
    /// For what is dropped in the end before its turn.
    unbegun: Arc<Unbegun>,
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
            unbegun: Arc::default(),
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

    /// Has a message handled with this hand, or puts it into its line if that is being worked through.
    pub(crate) fn take(
        &mut self,
        line: Option<ByteString>,
        (handler, context): (Handler, Context),
        (place, hand): (OwnedSemaphorePermit, OwnedSemaphorePermit),
    ) {
        let job = Job::new(handler, context, self.unbegun.clone(), place);
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
            Entered::TooLong(job, told) => return self.turn_away(line, job, told),
        };
        let (lines, hands, wanted) = (self.lines.clone(), self.hands.clone(), self.wanted.clone());
        self.tasks.spawn(async move {
            first.run(&faults).await;
            drop(hand);
            // Between two jobs of a line others have their turn.
            loop {
                let Some(_hand) = hand_of_others(&hands, &wanted).await else { return };
                let Some(job) = lines.next(&line) else { return };
                job.run(&faults).await;
            }
        });
    }

    /// Drops a frame of a client that sends faster than its frames can be handled, and has the client closed.
    fn turn_away(&mut self, line: ByteString, job: Job, told: bool) {
        drops::count(DropReason::Overflow, 1);
        let Some(context) = job.turn_away() else { return };
        if told {
            return;
        }
        tracing::info!(channel = context.reply_channel(), "a client floods the worker and is closed");
        let lines = self.lines.clone();
        self.tasks.spawn(async move {
            if let Err(error) = context.reply(message! { "close": TRY_AGAIN_LATER }).await {
                tracing::debug!(%error, "a client that floods the worker could not be closed");
                lines.untell(&line);
            }
        });
    }

    /// Waits for what was taken, gives back what has not begun by then, and stops the rest.
    pub(crate) async fn finish(mut self, patience: Duration) {
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(patience, all).await.is_ok() {
            return;
        }
        let waiting = self.lines.drain();
        let (running, waits) = (self.faults.running(), waiting.len());
        tracing::warn!(running, waiting = waits, "handlers did not finish in time and are stopped");
        self.tasks.shutdown().await;
        // Behind what came before them, and has not begun either.
        drop(waiting);
        let unbegun = std::mem::take(&mut *self.unbegun.lock());
        give_back(&*self.layer, &unbegun).await;
    }
}

/// Waits for a hand, and has who holds one without need lay it down. It stands in line before it asks for that: otherwise
/// the hand could be taken up again before its turn.
async fn hand_of_others<'a>(hands: &'a Semaphore, wanted: &Notify) -> Option<SemaphorePermit<'a>> {
    let mut hand = pin!(hands.acquire());
    tokio::select! {
        biased;
        hand = &mut hand => return hand.ok(),
        () = ready(()) => wanted.notify_one(),
    }
    hand.await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::BoxError;
    use crate::memory::MemoryLayer;
    use crate::worker::handlers::boxed;
    use crate::worker::tests::within;

    fn crew() -> (Arc<MemoryLayer>, Crew) {
        let layer = Arc::new(MemoryLayer::new());
        (layer.clone(), Crew::new(layer, 2, 10))
    }

    fn context(layer: &Arc<MemoryLayer>, number: i64) -> Context {
        let delivery = Delivery::new("work".parse().unwrap(), message! { "number": number });
        Context::new(layer.clone(), delivery, Duration::ZERO)
    }

    #[tokio::test]
    async fn a_message_whose_handler_has_not_begun_goes_back() {
        let (layer, mut crew) = crew();
        let room = crew.room().await.unwrap().take().unwrap();
        crew.take(None, (boxed(|_: Context| async { Ok::<_, BoxError>(()) }), context(&layer, 1)), room);
        crew.tasks.abort_all();
        crew.tasks.spawn(std::future::pending());
        crew.finish(Duration::ZERO).await;
        assert_eq!(layer.try_receive(&["work"]).await.unwrap().unwrap().message.int("number"), Some(1));
    }

    #[tokio::test]
    async fn a_line_that_waits_for_a_hand_is_no_handler_that_is_stopped() {
        let recorder = metrics_util::debugging::DebuggingRecorder::new();
        let _recording = metrics::set_default_local_recorder(&recorder);
        let (layer, mut crew) = crew();
        let (open, gate) = tokio::sync::watch::channel(false);
        let handler = boxed(move |_: Context| {
            let mut gate = gate.clone();
            async move { gate.wait_for(|open| *open).await.map(drop) }
        });
        let mut room = crew.room().await.unwrap();
        for number in [1, 2] {
            crew.take(Some("line".into()), (handler.clone(), context(&layer, number)), room.take().unwrap());
        }
        // The other hand, and that of the first handler as soon as it ends.
        let _kept = crew.room().await.unwrap();
        let (_kept, ()) = tokio::join!(crew.room(), async { open.send(true).unwrap() });
        within(crew.hand_is_wanted()).await;
        within(crew.finish(Duration::ZERO)).await;
        assert_eq!(layer.try_receive(&["work"]).await.unwrap().unwrap().message.int("number"), Some(2));
        let counted = recorder.snapshotter().snapshot().into_vec();
        let name = |counted: &(metrics_util::CompositeKey, _, _, _)| counted.0.key().name().to_owned();
        assert_eq!(counted.iter().map(name).collect::<Vec<_>>(), ["channel_layer_worker_seconds"]);
    }
}
