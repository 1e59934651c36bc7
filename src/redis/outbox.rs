//! What waits to be sent by one lane, in batches of what has gathered.

use std::collections::VecDeque;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

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

/// The receiving end of a lane's queue. It ends when `closing` is cancelled and everything has been taken.
pub(crate) struct Outbox<T> {
    queue: mpsc::UnboundedReceiver<T>,
    closing: CancellationToken,
    /// Taken from the queue and not sent yet.
    waiting: VecDeque<T>,
}

impl<T: Weight> Outbox<T> {
    /// A queue and its receiving end.
    pub(crate) fn new(closing: CancellationToken) -> (mpsc::UnboundedSender<T>, Self) {
        let (sender, queue) = mpsc::unbounded_channel();
        (sender, Self { queue, closing, waiting: VecDeque::new() })
    }

    /// Waits until something is there, and takes as much as makes a batch; nothing when it has ended.
    ///
    /// Not cancel safe: what a dropped future had taken is lost.
    pub(crate) async fn next_batch(&mut self) -> Option<Vec<T>> {
        let mut taken = Vec::new();
        while self.waiting.is_empty() {
            let more = tokio::select! {
                biased;
                more = self.queue.recv_many(&mut taken, MAX_ENTRIES) => more,
                () = self.closing.cancelled(), if !self.queue.is_closed() => {
                    self.queue.close();
                    continue;
                }
            };
            if more == 0 {
                return None;
            }
            self.waiting.extend(taken.drain(..));
        }
        while self.waiting.len() < MAX_ENTRIES
            && let Ok(next) = self.queue.try_recv()
        {
            self.waiting.push_back(next);
        }
        let mut bytes = 0;
        while taken.len() < MAX_ENTRIES
            && bytes < MAX_BYTES
            && let Some(next) = self.waiting.pop_front()
        {
            bytes += next.bytes();
            taken.push(next);
        }
        Some(taken)
    }
}
