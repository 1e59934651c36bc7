//! What waits to be sent by one lane, in batches of what has gathered.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::routine::Routine;

/// The most messages of a batch: Lua can unpack so many values at once with room to spare, and Redis serves nobody else
/// while it runs a batch.
pub(crate) const MAX_ENTRIES: usize = 1000;
/// A batch takes no further message once it has so many bytes.
const MAX_BYTES: usize = 1 << 20;

/// A message on its way out.
pub(crate) trait Weight {
    /// How many bytes it has in Redis.
    fn bytes(&self) -> usize;
}

/// The sending end of a lane's queue.
pub(crate) struct Queue<T> {
    /// Held only to add or take messages.
    contents: Arc<Mutex<Contents<T>>>,
    work: Arc<Routine>,
}

struct Contents<T> {
    waiting: VecDeque<T>,
    /// Whether a batch is under way, after which the queue is looked at again.
    busy: bool,
    /// Calls under way beside the lane, which sends nothing until they have ended.
    beside: usize,
    /// Whether nothing is taken any more.
    closed: bool,
}

/// The receiving end of a lane's queue. It takes nothing more when `closing` is cancelled, and ends when all that came before
/// has been taken.
pub(crate) struct Outbox<T> {
    contents: Arc<Mutex<Contents<T>>>,
    work: Arc<Routine>,
    closing: CancellationToken,
    /// How many messages the last batch had.
    last: usize,
}

impl<T> Queue<T> {
    /// Puts a message behind those that wait, without telling the lane. When the lane has ended it is dropped.
    pub(crate) fn add(&self, message: T) {
        let mut contents = self.contents.lock();
        if !contents.closed {
            contents.waiting.push_back(message);
        }
    }

    /// Whether nothing is taken any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.contents.lock().closed
    }

    /// Lets the lane send what waits, now or when the batch under way has been answered.
    pub(crate) fn go(&self) {
        let idle = {
            let contents = self.contents.lock();
            !contents.busy && contents.beside == 0 && !contents.waiting.is_empty()
        };
        if idle {
            self.work.drive();
        }
    }

    /// Lets the caller send beside the lane, which sends nothing meanwhile; nothing if it has something to send itself,
    /// which must not be overtaken.
    pub(crate) fn beside(&self) -> Option<Beside<T>> {
        let mut contents = self.contents.lock();
        let idle = !contents.busy && !contents.closed && contents.waiting.is_empty();
        idle.then(|| {
            contents.beside += 1;
            Beside { contents: self.contents.clone(), work: self.work.clone() }
        })
    }
}

/// That somebody sends beside an idle lane, until it is dropped.
pub(crate) struct Beside<T> {
    contents: Arc<Mutex<Contents<T>>>,
    work: Arc<Routine>,
}

impl<T> Drop for Beside<T> {
    fn drop(&mut self) {
        let lane_goes_on = {
            let mut contents = self.contents.lock();
            contents.beside -= 1;
            contents.beside == 0 && !contents.waiting.is_empty()
        };
        if lane_goes_on {
            self.work.wake();
        }
    }
}

impl<T: Weight> Outbox<T> {
    /// A queue and its receiving end, which is to be emptied by what runs as `work`.
    pub(crate) fn new(work: Arc<Routine>, closing: CancellationToken) -> (Queue<T>, Self) {
        let contents = Contents { waiting: VecDeque::new(), busy: false, beside: 0, closed: false };
        let contents = Arc::new(Mutex::new(contents));
        let queue = Queue { contents: contents.clone(), work: work.clone() };
        (queue, Self { contents, work, closing, last: 0 })
    }

    /// Waits until something is there, and takes as much as makes a batch; nothing when it has ended.
    ///
    /// Not cancel safe: what a dropped future had taken is lost.
    pub(crate) async fn next_batch(&mut self) -> Option<Vec<T>> {
        if self.last > 1 {
            // Those who have just heard of their messages may have more, which can travel together.
            tokio::task::yield_now().await;
        }
        loop {
            let closing = self.closing.is_cancelled();
            let (batch, ended) = self.take(closing);
            if ended {
                return None;
            }
            if !batch.is_empty() {
                self.last = batch.len();
                return Some(batch);
            }
            tokio::select! {
                biased;
                () = self.work.signalled() => {}
                () = self.closing.cancelled(), if !closing => {}
            }
        }
    }

    /// Takes out what does not stay, while nothing is sent.
    pub(crate) fn release(&self, stays: impl Fn(&T) -> bool) -> Vec<T> {
        let mut contents = self.contents.lock();
        let (kept, released) = std::mem::take(&mut contents.waiting).into_iter().partition::<Vec<_>, _>(stays);
        contents.waiting = kept.into();
        released
    }

    /// Takes what travels next; without anything the lane is idle. Tells whether, `closing`, nothing is left nor will come.
    fn take(&self, closing: bool) -> (Vec<T>, bool) {
        let mut contents = self.contents.lock();
        contents.closed |= closing;
        let (mut batch, mut bytes) = (Vec::with_capacity(contents.waiting.len().min(MAX_ENTRIES)), 0);
        while contents.beside == 0
            && batch.len() < MAX_ENTRIES
            && bytes < MAX_BYTES
            && let Some(next) = contents.waiting.pop_front()
        {
            bytes += next.bytes();
            batch.push(next);
        }
        contents.busy = !batch.is_empty();
        let ended = closing && batch.is_empty() && contents.waiting.is_empty();
        (batch, ended)
    }
}

impl<T> Drop for Outbox<T> {
    /// Whoever waits to hear of a message that has not been taken learns that it never will be, also when the lane has
    /// ended with its runtime.
    fn drop(&mut self) {
        let mut contents = self.contents.lock();
        contents.closed = true;
        let waiting = std::mem::take(&mut contents.waiting);
        drop(contents);
        drop(waiting);
    }
}
