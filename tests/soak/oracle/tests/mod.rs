//! The oracle finds every fault in histories that are made up to have it, and none in those that do not.

mod delivery;
mod loss;
mod membership;
mod order;
mod replaced;
mod resources;

use std::time::Duration;

use super::super::history::{Event, MessageId, Outcome, Record, Target};
use super::{Copies, Kind, Order, Rules, judge};

const SECOND: Duration = Duration::from_secs(1);

/// A history in the making: each event comes 10 ms after the one before.
#[derive(Default)]
struct Story {
    records: Vec<Record>,
    time: Duration,
}

impl Story {
    fn add(mut self, process: usize, event: Event) -> Self {
        self.time += Duration::from_millis(10);
        self.records.push(Record { at: self.time, process, event });
        self
    }

    fn pass(mut self, time: Duration) -> Self {
        self.time += time;
        self
    }

    fn send(self, number: u32, channel: &str) -> Self {
        self.try_send(number, Target::Channel(channel.into()), Outcome::Done)
    }

    fn group_send(self, number: u32) -> Self {
        self.try_send(number, Target::Group("g".into()), Outcome::Done)
    }

    fn try_send(self, number: u32, to: Target, outcome: Outcome) -> Self {
        let id = id(number);
        self.add(0, Event::Sending { id, to, expiry: 60 * SECOND }).add(0, Event::Sent { id, outcome })
    }

    fn receive(self, number: u32, channel: &str) -> Self {
        self.receive_in(1, number, channel)
    }

    fn receive_in(self, process: usize, number: u32, channel: &str) -> Self {
        let asked = self.time;
        self.add(process, Event::Received { id: id(number), channel: channel.into(), asked })
    }

    fn change(self, channel: &str, joins: bool, outcome: Outcome) -> Self {
        let change = u32::try_from(self.records.len()).unwrap();
        let (group, channel, expiry) = ("g".into(), channel.into(), 30 * SECOND);
        let changing = Event::Changing { change, group, channel, joins, expiry };
        self.add(1, changing).add(1, Event::Changed { change, outcome })
    }

    fn join(self, channel: &str) -> Self {
        self.change(channel, true, Outcome::Done)
    }

    /// A reader of process 1 takes a message and requeues it.
    fn requeue(self, number: u32, outcome: Outcome) -> Self {
        let id = id(number);
        self.add(1, Event::Requeueing { id, expiry: 60 * SECOND }).add(1, Event::Requeued { id, outcome })
    }

    fn wipe(self) -> Self {
        self.add(0, Event::Wiping { wipe: 0, reason: "flush".into() }).add(0, Event::Wiped { wipe: 0 })
    }

    fn count(self, reason: &str, messages: u64) -> Self {
        self.add(0, Event::Counted { reason: reason.into(), messages })
    }

    fn count_in_group_send(self, numbers: &[u32], reason: &str, messages: u64) -> Self {
        let ids = numbers.iter().map(|number| id(*number)).collect();
        self.add(0, Event::GroupSendCounted { ids, reason: reason.into(), messages })
    }

    /// Process 1 starts in slot 1.
    fn start(self) -> Self {
        let routes = ["p!", "full!"].map(str::to_owned).to_vec();
        self.add(1, Event::Started { slot: 1, routes })
    }

    fn away(self, slot: Option<usize>) -> Self {
        self.add(usize::MAX, Event::ServerAway { server: 0, slot })
    }

    fn back(self, slot: Option<usize>) -> Self {
        self.add(usize::MAX, Event::ServerBack { server: 0, slot })
    }

    fn interrupt(self, route: &str) -> Self {
        self.add(1, Event::Interrupted { routes: vec![route.into()] })
    }

    #[track_caller]
    fn shows(self, expected: &[Kind]) {
        self.shows_by(&rules(), expected);
    }

    #[track_caller]
    fn shows_by(self, rules: &Rules, expected: &[Kind]) {
        let found = judge(&self.records, rules);
        let kinds: Vec<_> = found.iter().map(|violation| violation.kind).collect();
        assert_eq!(kinds, expected, "{found:?}");
    }
}

fn id(number: u32) -> MessageId {
    MessageId { writer: 7, number }
}

fn rules() -> Rules {
    Rules {
        copies: Copies::One,
        order: Order::Route,
        passes_groups_after: None,
        orders_by_clock: false,
        losses_are_told: true,
        calls_succeed: false,
        cancels_calls: false,
        goes_on_alone: false,
        reaches_others: true,
        joins_at_arrival: false,
        counts_members: false,
        silent: ["full!".to_owned()].into(),
        capacities: [("full!".to_owned(), 2)].into(),
        steady_clock: true,
    }
}

#[test]
fn a_history_without_faults_is_clean() {
    let story = Story::default().join("p!a").join("p!b").send(1, "p!a").group_send(2).send(3, "work");
    let story = story.receive(3, "work").receive(1, "p!a").receive(2, "p!b").receive(2, "p!a");
    story.send(4, "full!a").send(5, "full!a").receive(4, "full!a").receive(5, "full!a").shows(&[]);
}
