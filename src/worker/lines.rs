//! Jobs of the same connection stand in line; lines of different connections go on beside each other.

use std::collections::{HashMap, VecDeque};

use bytestring::ByteString;
use parking_lot::Mutex;

/// A line exists while a task works through it.
#[derive(Debug)]
pub(crate) struct Lines<J> {
    /// How many jobs of those that are bounded may wait in one line.
    longest: usize,
    /// Held for a push or a pop, never across an await.
    waiting: Mutex<HashMap<ByteString, Line<J>>>,
}

#[derive(Debug)]
struct Line<J> {
    jobs: VecDeque<J>,
    /// It has been too long.
    overrun: bool,
}

/// What became of a job.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Entered<J> {
    /// Nobody works through the line, and the caller has to: it does the job, then what [`next`](Lines::next) gives
    /// until that is nothing.
    First(J),
    Waits,
    /// The line is too long for it, for the first time or not.
    TooLong(J, bool),
}

impl<J: Ordered> Lines<J> {
    pub(crate) fn new(longest: usize) -> Self {
        Self { longest, waiting: Mutex::default() }
    }

    /// Puts a job into its line, behind those that do not come after it.
    pub(crate) fn enter(&self, line: &ByteString, job: J) -> Entered<J> {
        let mut waiting = self.waiting.lock();
        let Some(Line { jobs, overrun }) = waiting.get_mut(line) else {
            waiting.insert(line.clone(), Line { jobs: VecDeque::new(), overrun: false });
            return Entered::First(job);
        };
        if jobs.len() >= self.longest && job.is_bounded() {
            return Entered::TooLong(job, !std::mem::replace(overrun, true));
        }
        let after = jobs.iter().rev().take_while(|other| job.comes_before(other)).count();
        jobs.insert(jobs.len() - after, job);
        Entered::Waits
    }

    pub(crate) fn next(&self, line: &ByteString) -> Option<J> {
        let mut waiting = self.waiting.lock();
        let job = waiting.get_mut(line).and_then(|line| line.jobs.pop_front());
        if job.is_none() {
            waiting.remove(line);
        }
        job
    }

    /// Takes out all jobs that wait.
    pub(crate) fn drain(&self) -> Vec<J> {
        self.waiting.lock().values_mut().flat_map(|line| std::mem::take(&mut line.jobs)).collect()
    }
}

/// Something with a place among others of its line.
pub(crate) trait Ordered {
    /// Whether it is known to come before `other`, which entered first.
    fn comes_before(&self, other: &Self) -> bool;

    /// Whether it may only wait in a line that is not too long.
    fn is_bounded(&self) -> bool;
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Ordered for i32 {
        fn comes_before(&self, other: &Self) -> bool {
            self < other
        }

        fn is_bounded(&self) -> bool {
            *self < 100
        }
    }

    #[test]
    fn a_line_is_worked_through_by_whoever_found_it_empty() {
        let lines = Lines::new(5);
        let (ada, bob) = ("ada".into(), "bob".into());
        assert_eq!(lines.enter(&ada, 1), Entered::First(1));
        assert_eq!(lines.enter(&ada, 2), Entered::Waits);
        assert_eq!(lines.enter(&bob, 3), Entered::First(3));
        assert_eq!(lines.enter(&ada, 4), Entered::Waits);
        assert_eq!([lines.next(&ada), lines.next(&ada), lines.next(&ada)], [Some(2), Some(4), None]);
        assert_eq!(lines.enter(&ada, 5), Entered::First(5));
        assert_eq!([lines.next(&ada), lines.next(&bob)], [None, None]);
        assert!(lines.waiting.lock().is_empty());
    }

    #[test]
    fn what_overtook_another_on_the_way_waits_behind_it() {
        let lines = Lines::new(5);
        let line = "ada".into();
        assert_eq!(lines.enter(&line, 1), Entered::First(1));
        for job in [4, 2, 5, 3, 3] {
            assert_eq!(lines.enter(&line, job), Entered::Waits);
        }
        assert_eq!(lines.enter(&line, 6), Entered::TooLong(6, true));
        assert_eq!(lines.enter(&line, 7), Entered::TooLong(7, false));
        assert_eq!(lines.enter(&line, 100), Entered::Waits, "what is not bounded");
        assert_eq!(lines.drain(), [2, 3, 3, 4, 5, 100]);
        assert_eq!(lines.next(&line), None);
    }
}
