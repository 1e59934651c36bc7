//! `Queue`: the messages that wait for one sending task, handed out in batches.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

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
    /// The messages for lists on [hold](BatchReceiver::hold), by the names of the lists. The waiting messages for a
    /// list are later.
    held: HashMap<Box<str>, VecDeque<Outgoing<B>>>,
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
    last: AtomicUsize,
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
        let idle = !contents.busy && !contents.closed && contents.waiting.is_empty() && contents.held.is_empty();
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
        let (waiting, held) = (VecDeque::new(), HashMap::new());
        let contents = Contents { waiting, held, busy: false, bypasses: 0, closed: false };
        let contents = Arc::new(Mutex::new(contents));
        let queue = Queue { contents: contents.clone(), task: task.clone() };
        (queue, Self { contents, task, closing, last: AtomicUsize::new(0) })
    }

    /// Waits for messages and takes as many as a batch can have. Returns `None` at the end of the queue.
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped before it is ready has taken nothing.
    pub(crate) async fn next(&self) -> Option<Vec<Outgoing<B>>> {
        if self.last.load(Ordering::Relaxed) > 1 {
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
                self.last.store(batch.len(), Ordering::Relaxed);
                return Some(batch);
            }
            tokio::select! {
                biased;
                () = self.task.signalled() => {}
                () = self.closing.cancelled(), if !closing => {}
            }
        }
    }

    /// Removes the messages that do not stay, among those for `list` that are in no batch. `None` stands for all lists.
    pub(crate) fn release(&self, list: Option<&str>, stays: impl Fn(&Outgoing<B>) -> bool) -> Vec<Outgoing<B>> {
        let mut contents = self.contents.lock();
        let Contents { waiting, held, .. } = &mut *contents;
        let Some(list) = list else {
            return held
                .values_mut()
                .chain([waiting])
                .flat_map(|messages| extracted(messages, |m| !stays(m)))
                .collect();
        };
        let leaves = |message: &Outgoing<B>| message.list() == list && !stays(message);
        held.get_mut(list).into_iter().chain([waiting]).flat_map(|messages| extracted(messages, leaves)).collect()
    }

    /// Leaves the messages for `list` out of batches until [`resume`](Self::resume), because earlier ones have not been
    /// sent yet.
    pub(crate) fn hold(&self, list: Box<str>) {
        self.contents.lock().held.entry(list).or_default();
    }

    /// Ends the hold of a list.
    pub(crate) fn resume(&self, list: &str) {
        let mut contents = self.contents.lock();
        for message in contents.held.remove(list).into_iter().flatten().rev() {
            contents.waiting.push_front(message);
        }
    }

    /// Takes the next batch. The second value is whether the queue is closed and empty.
    fn take(&self, closing: bool) -> (Vec<Outgoing<B>>, bool) {
        let mut contents = self.contents.lock();
        contents.closed |= closing;
        let (mut batch, mut bytes) = (Vec::with_capacity(contents.waiting.len().min(MAX_MESSAGES)), 0);
        while contents.bypasses == 0
            && batch.len() < MAX_MESSAGES
            && bytes < MAX_BYTES
            && let Some(next) = contents.next_sendable()
        {
            bytes += next.bytes();
            batch.push(next);
        }
        contents.busy = !batch.is_empty();
        let ended = closing && batch.is_empty() && contents.is_empty();
        (batch, ended)
    }
}

/// Removes the messages that leave.
fn extracted<B>(messages: &mut VecDeque<Outgoing<B>>, leaves: impl Fn(&Outgoing<B>) -> bool) -> Vec<Outgoing<B>> {
    if !messages.iter().any(&leaves) {
        return Vec::new();
    }
    let (left, kept) = std::mem::take(messages).into_iter().partition::<Vec<_>, _>(leaves);
    *messages = kept.into();
    left
}

impl<B> Contents<B> {
    /// Removes the first message whose list is not on hold.
    fn next_sendable(&mut self) -> Option<Outgoing<B>> {
        loop {
            let next = self.waiting.pop_front()?;
            // Outside of a cluster no list is ever on hold.
            let held = if self.held.is_empty() { None } else { self.held.get_mut(next.list()) };
            match held {
                Some(held) => held.push_back(next),
                None => return Some(next),
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.held.values().all(VecDeque::is_empty)
    }
}

impl<B: Weight> Drop for BatchReceiver<B> {
    /// Refuses the waiting messages. This happens too when the runtime of the task ends.
    fn drop(&mut self) {
        let mut contents = self.contents.lock();
        contents.closed = true;
        let (waiting, held) = (std::mem::take(&mut contents.waiting), std::mem::take(&mut contents.held));
        drop(contents);
        held.into_values().flatten().chain(waiting).for_each(Outgoing::refuse);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::redis::send::OutboundMessage;
    use crate::redis::topology::lists::ListName;

    fn message(channel: &str) -> Outgoing<Bytes> {
        let channel = channel.parse().expect("the name is valid");
        let message = OutboundMessage { channel, capacity: 1, pinned: true, body: Bytes::new() };
        Outgoing::new(message, ListName::default(), 1, true, None).0
    }

    fn channels(messages: &[Outgoing<Bytes>]) -> Vec<&str> {
        messages.iter().map(|message| message.channel.as_str()).collect()
    }

    #[tokio::test]
    async fn messages_to_a_channel_on_hold_wait_in_order_and_hold_up_no_others() {
        let closing = CancellationToken::new();
        let (queue, batches) = BatchReceiver::new(Arc::default(), closing.clone());
        batches.hold("a!".into());
        for channel in ["a!1", "b!1", "a!2", "b!2"] {
            queue.add(message(channel));
        }
        assert_eq!(channels(&batches.next().await.unwrap()), ["b!1", "b!2"]);
        queue.add(message("a!3"));
        queue.add(message("b!3"));
        let released = batches.release(Some("a!"), |message| message.channel.as_str() != "a!2");
        assert_eq!(channels(&released), ["a!2"]);
        closing.cancel();
        assert_eq!(channels(&batches.next().await.unwrap()), ["b!3"]);
        batches.resume("a!");
        assert_eq!(channels(&batches.next().await.unwrap()), ["a!1", "a!3"], "the end of the queue waits for them");
        assert!(batches.next().await.is_none());
    }
}
