//! Whether this process is alone in its hub, so that a message need not leave it: no I/O.
//!
//! The processes of a hub are a group on the layer. One that starts adds itself, greets the others, and lets a client
//! into a room only when all of them have answered or [`LEASE`] has passed. One that looked at the group and found itself
//! alone may believe so for `LEASE` from when it began to look. So if another one came after the look, it waits for as
//! long as this belief lasts; and a greeting ends the belief at once. No clock is compared with another's.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

/// How long a look at the group counts.
pub(crate) const LEASE: Duration = Duration::from_secs(2);

/// How often the group is looked at.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What a process knows of the others.
#[derive(Debug, Default)]
pub(crate) struct Presence {
    /// Until when it is alone.
    alone_until: Option<Instant>,
    /// When another process was last heard of directly. A look that began before that proves nothing.
    greeted: Option<Instant>,
    /// Until when it may not believe to be alone.
    doubted_until: Option<Instant>,
    /// Whether the last look succeeded.
    reachable: bool,
    /// Who has not answered the greeting yet.
    awaited: HashSet<String>,
}

/// What a look at the group found.
#[derive(Debug)]
pub(crate) struct Look {
    pub(crate) began: Instant,
    pub(crate) myself: bool,
    pub(crate) others: Vec<String>,
}

impl Presence {
    pub(crate) fn looked(&mut self, look: &Look) {
        self.reachable = true;
        let stale = self.greeted.is_some_and(|greeted| greeted >= look.began);
        self.alone_until = (look.myself && look.others.is_empty() && !stale).then(|| look.began + LEASE);
    }

    /// A layer that does not list the members of other processes answers, and tells nothing.
    pub(crate) fn answers(&mut self) {
        self.reachable = true;
    }

    /// The group could not be looked at. What is believed ends by itself.
    pub(crate) fn failed(&mut self) {
        self.reachable = false;
    }

    /// Another process is there.
    pub(crate) fn greeted(&mut self, now: Instant) {
        self.greeted = Some(now);
        self.alone_until = None;
    }

    /// The group has gone with the data of the layer. Others come back into it in their own time, and until they have had
    /// some, who finds itself alone there only came first.
    pub(crate) fn lost(&mut self, now: Instant) {
        self.alone_until = None;
        self.doubted_until = Some(now + LEASE);
    }

    /// This process greets `others`.
    pub(crate) fn greets(&mut self, others: Vec<String>) {
        self.awaited = others.into_iter().collect();
    }

    /// Another process answered the greeting; gives whether all have.
    pub(crate) fn answered(&mut self, process: &str) -> bool {
        self.awaited.remove(process);
        self.awaited.is_empty()
    }

    pub(crate) fn is_alone(&self, now: Instant) -> bool {
        self.alone_until.is_some_and(|until| now < until) && self.doubted_until.is_none_or(|until| now >= until)
    }

    pub(crate) fn is_reachable(&self) -> bool {
        self.reachable
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(began: Instant, others: &[&str]) -> Look {
        Look { began, myself: true, others: others.iter().map(|&other| other.to_owned()).collect() }
    }

    #[test]
    fn a_look_counts_from_when_it_began() {
        let began = Instant::now();
        let mut presence = Presence::default();
        assert!(!presence.is_alone(began), "nothing is known yet");
        presence.looked(&look(began, &[]));
        assert!(presence.is_alone(began + LEASE - Duration::from_millis(1)));
        assert!(!presence.is_alone(began + LEASE));
    }

    #[test]
    fn who_sees_others_is_not_alone() {
        let now = Instant::now();
        let mut presence = Presence::default();
        presence.looked(&look(now, &[]));
        presence.looked(&look(now, &["other"]));
        assert!(!presence.is_alone(now));
    }

    #[test]
    fn a_look_that_began_before_a_greeting_proves_nothing() {
        let began = Instant::now();
        let mut presence = Presence::default();
        presence.looked(&look(began, &[]));
        presence.greeted(began + Duration::from_millis(1));
        assert!(!presence.is_alone(began + Duration::from_millis(2)));
        presence.looked(&look(began, &[]));
        assert!(!presence.is_alone(began + Duration::from_millis(2)));
        presence.looked(&look(began + Duration::from_millis(3), &[]));
        assert!(presence.is_alone(began + Duration::from_millis(4)), "the other one has gone");
    }

    #[test]
    fn who_comes_first_after_a_loss_is_not_alone_for_that() {
        let now = Instant::now();
        let mut presence = Presence::default();
        presence.looked(&look(now, &[]));
        presence.lost(now);
        presence.looked(&look(now, &[]));
        assert!(!presence.is_alone(now));
        presence.looked(&look(now + LEASE, &[]));
        assert!(presence.is_alone(now + LEASE));
    }

    #[test]
    fn who_is_not_in_the_group_cannot_know() {
        let now = Instant::now();
        let mut presence = Presence::default();
        presence.looked(&Look { myself: false, ..look(now, &[]) });
        assert!(!presence.is_alone(now));
    }

    #[test]
    fn a_greeting_is_over_when_all_have_answered() {
        let mut presence = Presence::default();
        presence.greets(vec!["a".to_owned(), "b".to_owned()]);
        assert!(!presence.answered("a"));
        assert!(!presence.answered("a"));
        assert!(presence.answered("b"));
    }
}
