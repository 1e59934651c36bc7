//! `Queue`: the messages that wait for one sending task, handed out in batches.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::batch::Outgoing;
use super::format::Weight;
use crate::redis::driven::DrivenTask;

/// The most messages of a batch. Lua can unpack this many values at once with room to spare, and Redis serves no other
/// client while it runs a batch.
pub(crate) const MAX_MESSAGES: usize = 1000;
/// A batch that has this many bytes takes no further message.
pub(crate) const MAX_BYTES: usize = 1 << 20;

/// The sending end.
pub(crate) struct Queue<B> {
    /// Held only to add or take messages.
    contents: Arc<Mutex<Contents<B>>>,
    task: Arc<DrivenTask>,
}

struct Contents<B> {
    waiting: VecDeque<Outgoing<B>>,
    /// Whether a batch is under way. The task looks at the queue again after it.
    busy: bool,
    /// How many [bypass permits](BypassPermit) exist. The task sends nothing until they are dropped.
    bypasses: usize,
    /// Whether the queue takes no more messages.
    closed: bool,
}

/// The receiving end. It takes no more messages once `closing` is cancelled, and ends when it is empty after that.
pub(crate) struct BatchReceiver<B: Weight> {
    contents: Arc<Mutex<Contents<B>>>,
    task: Arc<DrivenTask>,
    closing: CancellationToken,
    /// The size of the last batch.
    last: usize,
}

impl<B: Weight> Queue<B> {
    /// Adds a message without waking the task. A closed queue refuses it.
    pub(crate) fn add(&self, message: Outgoing<B>) {
        let mut contents = self.contents.lock();
        if contents.closed {
            drop(contents);
            message.refuse();
        } else {
            contents.waiting.push_back(message);
        }
    }

    /// Has the task send the waiting messages, now or after the batch that is under way.
    pub(crate) fn flush(&self) {
        let idle = {
            let contents = self.contents.lock();
            !contents.busy && contents.bypasses == 0 && !contents.waiting.is_empty()
        };
        if idle {
            self.task.poll_inline();
        }
    }

    /// Reserves an idle queue, so that the caller can send past it. Returns `None` if the queue is busy or has
    /// messages, which must not be overtaken.
    pub(crate) fn bypass(&self) -> Option<BypassPermit<B>> {
        let mut contents = self.contents.lock();
        let idle = !contents.busy && !contents.closed && contents.waiting.is_empty();
        idle.then(|| {
            contents.bypasses += 1;
            BypassPermit { contents: self.contents.clone(), task: self.task.clone() }
        })
    }
}

/// Permit to send past an idle queue, which sends nothing until the permit is dropped.
pub(crate) struct BypassPermit<B> {
    contents: Arc<Mutex<Contents<B>>>,
    task: Arc<DrivenTask>,
}

impl<B> Drop for BypassPermit<B> {
    fn drop(&mut self) {
        let has_work = {
            let mut contents = self.contents.lock();
            contents.bypasses -= 1;
            contents.bypasses == 0 && !contents.waiting.is_empty()
        };
        if has_work {
            self.task.wake();
        }
    }
}

impl<B: Weight> BatchReceiver<B> {
    /// A queue and its receiving end, which the future that runs as `task` has to empty.
    pub(crate) fn new(task: Arc<DrivenTask>, closing: CancellationToken) -> (Queue<B>, Self) {
        let contents = Contents { waiting: VecDeque::new(), busy: false, bypasses: 0, closed: false };
        let contents = Arc::new(Mutex::new(contents));
        let queue = Queue { contents: contents.clone(), task: task.clone() };
        (queue, Self { contents, task, closing, last: 0 })
    }

    /// Waits for messages and takes as many as a batch can have. Returns `None` at the end of the queue.
    ///
    /// # Cancel safety
    ///
    /// None: messages that a dropped future had taken are lost.
    pub(crate) async fn next(&mut self) -> Option<Vec<Outgoing<B>>> {
        if self.last > 1 {
            // The callers of the last batch run now. They may send more, which can travel together.
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
                () = self.task.signalled() => {}
                () = self.closing.cancelled(), if !closing => {}
            }
        }
    }

    /// Removes the messages that do not stay. Called while no batch is being sent.
    pub(crate) fn release(&self, stays: impl Fn(&Outgoing<B>) -> bool) -> Vec<Outgoing<B>> {
        let mut contents = self.contents.lock();
        let (kept, released) = std::mem::take(&mut contents.waiting).into_iter().partition::<Vec<_>, _>(stays);
        contents.waiting = kept.into();
        released
    }

    /// Takes the next batch. The second value is whether the queue is closed and empty.
    fn take(&self, closing: bool) -> (Vec<Outgoing<B>>, bool) {
        let mut contents = self.contents.lock();
        contents.closed |= closing;
        let (mut batch, mut bytes) = (Vec::with_capacity(contents.waiting.len().min(MAX_MESSAGES)), 0);
        while contents.bypasses == 0
            && batch.len() < MAX_MESSAGES
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

impl<B: Weight> Drop for BatchReceiver<B> {
    /// Refuses the waiting messages. This happens too when the runtime of the task ends.
    fn drop(&mut self) {
        let mut contents = self.contents.lock();
        contents.closed = true;
        let waiting = std::mem::take(&mut contents.waiting);
        drop(contents);
        waiting.into_iter().for_each(Outgoing::refuse);
    }
}
