//! Jobs of the same connection stand in line; lines of different connections go on beside each other.

use std::collections::{HashMap, VecDeque};

use bytestring::ByteString;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::worker::overload::Floods;

/// A line exists while a task works through it.
#[derive(Debug)]
pub(crate) struct Lines<J> {
    /// How many jobs of those that are bounded may wait in one line.
    longest: usize,
    /// Held for a push or a pop, never across an await.
    state: Mutex<State<J>>,
}

#[derive(Debug)]
struct State<J> {
    waiting: HashMap<ByteString, VecDeque<J>>,
    /// Lines that have been too long.
    floods: Floods,
}

/// What became of a job.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Entered<J> {
    /// Nobody works through the line, and the caller has to: it does the job, then what [`next`](Lines::next) gives
    /// until that is nothing.
    First(J),
    Waits,
    /// The line is too long for it, or has been; and whether its client has been told.
    TooLong(J, bool),
}

impl<J: Ordered> Lines<J> {
    pub(crate) fn new(longest: usize) -> Self {
        Self { longest, state: Mutex::new(State { waiting: HashMap::new(), floods: Floods::default() }) }
    }

    /// Puts a job into its line, behind those that do not come after it.
    pub(crate) fn enter(&self, line: &ByteString, job: J) -> Entered<J> {
        let State { waiting, floods } = &mut *self.state.lock();
        if job.is_bounded() && self.is_too_long(waiting.get(line), line, floods) {
            return Entered::TooLong(job, !floods.tell(line));
        }
        let Some(jobs) = waiting.get_mut(line) else {
            waiting.insert(line.clone(), VecDeque::new());
            return Entered::First(job);
        };
        let after = jobs.iter().rev().take_while(|other| job.comes_before(other)).count();
        jobs.insert(jobs.len() - after, job);
        Entered::Waits
    }

    /// Whether it has no room for a job that is bounded. Once it had none it has none any more: what comes then follows on
    /// something that is missing.
    fn is_too_long(&self, jobs: Option<&VecDeque<J>>, line: &ByteString, floods: &mut Floods) -> bool {
        let now = Instant::now();
        if floods.include(line, now) {
            return true;
        }
        let long = jobs.is_some_and(|jobs| jobs.len() >= self.longest);
        if long {
            floods.begin(line, now);
        }
        long
    }

    /// The client of a line that has been too long could not be told.
    pub(crate) fn untell(&self, line: &ByteString) {
        self.state.lock().floods.untell(line);
    }

    pub(crate) fn next(&self, line: &ByteString) -> Option<J> {
        let State { waiting, .. } = &mut *self.state.lock();
        let job = waiting.get_mut(line).and_then(VecDeque::pop_front);
        if job.is_none() {
            waiting.remove(line);
        }
        job
    }

    /// Takes out all jobs that wait.
    pub(crate) fn drain(&self) -> Vec<J> {
        self.state.lock().waiting.values_mut().flat_map(std::mem::take).collect()
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
        assert!(lines.state.lock().waiting.is_empty());
    }

    #[test]
    fn what_overtook_another_on_the_way_waits_behind_it() {
        let lines = Lines::new(5);
        let line = "ada".into();
        assert_eq!(lines.enter(&line, 1), Entered::First(1));
        for job in [4, 2, 5, 3, 3] {
            assert_eq!(lines.enter(&line, job), Entered::Waits);
        }
        assert_eq!(lines.drain(), [2, 3, 3, 4, 5]);
        assert_eq!(lines.next(&line), None);
    }

    #[test]
    fn nothing_follows_on_what_found_the_line_too_long() {
        let (lines, ada, bob) = (Lines::new(2), "ada".into(), "bob".into());
        assert_eq!(lines.enter(&ada, 1), Entered::First(1));
        assert_eq!([lines.enter(&ada, 2), lines.enter(&ada, 3)], [Entered::Waits, Entered::Waits]);
        assert_eq!(lines.enter(&ada, 4), Entered::TooLong(4, false));
        assert_eq!([lines.next(&ada), lines.next(&ada)], [Some(2), Some(3)]);
        assert_eq!(lines.enter(&ada, 5), Entered::TooLong(5, true), "though there is room");
        assert_eq!(lines.next(&ada), None);
        assert_eq!(lines.enter(&ada, 6), Entered::TooLong(6, true), "though the line has ended");
        assert_eq!(lines.enter(&ada, 100), Entered::First(100), "what is not bounded, such as its end");
        assert_eq!(lines.enter(&bob, 7), Entered::First(7));
    }
}
