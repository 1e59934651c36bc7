//! `HybridSource`: the source of a receiver that reads two layers.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use tokio::runtime::Handle;
use tokio::time::{Instant, Sleep, sleep};

use crate::error::Result;
use crate::layer::{Parts, Receiver, Sink, Source};

/// How long a side without a message may delay the other side. An answer from a remote server can arrive in that time.
const GRACE: Duration = Duration::from_millis(10);

/// How long a side that had no message is skipped while the other side is busy. This bounds the latency of a message on
/// a quiet side (200 ms) and the cost of waiting for it (a twentieth of the time).
const SKIP_TIME: Duration = Duration::from_millis(200);

/// Reads two receivers in turn.
///
/// It polls the second receiver only if the first has no message. It buffers nothing. After one side has handed over
/// messages, the other side is paused, so that it stops reading.
pub(super) struct HybridSource {
    sides: [Side; 2],
    /// Index of the side whose turn it is.
    turn: usize,
    /// Runs while the side whose turn it is may delay the other.
    grace: Option<Pin<Box<Sleep>>>,
}

struct Side {
    receiver: Receiver,
    next: Turn,
}

/// How a side is polled when its turn comes.
#[derive(Clone, Copy)]
enum Turn {
    /// Polled, and the other side waits for it up to [`GRACE`]: this side has not been polled yet.
    WithGrace,
    /// Polled without delaying the other side: this side had a message last time, or both sides wait for one.
    Immediate,
    /// Skipped until this time, unless the other side has no message either. Afterwards polled as [`Self::WithGrace`].
    Skipped(Instant),
}

impl HybridSource {
    pub(super) fn new(receivers: [Receiver; 2]) -> Self {
        Self { sides: receivers.map(|receiver| Side { receiver, next: Turn::WithGrace }), turn: 0, grace: None }
    }

    /// Polls the side whose turn it is, unless it is skipped.
    fn poll_first(&mut self, cx: &mut Context<'_>, sink: Sink<'_>, limit: usize) -> FirstPoll {
        let side = &mut self.sides[self.turn];
        let now = Instant::now();
        let wait = match side.next {
            Turn::Skipped(until) if now < until => return FirstPoll::Skipped,
            Turn::Immediate => false,
            Turn::WithGrace | Turn::Skipped(_) => true,
        };
        if let Poll::Ready(result) = side.receiver.poll_recv_many(cx, sink, limit) {
            return FirstPoll::Ready(result);
        }
        // Layers in memory also work without a runtime. There are no timers then, and no server is about to answer.
        if wait && Handle::try_current().is_ok() {
            let grace = self.grace.get_or_insert_with(|| Box::pin(sleep(GRACE)));
            if grace.as_mut().poll(cx).is_pending() {
                return FirstPoll::Grace;
            }
        }
        self.grace = None;
        side.next = Turn::Skipped(now + SKIP_TIME);
        FirstPoll::Empty
    }

    fn finish_poll(&mut self, by: usize, result: Result<usize>) -> Poll<Result<usize>> {
        let other = 1 - by;
        self.sides[by].next = Turn::Immediate;
        self.sides[other].receiver.pause();
        self.turn = other;
        self.grace = None;
        Poll::Ready(result)
    }
}

/// The outcome of polling the side whose turn it is.
enum FirstPoll {
    Ready(Result<usize>),
    /// There is no message yet, and the other side has to wait.
    Grace,
    /// There is no message.
    Empty,
    /// The side was not polled.
    Skipped,
}

#[async_trait]
impl Source for HybridSource {
    fn poll_recv_many(&mut self, cx: &mut Context<'_>, sink: Sink<'_>, limit: usize) -> Poll<Result<usize>> {
        let (first, second) = (self.turn, 1 - self.turn);
        let polled = match self.poll_first(cx, sink, limit) {
            FirstPoll::Ready(result) => return self.finish_poll(first, result),
            FirstPoll::Grace => return Poll::Pending,
            FirstPoll::Empty => true,
            FirstPoll::Skipped => false,
        };
        if let Poll::Ready(result) = self.sides[second].receiver.poll_recv_many(cx, sink, limit) {
            return self.finish_poll(second, result);
        }
        if !polled && let Poll::Ready(result) = self.sides[first].receiver.poll_recv_many(cx, sink, limit) {
            return self.finish_poll(first, result);
        }
        // From now on both sides may wait until one of them has a message.
        self.sides.iter_mut().for_each(|side| side.next = Turn::Immediate);
        Poll::Pending
    }

    fn pause(&mut self) {
        // Otherwise a caller with short timeouts would wait for the same side each time.
        if self.grace.take().is_some() {
            self.sides[self.turn].next = Turn::Skipped(Instant::now() + SKIP_TIME);
        }
        self.sides.iter_mut().for_each(|side| side.receiver.pause());
    }

    async fn close(&mut self) -> Result<()> {
        let [first, second] = &mut self.sides;
        let (first, second) = tokio::join!(first.receiver.put_back(), second.receiver.put_back());
        Parts::from_iter([first, second]).result()
    }
}
