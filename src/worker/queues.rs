//! `KeyedQueues`: jobs with the same key run one after the other, jobs with different keys concurrently.

use std::collections::{HashMap, VecDeque};

use bytestring::ByteString;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::worker::overload::Overload;

/// The queues of waiting jobs. A queue exists while a task processes it.
#[derive(Debug)]
pub(crate) struct KeyedQueues<J> {
    /// Limit of bounded jobs that wait in one queue.
    limit: usize,
    /// Locked for a push or a pop, never across an await.
    state: Mutex<State<J>>,
}

#[derive(Debug)]
struct State<J> {
    waiting: HashMap<ByteString, VecDeque<J>>,
    /// Queues that have exceeded the limit.
    overload: Overload,
}

/// The result of pushing a job.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Pushed<J> {
    /// The queue was idle. The caller runs the job, and then each job that [`next`](KeyedQueues::next) returns, until
    /// it returns `None`.
    Idle(J),
    Queued,
    /// The queue has exceeded the limit. `true` if its client was notified before.
    Overloaded(J, bool),
}

impl<J: Ordered> KeyedQueues<J> {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, state: Mutex::new(State { waiting: HashMap::new(), overload: Overload::default() }) }
    }

    /// Pushes a job into the queue of `key`, in front of the waiting jobs that it precedes.
    pub(crate) fn push(&self, key: &ByteString, job: J) -> Pushed<J> {
        let State { waiting, overload } = &mut *self.state.lock();
        if job.is_bounded() && self.is_overloaded(waiting.get(key), key, overload) {
            return Pushed::Overloaded(job, !overload.notify(key));
        }
        let Some(jobs) = waiting.get_mut(key) else {
            waiting.insert(key.clone(), VecDeque::new());
            return Pushed::Idle(job);
        };
        let after = jobs.iter().rev().take_while(|other| job.precedes(other)).count();
        jobs.insert(jobs.len() - after, job);
        Pushed::Queued
    }

    /// Returns whether the queue refuses a bounded job. A queue that has refused one refuses all later ones, because
    /// they would follow a gap.
    fn is_overloaded(&self, jobs: Option<&VecDeque<J>>, key: &ByteString, overload: &mut Overload) -> bool {
        let now = Instant::now();
        if overload.refuses(key, now) {
            return true;
        }
        let full = jobs.is_some_and(|jobs| jobs.len() >= self.limit);
        if full {
            overload.insert(key, now);
        }
        full
    }

    /// Records that the client of an overloaded queue could not be notified.
    pub(crate) fn unmark_notified(&self, key: &ByteString) {
        self.state.lock().overload.unmark_notified(key);
    }

    /// Removes and returns the next job. Removes the queue if it is empty.
    pub(crate) fn next(&self, key: &ByteString) -> Option<J> {
        let State { waiting, .. } = &mut *self.state.lock();
        let job = waiting.get_mut(key).and_then(VecDeque::pop_front);
        if job.is_none() {
            waiting.remove(key);
        }
        job
    }

    /// Removes and returns all waiting jobs.
    pub(crate) fn drain(&self) -> Vec<J> {
        self.state.lock().waiting.values_mut().flat_map(std::mem::take).collect()
    }
}

/// A job with a position among the others of its queue.
pub(crate) trait Ordered {
    /// Whether the job precedes `other`, which was pushed first.
    fn precedes(&self, other: &Self) -> bool;

    /// Whether the queue limits jobs of this kind.
    fn is_bounded(&self) -> bool;
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Ordered for i32 {
        fn precedes(&self, other: &Self) -> bool {
            self < other
        }

        fn is_bounded(&self) -> bool {
            *self < 100
        }
    }

    #[test]
    fn a_queue_is_processed_by_the_caller_that_found_it_idle() {
        let queues = KeyedQueues::new(5);
        let (ada, bob) = ("ada".into(), "bob".into());
        assert_eq!(queues.push(&ada, 1), Pushed::Idle(1));
        assert_eq!(queues.push(&ada, 2), Pushed::Queued);
        assert_eq!(queues.push(&bob, 3), Pushed::Idle(3));
        assert_eq!(queues.push(&ada, 4), Pushed::Queued);
        assert_eq!([queues.next(&ada), queues.next(&ada), queues.next(&ada)], [Some(2), Some(4), None]);
        assert_eq!(queues.push(&ada, 5), Pushed::Idle(5));
        assert_eq!([queues.next(&ada), queues.next(&bob)], [None, None]);
        assert!(queues.state.lock().waiting.is_empty());
    }

    #[test]
    fn jobs_are_sorted_by_their_order() {
        let queues = KeyedQueues::new(5);
        let key = "ada".into();
        assert_eq!(queues.push(&key, 1), Pushed::Idle(1));
        for job in [4, 2, 5, 3, 3] {
            assert_eq!(queues.push(&key, job), Pushed::Queued);
        }
        assert_eq!(queues.drain(), [2, 3, 3, 4, 5]);
        assert_eq!(queues.next(&key), None);
    }

    #[test]
    fn an_overloaded_queue_refuses_all_later_bounded_jobs() {
        let (queues, ada, bob) = (KeyedQueues::new(2), "ada".into(), "bob".into());
        assert_eq!(queues.push(&ada, 1), Pushed::Idle(1));
        assert_eq!([queues.push(&ada, 2), queues.push(&ada, 3)], [Pushed::Queued, Pushed::Queued]);
        assert_eq!(queues.push(&ada, 4), Pushed::Overloaded(4, false));
        assert_eq!([queues.next(&ada), queues.next(&ada)], [Some(2), Some(3)]);
        assert_eq!(queues.push(&ada, 5), Pushed::Overloaded(5, true), "although there is room");
        assert_eq!(queues.next(&ada), None);
        assert_eq!(queues.push(&ada, 6), Pushed::Overloaded(6, true), "although the queue is idle");
        assert_eq!(queues.push(&ada, 100), Pushed::Idle(100), "a job that is not bounded, such as a disconnect");
        assert_eq!(queues.push(&bob, 7), Pushed::Idle(7));
    }
}
