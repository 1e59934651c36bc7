//! Reading two layers at once: what stands behind a receiver of both.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use tokio::runtime::Handle;
use tokio::time::{Instant, Sleep, sleep};

use crate::error::Result;
use crate::layer::{Parts, Receiver, Sink, Source};

/// How long a side that has nothing at hand may keep the other waiting, so that an answer that has a way to come arrives.
const GRACE: Duration = Duration::from_millis(10);

/// How long a side that had nothing then is passed over while the other is busy. It bounds both how late a message on
/// a quiet side can be and what waiting for it costs: a twentieth of the time.
const PASSED_OVER: Duration = Duration::from_millis(200);

/// Reads two receivers in turn.
///
/// It asks the second only when the first has nothing, and stops at the first that hands over; nothing is ever held
/// here. The side that was not asked is paused, so that neither reads on for nobody.
pub(super) struct HybridSource {
    sides: [Side; 2],
    /// Whose turn it is.
    turn: usize,
    /// Runs while the side whose turn it is may keep the other waiting.
    grace: Option<Pin<Box<Sleep>>>,
}

struct Side {
    receiver: Receiver,
    trust: Trust,
}

/// What a side may claim when its turn comes.
#[derive(Clone, Copy)]
enum Trust {
    /// To be waited for: it has not been asked, or not for long.
    Grace,
    /// To be asked: it handed something over last time, or had all the time it needed.
    Asked,
    /// Nothing before this time, unless the other side has nothing either.
    PassedOver(Instant),
}

impl HybridSource {
    pub(super) fn new(receivers: [Receiver; 2]) -> Self {
        Self { sides: receivers.map(|receiver| Side { receiver, trust: Trust::Grace }), turn: 0, grace: None }
    }

    /// Asks the side whose turn it is if it may be asked before the other; gives whether that is all for now.
    fn poll_first(&mut self, cx: &mut Context<'_>, sink: Sink<'_>, limit: usize) -> First {
        let side = &mut self.sides[self.turn];
        let now = Instant::now();
        let wait = match side.trust {
            Trust::PassedOver(until) if now < until => return First::NotAsked,
            Trust::Asked => false,
            Trust::Grace | Trust::PassedOver(_) => true,
        };
        if let Poll::Ready(result) = side.receiver.poll_recv_many(cx, sink, limit) {
            return First::Ready(result);
        }
        // Layers in memory work without a runtime, where there are no timers and nothing has a way to come.
        if wait && Handle::try_current().is_ok() {
            let grace = self.grace.get_or_insert_with(|| Box::pin(sleep(GRACE)));
            if grace.as_mut().poll(cx).is_pending() {
                return First::Grace;
            }
        }
        self.grace = None;
        side.trust = Trust::PassedOver(now + PASSED_OVER);
        First::Nothing
    }

    fn served(&mut self, by: usize, result: Result<usize>) -> Poll<Result<usize>> {
        let other = 1 - by;
        self.sides[by].trust = Trust::Asked;
        self.sides[other].receiver.pause();
        self.turn = other;
        self.grace = None;
        Poll::Ready(result)
    }
}

/// What came of asking the side whose turn it is.
enum First {
    Ready(Result<usize>),
    Grace,
    Nothing,
    NotAsked,
}

#[async_trait]
impl Source for HybridSource {
    fn poll_recv_many(&mut self, cx: &mut Context<'_>, sink: Sink<'_>, limit: usize) -> Poll<Result<usize>> {
        let (first, second) = (self.turn, 1 - self.turn);
        let asked = match self.poll_first(cx, sink, limit) {
            First::Ready(result) => return self.served(first, result),
            First::Grace => return Poll::Pending,
            First::Nothing => true,
            First::NotAsked => false,
        };
        if let Poll::Ready(result) = self.sides[second].receiver.poll_recv_many(cx, sink, limit) {
            return self.served(second, result);
        }
        if !asked && let Poll::Ready(result) = self.sides[first].receiver.poll_recv_many(cx, sink, limit) {
            return self.served(first, result);
        }
        // Both have now all the time until one of them has something.
        self.sides.iter_mut().for_each(|side| side.trust = Trust::Asked);
        Poll::Pending
    }

    fn pause(&mut self) {
        // Whoever asks only for moments would wait for the same side for ever.
        if self.grace.take().is_some() {
            self.sides[self.turn].trust = Trust::PassedOver(Instant::now() + PASSED_OVER);
        }
        self.sides.iter_mut().for_each(|side| side.receiver.pause());
    }

    async fn close(&mut self) -> Result<()> {
        let [first, second] = &mut self.sides;
        let (first, second) = tokio::join!(first.receiver.put_back(), second.receiver.put_back());
        Parts::from_iter([first, second]).result()
    }
}
