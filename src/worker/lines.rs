//! Jobs of the same connection stand in line; lines of different connections go on beside each other.

use std::collections::{HashMap, VecDeque};

use bytestring::ByteString;
use parking_lot::Mutex;

/// A line exists while a task works through it.
#[derive(Debug)]
pub(crate) struct Lines<J> {
    /// Held for a push or a pop, never across an await.
    waiting: Mutex<HashMap<ByteString, VecDeque<J>>>,
}

impl<J> Default for Lines<J> {
    fn default() -> Self {
        Self { waiting: Mutex::default() }
    }
}

impl<J: Ordered> Lines<J> {
    /// Puts a job into its line, behind those that do not come after it. If nobody works through the line the job comes
    /// back, and the caller has to: it does the job, then what [`next`](Self::next) gives until that is nothing.
    pub(crate) fn enter(&self, line: &ByteString, job: J) -> Option<J> {
        let mut waiting = self.waiting.lock();
        if let Some(jobs) = waiting.get_mut(line) {
            let after = jobs.iter().rev().take_while(|other| job.comes_before(other)).count();
            jobs.insert(jobs.len() - after, job);
            return None;
        }
        waiting.insert(line.clone(), VecDeque::new());
        Some(job)
    }

    pub(crate) fn next(&self, line: &ByteString) -> Option<J> {
        let mut waiting = self.waiting.lock();
        let job = waiting.get_mut(line).and_then(VecDeque::pop_front);
        if job.is_none() {
            waiting.remove(line);
        }
        job
    }

    /// Takes out all jobs that wait.
    pub(crate) fn drain(&self) -> Vec<J> {
        self.waiting.lock().values_mut().flat_map(std::mem::take).collect()
    }
}

/// Something with a place among others of its line.
pub(crate) trait Ordered {
    /// Whether it is known to come before `other`, which entered first.
    fn comes_before(&self, other: &Self) -> bool;
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Ordered for i32 {
        fn comes_before(&self, other: &Self) -> bool {
            self < other
        }
    }

    #[test]
    fn a_line_is_worked_through_by_whoever_found_it_empty() {
        let lines = Lines::default();
        let (ada, bob) = ("ada".into(), "bob".into());
        assert_eq!(lines.enter(&ada, 1), Some(1));
        assert_eq!(lines.enter(&ada, 2), None);
        assert_eq!(lines.enter(&bob, 3), Some(3));
        assert_eq!(lines.enter(&ada, 4), None);
        assert_eq!([lines.next(&ada), lines.next(&ada), lines.next(&ada)], [Some(2), Some(4), None]);
        assert_eq!(lines.enter(&ada, 5), Some(5));
        assert_eq!([lines.next(&ada), lines.next(&bob)], [None, None]);
        assert!(lines.waiting.lock().is_empty());
    }

    #[test]
    fn what_overtook_another_on_the_way_waits_behind_it() {
        let lines = Lines::default();
        let line = "ada".into();
        assert_eq!(lines.enter(&line, 1), Some(1));
        for job in [4, 2, 5, 3, 3] {
            assert_eq!(lines.enter(&line, job), None);
        }
        assert_eq!(lines.drain(), [2, 3, 3, 4, 5]);
        assert_eq!(lines.next(&line), None);
    }
}
