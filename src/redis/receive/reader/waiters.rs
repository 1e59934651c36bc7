//! `Waiters`: the consumers of a reader, and the queue in which they wait.

use std::collections::VecDeque;
use std::task::{Context, Waker};

/// The consumers of a reader, and the queue in which they wait.
///
/// Methods that take wakers out return them. The caller wakes or drops them after it has released the lock of the
/// state, because a waker runs code of the application.
#[derive(Default)]
pub(crate) struct Waiters {
    /// How many consumers exist.
    pub(crate) consumers: usize,
    /// How many deliveries all consumers together wait for.
    pub(crate) deliveries_wanted: usize,
    /// The ids and wakers of waiting consumers in the order in which they began to wait. Each consumer is in the queue
    /// once.
    queue: VecDeque<(u64, Waker)>,
}

impl Waiters {
    /// Adds the consumer `id` to the queue, or replaces its waker. Returns the replaced waker.
    #[must_use]
    pub(crate) fn register(&mut self, id: u64, cx: &Context<'_>) -> Option<Waker> {
        match self.queue.iter_mut().find(|(other, _)| *other == id) {
            Some((_, waker)) if waker.will_wake(cx.waker()) => None,
            Some((_, waker)) => Some(std::mem::replace(waker, cx.waker().clone())),
            None => {
                self.queue.push_back((id, cx.waker().clone()));
                None
            }
        }
    }

    /// Removes the consumer `id` from the queue. Returns its waker, or `None` if the consumer was not in the queue.
    #[must_use]
    pub(crate) fn remove(&mut self, id: u64) -> Option<Waker> {
        let index = self.queue.iter().position(|(other, _)| *other == id)?;
        self.queue.remove(index).map(|(_, waker)| waker)
    }

    /// Removes the consumer that has waited longest.
    #[must_use]
    pub(crate) fn next(&mut self) -> Option<Waker> {
        self.queue.pop_front().map(|(_, waker)| waker)
    }

    /// Removes all consumers from the queue.
    #[must_use]
    pub(crate) fn all(&mut self) -> Vec<Waker> {
        self.queue.drain(..).map(|(_, waker)| waker).collect()
    }
}
