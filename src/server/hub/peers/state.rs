//! `PeerState`: whether this process is alone in its hub, so that messages need not leave it. No I/O.
//!
//! The processes of a hub are a group on the layer. A new process adds itself, announces itself to the others, and lets
//! a client into a room only after all of them have answered or [`LEASE`] has passed. A process that polled the group
//! and found only itself may consider itself alone for `LEASE` from the start of the poll. A process that joins after
//! that poll waits for `LEASE` before it admits clients. From its announcement on, the other processes do not consider
//! themselves alone. Clocks of different processes are never compared.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

/// How long a poll of the group is valid.
pub(crate) const LEASE: Duration = Duration::from_secs(2);

/// Interval of polling the group.
pub(crate) const POLL_EVERY: Duration = Duration::from_millis(500);

/// The knowledge of a process about the other processes.
#[derive(Debug, Default)]
pub(crate) struct PeerState {
    /// End of the time in which this process is known to be alone.
    alone_until: Option<Instant>,
    /// Time of the last announcement by another process. A poll that began earlier proves nothing.
    last_announcement: Option<Instant>,
    /// Until this time the process must not consider itself alone.
    doubted_until: Option<Instant>,
    /// Whether the last poll succeeded.
    reachable: bool,
    /// The processes that have not answered the announcement yet.
    unanswered: HashSet<String>,
}

/// The result of a poll of the group.
#[derive(Debug)]
pub(crate) struct PeerPoll {
    pub(crate) began: Instant,
    /// Whether this process is in the group.
    pub(crate) myself: bool,
    pub(crate) others: Vec<String>,
}

impl PeerState {
    pub(crate) fn polled(&mut self, poll: &PeerPoll) {
        self.reachable = true;
        let stale = self.last_announcement.is_some_and(|time| time >= poll.began);
        self.alone_until = (poll.myself && poll.others.is_empty() && !stale).then(|| poll.began + LEASE);
    }

    /// Records an answer of a layer that does not list the members of other processes. It proves only that the layer is
    /// reachable.
    pub(crate) fn mark_reachable(&mut self) {
        self.reachable = true;
    }

    /// Records a failed poll. The result of an earlier poll stays valid until it expires.
    pub(crate) fn poll_failed(&mut self) {
        self.reachable = false;
    }

    /// Records the announcement of another process.
    pub(crate) fn peer_seen(&mut self, now: Instant) {
        self.last_announcement = Some(now);
        self.alone_until = None;
    }

    /// Records that the layer lost its data, and the group with it. Other processes add themselves again within
    /// [`LEASE`]. Until then, finding only itself does not prove that this process is alone.
    pub(crate) fn data_lost(&mut self, now: Instant) {
        self.alone_until = None;
        self.doubted_until = Some(now + LEASE);
    }

    /// Expects answers from `others`.
    pub(crate) fn expect_answers(&mut self, others: Vec<String>) {
        self.unanswered = others.into_iter().collect();
    }

    /// Records an answer to the announcement. Returns whether all have answered.
    pub(crate) fn answer_received(&mut self, process: &str) -> bool {
        self.unanswered.remove(process);
        self.unanswered.is_empty()
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

    fn poll(began: Instant, others: &[&str]) -> PeerPoll {
        PeerPoll { began, myself: true, others: others.iter().map(|&other| other.to_owned()).collect() }
    }

    #[test]
    fn a_poll_is_valid_from_its_start() {
        let began = Instant::now();
        let mut state = PeerState::default();
        assert!(!state.is_alone(began), "nothing is known yet");
        state.polled(&poll(began, &[]));
        assert!(state.is_alone(began + LEASE - Duration::from_millis(1)));
        assert!(!state.is_alone(began + LEASE));
    }

    #[test]
    fn a_process_that_finds_others_is_not_alone() {
        let now = Instant::now();
        let mut state = PeerState::default();
        state.polled(&poll(now, &[]));
        state.polled(&poll(now, &["other"]));
        assert!(!state.is_alone(now));
    }

    #[test]
    fn a_poll_that_began_before_an_announcement_proves_nothing() {
        let began = Instant::now();
        let mut state = PeerState::default();
        state.polled(&poll(began, &[]));
        state.peer_seen(began + Duration::from_millis(1));
        assert!(!state.is_alone(began + Duration::from_millis(2)));
        state.polled(&poll(began, &[]));
        assert!(!state.is_alone(began + Duration::from_millis(2)));
        state.polled(&poll(began + Duration::from_millis(3), &[]));
        assert!(state.is_alone(began + Duration::from_millis(4)), "the other one has gone");
    }

    #[test]
    fn the_first_process_after_a_loss_does_not_count_as_alone() {
        let now = Instant::now();
        let mut state = PeerState::default();
        state.polled(&poll(now, &[]));
        state.data_lost(now);
        state.polled(&poll(now, &[]));
        assert!(!state.is_alone(now));
        state.polled(&poll(now + LEASE, &[]));
        assert!(state.is_alone(now + LEASE));
    }

    #[test]
    fn a_process_outside_of_the_group_cannot_know() {
        let now = Instant::now();
        let mut state = PeerState::default();
        state.polled(&PeerPoll { myself: false, ..poll(now, &[]) });
        assert!(!state.is_alone(now));
    }

    #[test]
    fn an_announcement_ends_when_all_have_answered() {
        let mut state = PeerState::default();
        state.expect_answers(vec!["a".to_owned(), "b".to_owned()]);
        assert!(!state.answer_received("a"));
        assert!(!state.answer_received("a"));
        assert!(state.answer_received("b"));
    }
}
