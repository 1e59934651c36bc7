//! `Queue`: the replies that wait for one client, bounded in messages and bytes. A push never waits.

use std::collections::VecDeque;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::drops;
use crate::server::counters::{self, ClientDropReason};
use crate::server::options::{QueueLimits, SlowConsumer, SocketOptions};
use crate::server::websocket::close_code;
use crate::server::websocket::reply::Reply;
use crate::server::websocket::write_buffer::FRAMES_AT_ONCE;

/// Number of bytes after which a socket takes no more replies at once. They are in memory in addition to the queue.
const BYTES_AT_ONCE: usize = 256 * 1024;

/// Memory of a reply in addition to its bytes, rounded up: the reply, its place in the queue, and its frame.
const REPLY_OVERHEAD: usize = 128;

/// Capacity that an empty queue keeps.
const KEPT_CAPACITY: usize = 64;

/// The replies that a socket has not taken yet, and the request to close it.
#[derive(Debug)]
pub(crate) struct Queue {
    limits: QueueLimits,
    policy: SlowConsumer,
    /// Held to move a few replies, never across an await.
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    replies: VecDeque<Reply>,
    /// Bytes of memory that the replies take.
    bytes: usize,
    /// Whether the last reply closes the socket. No reply may follow it.
    closes: bool,
    close: Option<CloseRequest>,
}

/// A request of the server to close the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CloseRequest {
    pub(crate) code: u16,
    pub(crate) reason: &'static str,
    /// Whether the client is too slow. The frames that its socket has taken are then discarded too.
    pub(crate) at_once: bool,
}

const TOO_SLOW: CloseRequest = CloseRequest { code: close_code::TRY_AGAIN_LATER, reason: "too slow", at_once: true };

/// The request in a queue whose socket has ended.
const ENDED: CloseRequest = CloseRequest { code: close_code::ABNORMAL, reason: "", at_once: false };

/// Outcome of a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    Queued,
    /// The queue was full; this number of older replies was dropped.
    Replaced(usize),
    /// The queue was full; this reply was dropped.
    Dropped,
    /// The queue was full; the socket closes, and this number of replies is dropped.
    Overflowed(usize),
    /// The socket is closing; this reply was dropped.
    Closing,
}

impl Pushed {
    /// Counts the dropped replies.
    pub(crate) fn count(self) {
        let mut dropped = DroppedReplies::default();
        dropped.add(self);
        dropped.count();
    }
}

/// Replies that pushes have dropped and that are not counted yet. The recorder of metrics is foreign code, so they are
/// counted outside of locks.
#[derive(Debug, Default)]
pub(crate) struct DroppedReplies {
    client_gone: usize,
    slow_consumer: usize,
    /// Number of clients that are closed because they are too slow.
    closed: usize,
}

impl DroppedReplies {
    pub(crate) fn add(&mut self, pushed: Pushed) {
        match pushed {
            Pushed::Queued => {}
            Pushed::Replaced(lost) => self.slow_consumer += lost,
            Pushed::Dropped => self.slow_consumer += 1,
            Pushed::Overflowed(lost) => {
                self.closed += 1;
                self.slow_consumer += lost;
            }
            Pushed::Closing => self.client_gone += 1,
        }
    }

    pub(crate) fn count(self) {
        drops::count(ClientDropReason::ClientGone, self.client_gone);
        drops::count(ClientDropReason::SlowConsumer, self.slow_consumer);
        counters::count_slow_consumers(self.closed);
    }
}

impl Queue {
    pub(crate) fn new(options: &SocketOptions) -> Self {
        Self { limits: options.queue, policy: options.slow_consumer, state: Mutex::default(), changed: Notify::new() }
    }

    /// Appends a reply without waiting. If it does not fit, the policy for slow clients decides.
    ///
    /// A reply larger than the limit of bytes fits into an empty queue, so that size alone closes no socket.
    pub(crate) fn push(&self, reply: Reply) -> Pushed {
        let pushed = self.state.lock().push(reply, self.limits, self.policy);
        if !matches!(pushed, Pushed::Dropped | Pushed::Closing) {
            self.changed.notify_one();
        }
        pushed
    }

    /// Returns the number of replies and the bytes of memory that they take.
    pub(crate) fn depth(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.replies.len(), state.bytes)
    }

    /// Closes the socket after the replies in the queue. Only the first call has an effect.
    pub(crate) fn close(&self, code: u16, reason: &'static str) {
        self.state.lock().close.get_or_insert(CloseRequest { code, reason, at_once: false });
        self.changed.notify_one();
    }

    /// Ends the queue with its socket. Returns the number of dropped replies.
    pub(crate) fn end(&self) -> usize {
        let mut state = self.state.lock();
        let lost = state.replies.len();
        *state = State { close: state.close.or(Some(ENDED)), ..State::default() };
        lost
    }

    /// Waits for replies and passes some to `sink`, in order. Fails with the request to close when the queue is empty.
    ///
    /// # Cancel safety
    ///
    /// When dropped, no reply has been taken.
    pub(crate) async fn take(&self, mut sink: impl FnMut(Reply)) -> Result<(), CloseRequest> {
        self.wait(|state| state.take(&mut sink)).await
    }

    /// Waits for one reply.
    ///
    /// # Cancel safety
    ///
    /// When dropped, no reply has been taken.
    pub(crate) async fn take_one(&self) -> Result<Reply, CloseRequest> {
        self.wait(|state| state.pop().map(Ok).or(state.close.map(Err))).await
    }

    /// Waits for a request to close immediately.
    pub(crate) async fn overflowed(&self) -> CloseRequest {
        self.wait(|state| state.close.filter(|close| close.at_once)).await
    }

    async fn wait<T>(&self, mut poll: impl FnMut(&mut State) -> Option<T>) -> T {
        loop {
            if let Some(found) = poll(&mut self.state.lock()) {
                return found;
            }
            self.changed.notified().await;
        }
    }
}

impl State {
    fn push(&mut self, reply: Reply, limits: QueueLimits, policy: SlowConsumer) -> Pushed {
        if self.close.is_some() || self.closes {
            return Pushed::Closing;
        }
        let pushed = match policy {
            _ if self.fits(&reply, limits) => Pushed::Queued,
            SlowConsumer::Close => {
                let lost = self.replies.len() + 1;
                *self = Self { close: Some(TOO_SLOW), ..Self::default() };
                return Pushed::Overflowed(lost);
            }
            SlowConsumer::DropNewest if reply.close.is_none() => return Pushed::Dropped,
            // A reply that closes the socket is the last one, and always fits.
            SlowConsumer::DropNewest => Pushed::Queued,
            SlowConsumer::DropOldest => {
                let before = self.replies.len();
                while !self.fits(&reply, limits) {
                    self.pop();
                }
                Pushed::Replaced(before - self.replies.len())
            }
        };
        self.bytes += cost(&reply);
        self.closes = reply.close.is_some();
        self.replies.push_back(reply);
        pushed
    }

    fn fits(&self, reply: &Reply, limits: QueueLimits) -> bool {
        let room = self.replies.len() < limits.messages && self.bytes + cost(reply) <= limits.bytes;
        room || self.replies.is_empty()
    }

    fn pop(&mut self) -> Option<Reply> {
        let reply = self.replies.pop_front()?;
        self.bytes -= cost(&reply);
        if self.replies.is_empty() && self.replies.capacity() > KEPT_CAPACITY {
            self.replies = VecDeque::new();
        }
        Some(reply)
    }

    fn take(&mut self, sink: &mut impl FnMut(Reply)) -> Option<Result<(), CloseRequest>> {
        if self.replies.is_empty() {
            return self.close.map(Err);
        }
        let (before, mut taken) = (self.bytes, 0);
        while taken < FRAMES_AT_ONCE
            && before - self.bytes < BYTES_AT_ONCE
            && let Some(reply) = self.pop()
        {
            sink(reply);
            taken += 1;
        }
        Some(Ok(()))
    }
}

/// Returns the memory of a reply. A frame that many queues share counts in each of them.
fn cost(reply: &Reply) -> usize {
    REPLY_OVERHEAD + reply.size()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::websocket::frame::Data;

    /// Returns a reply that takes `cost` bytes of memory.
    fn reply(cost: usize) -> Reply {
        let head = match cost - REPLY_OVERHEAD {
            ..128 => 2,
            128..65_540 => 4,
            _ => 10,
        };
        let reply =
            Reply { data: Some(Data::Binary(vec![0; cost - REPLY_OVERHEAD - head].into()).into()), ..Reply::default() };
        assert_eq!(super::cost(&reply), cost);
        reply
    }

    fn queue(messages: usize, bytes: usize, policy: SlowConsumer) -> Queue {
        Queue::new(&SocketOptions::new().queue(messages, bytes).slow_consumer(policy))
    }

    async fn take(queue: &Queue) -> Result<Vec<usize>, CloseRequest> {
        let mut sizes = Vec::new();
        queue.take(|reply| sizes.push(cost(&reply))).await.map(|()| sizes)
    }

    #[tokio::test]
    async fn too_many_messages_close_the_socket_at_once() {
        let queue = queue(2, 1_000, SlowConsumer::Close);
        assert_eq!([queue.push(reply(200)), queue.push(reply(200))], [Pushed::Queued, Pushed::Queued]);
        assert_eq!(queue.push(reply(200)), Pushed::Overflowed(3));
        assert_eq!(queue.push(reply(200)), Pushed::Closing);
        assert_eq!(queue.overflowed().await, TOO_SLOW);
        assert_eq!(take(&queue).await, Err(TOO_SLOW));
    }

    #[tokio::test]
    async fn bytes_count_until_they_are_taken() {
        let queue = queue(10, 1_000, SlowConsumer::Close);
        assert_eq!([queue.push(reply(600)), queue.push(reply(400))], [Pushed::Queued, Pushed::Queued]);
        assert_eq!(queue.take_one().await, Ok(reply(600)));
        assert_eq!(queue.push(reply(600)), Pushed::Queued);
        assert_eq!(take(&queue).await, Ok(vec![400, 600]));
        assert_eq!(queue.push(reply(1_001)), Pushed::Queued, "one large message alone fits");
        assert_eq!(queue.push(reply(200)), Pushed::Overflowed(2));
    }

    #[tokio::test]
    async fn replies_without_data_are_bounded_by_bytes_as_well() {
        let empty = [Reply { accept: Some(true), ..Reply::default() }, Reply::default(), reply(REPLY_OVERHEAD + 2)];
        for reply in empty {
            let queue = queue(usize::MAX, 1 << 20, SlowConsumer::Close);
            let queued = (0..10_000).take_while(|_| queue.push(reply.clone()) == Pushed::Queued).count();
            assert!((1..10_000).contains(&queued), "{queued}");
        }
    }

    #[tokio::test]
    async fn drop_oldest_makes_room_for_a_new_reply() {
        let queue = queue(3, 1_000, SlowConsumer::DropOldest);
        for size in [210, 211, 212] {
            assert_eq!(queue.push(reply(size)), Pushed::Queued);
        }
        assert_eq!(queue.push(reply(213)), Pushed::Replaced(1));
        assert_eq!(queue.push(reply(780)), Pushed::Replaced(2), "bytes count as well");
        assert_eq!(take(&queue).await, Ok(vec![213, 780]));
    }

    #[tokio::test]
    async fn drop_newest_drops_the_new_reply() {
        let queue = queue(2, 1_000, SlowConsumer::DropNewest);
        for size in [210, 211] {
            assert_eq!(queue.push(reply(size)), Pushed::Queued);
        }
        assert_eq!(queue.push(reply(212)), Pushed::Dropped);
        assert_eq!(queue.push(Reply { close: Some(4000), ..Reply::default() }), Pushed::Queued, "a close always fits");
        assert_eq!(queue.push(reply(212)), Pushed::Closing);
        assert_eq!(take(&queue).await, Ok(vec![210, 211, REPLY_OVERHEAD]));
    }

    #[tokio::test]
    async fn an_orderly_close_comes_after_the_queued_replies() {
        let queue = queue(10, 1_000, SlowConsumer::Close);
        queue.push(reply(200));
        queue.close(1001, "going away");
        queue.close(1012, "never");
        assert_eq!(queue.push(reply(200)), Pushed::Closing);
        assert_eq!(take(&queue).await, Ok(vec![200]));
        assert_eq!(take(&queue).await, Err(CloseRequest { code: 1001, reason: "going away", at_once: false }));
    }

    #[tokio::test]
    async fn a_socket_takes_a_bounded_batch() {
        let queue = queue(1_000, 10_000_000, SlowConsumer::Close);
        for _ in 0..100 {
            queue.push(reply(1_000));
        }
        assert_eq!(take(&queue).await.unwrap().len(), FRAMES_AT_ONCE);
        while queue.depth().0 > 0 {
            take(&queue).await.unwrap();
        }
        for _ in 0..2 {
            queue.push(reply(1_000_000));
        }
        assert_eq!(take(&queue).await.unwrap().len(), 1);
    }
}
