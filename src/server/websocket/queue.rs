//! What waits for one client: bounded in messages and in bytes, filled without waiting.

use std::collections::VecDeque;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::drops;
use crate::server::asgi::lost;
use crate::server::asgi::lost::Lost;
use crate::server::asgi::messages::{Reply, code};
use crate::server::options::{QueueLimits, SlowConsumer, SocketOptions};
use crate::server::websocket::socket::FRAMES_AT_ONCE;

/// What a socket takes at once is in memory beside the queue.
const BYTES_AT_ONCE: usize = 256 * 1024;

/// What a reply takes in memory beside its bytes, rounded up: the reply, its place in the queue, and its frame.
const OVERHEAD: usize = 128;

/// Places that an empty queue keeps.
const SPARE: usize = 64;

/// The replies that a socket has not written yet, and the order to close it.
#[derive(Debug)]
pub(crate) struct Queue {
    limits: QueueLimits,
    policy: SlowConsumer,
    /// Held to move some replies, never across an await.
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    replies: VecDeque<Reply>,
    /// What they take in memory.
    bytes: usize,
    /// The last reply closes the socket, and nothing may follow it.
    closes: bool,
    ending: Option<Ending>,
}

/// An order to close that did not come from the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ending {
    pub(crate) code: u16,
    pub(crate) reason: &'static str,
    /// The client does not keep up: what is being written is given up as well.
    pub(crate) at_once: bool,
}

const TOO_SLOW: Ending = Ending { code: code::TRY_AGAIN_LATER, reason: "too slow", at_once: true };

/// There is no socket any more.
const OVER: Ending = Ending { code: code::ABNORMAL, reason: "", at_once: false };

/// What became of a pushed reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    Queued,
    /// There was no room, and so many older replies were left out for this one.
    Replaced(usize),
    /// There was no room, and this reply was left out.
    Dropped,
    /// There was no room; the socket has been told to close, and so many replies are lost.
    Overflowed(usize),
    /// The socket is closing already.
    Ending,
}

impl Pushed {
    /// Counts what no client gets.
    pub(crate) fn count(self) {
        match self {
            Self::Queued => {}
            Self::Replaced(lost) => drops::count(Lost::SlowConsumer, lost),
            Self::Dropped => drops::count(Lost::SlowConsumer, 1),
            Self::Overflowed(lost) => {
                lost::count_slow_consumer();
                drops::count(Lost::SlowConsumer, lost);
            }
            Self::Ending => drops::count(Lost::ClientGone, 1),
        }
    }
}

impl Queue {
    pub(crate) fn new(options: &SocketOptions) -> Self {
        Self { limits: options.queue, policy: options.slow_consumer, state: Mutex::default(), changed: Notify::new() }
    }

    /// Appends a reply; never waits. Where it does not fit, the client is too slow, and the policy decides.
    ///
    /// A reply larger than all the bytes allowed fits into an empty queue, so that size alone closes nothing.
    pub(crate) fn push(&self, reply: Reply) -> Pushed {
        let pushed = self.state.lock().push(reply, self.limits, self.policy);
        if !matches!(pushed, Pushed::Dropped | Pushed::Ending) {
            self.changed.notify_one();
        }
        pushed
    }

    /// How many replies wait, and how many bytes of memory they take.
    pub(crate) fn depth(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.replies.len(), state.bytes)
    }

    /// Tells the socket to close once it has written what waits now. The first order stands.
    pub(crate) fn close(&self, code: u16, reason: &'static str) {
        self.state.lock().ending.get_or_insert(Ending { code, reason, at_once: false });
        self.changed.notify_one();
    }

    /// Ends the queue with its socket; gives how many replies nobody gets.
    pub(crate) fn end(&self) -> usize {
        let mut state = self.state.lock();
        let lost = state.replies.len();
        *state = State { ending: state.ending.or(Some(OVER)), ..State::default() };
        lost
    }

    /// Waits for replies and gives some to `sink`, in order; gives the order to close when there are none.
    ///
    /// # Cancel safety
    ///
    /// When dropped, nothing has been taken.
    pub(crate) async fn take(&self, mut sink: impl FnMut(Reply)) -> Result<(), Ending> {
        self.wait(|state| state.take(&mut sink)).await
    }

    /// Waits for the next reply alone.
    ///
    /// # Cancel safety
    ///
    /// When dropped, nothing has been taken.
    pub(crate) async fn take_one(&self) -> Result<Reply, Ending> {
        self.wait(|state| state.pop().map(Ok).or(state.ending.map(Err))).await
    }

    /// Waits for an order to close at once.
    pub(crate) async fn overflowed(&self) -> Ending {
        self.wait(|state| state.ending.filter(|ending| ending.at_once)).await
    }

    async fn wait<T>(&self, mut look: impl FnMut(&mut State) -> Option<T>) -> T {
        loop {
            if let Some(found) = look(&mut self.state.lock()) {
                return found;
            }
            self.changed.notified().await;
        }
    }
}

impl State {
    fn push(&mut self, reply: Reply, limits: QueueLimits, policy: SlowConsumer) -> Pushed {
        if self.ending.is_some() || self.closes {
            return Pushed::Ending;
        }
        let pushed = match policy {
            _ if self.fits(&reply, limits) => Pushed::Queued,
            SlowConsumer::Close => {
                let lost = self.replies.len() + 1;
                *self = Self { ending: Some(TOO_SLOW), ..Self::default() };
                return Pushed::Overflowed(lost);
            }
            SlowConsumer::DropNewest if reply.close.is_none() => return Pushed::Dropped,
            // It is the last one.
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
        if self.replies.is_empty() && self.replies.capacity() > SPARE {
            self.replies = VecDeque::new();
        }
        Some(reply)
    }

    fn take(&mut self, sink: &mut impl FnMut(Reply)) -> Option<Result<(), Ending>> {
        if self.replies.is_empty() {
            return self.ending.map(Err);
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

/// What a reply takes in memory. A frame that many queues share counts in each of them.
fn cost(reply: &Reply) -> usize {
    OVERHEAD + reply.size()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::websocket::frame::Data;

    /// Of so many bytes in memory.
    fn reply(cost: usize) -> Reply {
        let head = match cost - OVERHEAD {
            ..128 => 2,
            128..65_540 => 4,
            _ => 10,
        };
        let reply =
            Reply { data: Some(Data::Binary(vec![0; cost - OVERHEAD - head].into()).into()), ..Reply::default() };
        assert_eq!(super::cost(&reply), cost);
        reply
    }

    fn queue(messages: usize, bytes: usize, policy: SlowConsumer) -> Queue {
        Queue::new(&SocketOptions::new().queue(messages, bytes).slow_consumer(policy))
    }

    async fn take(queue: &Queue) -> Result<Vec<usize>, Ending> {
        let mut sizes = Vec::new();
        queue.take(|reply| sizes.push(cost(&reply))).await.map(|()| sizes)
    }

    #[tokio::test]
    async fn too_many_messages_close_the_socket_at_once() {
        let queue = queue(2, 1_000, SlowConsumer::Close);
        assert_eq!([queue.push(reply(200)), queue.push(reply(200))], [Pushed::Queued, Pushed::Queued]);
        assert_eq!(queue.push(reply(200)), Pushed::Overflowed(3));
        assert_eq!(queue.push(reply(200)), Pushed::Ending);
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
        let empty = [Reply { accept: Some(true), ..Reply::default() }, Reply::default(), reply(OVERHEAD + 2)];
        for reply in empty {
            let queue = queue(usize::MAX, 1 << 20, SlowConsumer::Close);
            let queued = (0..10_000).take_while(|_| queue.push(reply.clone()) == Pushed::Queued).count();
            assert!((1..10_000).contains(&queued), "{queued}");
        }
    }

    #[tokio::test]
    async fn the_oldest_make_room_if_that_is_the_policy() {
        let queue = queue(3, 1_000, SlowConsumer::DropOldest);
        for size in [210, 211, 212] {
            assert_eq!(queue.push(reply(size)), Pushed::Queued);
        }
        assert_eq!(queue.push(reply(213)), Pushed::Replaced(1));
        assert_eq!(queue.push(reply(780)), Pushed::Replaced(2), "bytes count as well");
        assert_eq!(take(&queue).await, Ok(vec![213, 780]));
    }

    #[tokio::test]
    async fn the_newest_are_left_out_if_that_is_the_policy() {
        let queue = queue(2, 1_000, SlowConsumer::DropNewest);
        for size in [210, 211] {
            assert_eq!(queue.push(reply(size)), Pushed::Queued);
        }
        assert_eq!(queue.push(reply(212)), Pushed::Dropped);
        assert_eq!(
            queue.push(Reply { close: Some(4000), ..Reply::default() }),
            Pushed::Queued,
            "a close comes through"
        );
        assert_eq!(queue.push(reply(212)), Pushed::Ending);
        assert_eq!(take(&queue).await, Ok(vec![210, 211, OVERHEAD]));
    }

    #[tokio::test]
    async fn an_orderly_close_lets_the_queue_out_first() {
        let queue = queue(10, 1_000, SlowConsumer::Close);
        queue.push(reply(200));
        queue.close(1001, "going away");
        queue.close(1012, "never");
        assert_eq!(queue.push(reply(200)), Pushed::Ending);
        assert_eq!(take(&queue).await, Ok(vec![200]));
        assert_eq!(take(&queue).await, Err(Ending { code: 1001, reason: "going away", at_once: false }));
    }

    #[tokio::test]
    async fn a_socket_takes_no_more_at_once_than_it_can_write() {
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
