//! What waits for one client: bounded in messages and in bytes, filled without waiting.

use std::collections::VecDeque;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::asgi::{Reply, code};
use super::settings::QueueLimits;

/// The replies that a socket has not written yet, and the order to close it.
#[derive(Debug)]
pub(crate) struct Queue {
    limits: QueueLimits,
    /// Held for a push or a swap, never across an await.
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    replies: VecDeque<Reply>,
    bytes: usize,
    ending: Option<Ending>,
}

/// An order to close that did not come from the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ending {
    pub(crate) code: u16,
    /// The client does not keep up: what is being written is given up as well.
    pub(crate) at_once: bool,
}

/// What became of a pushed reply.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    Queued,
    /// There was no room; the socket has been told to close, and so many replies are lost.
    Overflowed {
        lost: usize,
    },
    /// The socket is closing already.
    Ending,
}

impl Queue {
    pub(crate) fn new(limits: QueueLimits) -> Self {
        Self { limits, state: Mutex::default(), changed: Notify::new() }
    }

    /// Appends a reply; never waits. Where it does not fit, the client is too slow and the socket has to close.
    ///
    /// A reply larger than all the bytes allowed fits into an empty queue, so that size alone closes nothing.
    pub(crate) fn push(&self, reply: Reply) -> Pushed {
        let size = reply.data.as_ref().map_or(0, super::asgi::Data::len);
        let mut state = self.state.lock();
        if state.ending.is_some() {
            return Pushed::Ending;
        }
        let fits = state.replies.len() < self.limits.messages && state.bytes + size <= self.limits.bytes;
        let pushed = if fits || state.replies.is_empty() {
            state.replies.push_back(reply);
            state.bytes += size;
            Pushed::Queued
        } else {
            let lost = state.replies.len() + 1;
            *state = State { ending: Some(Ending { code: code::TRY_AGAIN_LATER, at_once: true }), ..State::default() };
            Pushed::Overflowed { lost }
        };
        drop(state);
        self.changed.notify_one();
        pushed
    }

    /// How many replies wait.
    pub(crate) fn len(&self) -> usize {
        self.state.lock().replies.len()
    }

    /// Tells the socket to close with `code` once it has written what waits now. The first order stands.
    pub(crate) fn close(&self, code: u16) {
        self.state.lock().ending.get_or_insert(Ending { code, at_once: false });
        self.changed.notify_one();
    }

    /// Waits for replies and moves all of them to `batch`; gives the order to close when there are none.
    ///
    /// # Cancel safety
    ///
    /// When dropped, nothing has been moved.
    pub(crate) async fn take(&self, batch: &mut VecDeque<Reply>) -> Result<(), Ending> {
        loop {
            {
                let mut state = self.state.lock();
                if !state.replies.is_empty() {
                    state.bytes = 0;
                    std::mem::swap(&mut state.replies, batch);
                    return Ok(());
                }
                if let Some(ending) = state.ending {
                    return Err(ending);
                }
            }
            self.changed.notified().await;
        }
    }

    /// Waits for the next reply alone.
    ///
    /// # Cancel safety
    ///
    /// When dropped, nothing has been taken.
    pub(crate) async fn take_one(&self) -> Result<Reply, Ending> {
        loop {
            {
                let mut state = self.state.lock();
                if let Some(reply) = state.replies.pop_front() {
                    state.bytes -= reply.data.as_ref().map_or(0, super::asgi::Data::len);
                    return Ok(reply);
                }
                if let Some(ending) = state.ending {
                    return Err(ending);
                }
            }
            self.changed.notified().await;
        }
    }

    /// Waits for an order to close at once.
    pub(crate) async fn overflowed(&self) -> Ending {
        loop {
            if let Some(ending) = self.state.lock().ending.filter(|ending| ending.at_once) {
                return ending;
            }
            self.changed.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::asgi::Data;
    use super::*;

    fn reply(size: usize) -> Reply {
        Reply { data: Some(Data::Binary(vec![0; size].into())), ..Reply::default() }
    }

    fn queue(messages: usize, bytes: usize) -> Queue {
        Queue::new(QueueLimits { messages, bytes })
    }

    #[tokio::test]
    async fn too_many_messages_close_the_socket_at_once() {
        let queue = queue(2, 100);
        assert_eq!([queue.push(reply(1)), queue.push(reply(1))], [Pushed::Queued, Pushed::Queued]);
        assert_eq!(queue.push(reply(1)), Pushed::Overflowed { lost: 3 });
        assert_eq!(queue.push(reply(1)), Pushed::Ending);
        assert_eq!(queue.overflowed().await, Ending { code: 1013, at_once: true });
        assert_eq!(queue.take(&mut VecDeque::new()).await.unwrap_err().code, 1013);
    }

    #[tokio::test]
    async fn bytes_count_until_they_are_taken() {
        let queue = queue(10, 100);
        assert_eq!([queue.push(reply(60)), queue.push(reply(40))], [Pushed::Queued, Pushed::Queued]);
        assert_eq!(queue.take_one().await, Ok(reply(60)));
        assert_eq!(queue.push(reply(60)), Pushed::Queued);
        let mut batch = VecDeque::new();
        assert_eq!(queue.take(&mut batch).await, Ok(()));
        assert_eq!(batch.len(), 2);
        assert_eq!(queue.push(reply(101)), Pushed::Queued, "one large message alone fits");
        assert_eq!(queue.push(reply(1)), Pushed::Overflowed { lost: 2 });
    }

    #[tokio::test]
    async fn an_orderly_close_lets_the_queue_out_first() {
        let queue = queue(10, 100);
        queue.push(reply(1));
        queue.close(1001);
        queue.close(1012);
        assert_eq!(queue.push(reply(1)), Pushed::Ending);
        let mut batch = VecDeque::new();
        assert_eq!(queue.take(&mut batch).await, Ok(()));
        assert_eq!(queue.take(&mut batch).await, Err(Ending { code: 1001, at_once: false }));
    }
}
