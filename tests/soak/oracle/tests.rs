//! The oracle finds every fault in histories that are made up to have it, and none in those that do not.

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

    /// A reader of process 1 takes a message and gives it back.
    fn give_back(self, number: u32, outcome: Outcome) -> Self {
        let id = id(number);
        self.add(1, Event::GivingBack { id, expiry: 60 * SECOND }).add(1, Event::GivenBack { id, outcome })
    }

    fn wipe(self) -> Self {
        self.add(0, Event::Wiping { wipe: 0, reason: "flush" }).add(0, Event::Wiped { wipe: 0 })
    }

    fn count(self, reason: &str, messages: u64) -> Self {
        self.add(0, Event::Counted { reason: reason.into(), messages })
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
        groups_hold_up_for: None,
        losses_are_told: true,
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

#[test]
fn a_lost_message_is_found() {
    Story::default().send(1, "work").shows(&[Kind::Lost]);
}

#[test]
fn a_message_that_a_member_misses_is_found() {
    Story::default().join("p!a").join("q!a").group_send(1).receive(1, "p!a").shows(&[Kind::Lost]);
}

#[test]
fn a_duplicate_is_found_in_any_process() {
    let twice = || Story::default().send(1, "work").receive_in(1, 1, "work").receive_in(2, 1, "work");
    twice().shows(&[Kind::Duplicate]);
    let each_process = Rules { copies: Copies::OneInEachProcess, ..rules() };
    twice().shows_by(&each_process, &[]);
    twice().receive_in(2, 1, "work").shows_by(&each_process, &[Kind::Duplicate]);
}

#[test]
fn a_changed_order_is_found_on_channels_with_one_reader_alone() {
    let swapped =
        |channel: &str| Story::default().send(1, channel).send(2, channel).receive(2, channel).receive(1, channel);
    swapped("p!a").shows(&[Kind::Reordered]);
    swapped("p?a").shows(&[Kind::Reordered]);
    swapped("work").shows(&[]);
}

#[test]
fn a_changed_order_is_excused_by_an_outage_where_the_layer_goes_on_alone() {
    let alone = Rules { order: Order::UnlessCutOff, ..rules() };
    let outage = |process| Story::default().send(1, "p!a").add(process, Event::CutOff).add(process, Event::Connected);
    let swapped = |story: Story| story.send(2, "p!a").receive(2, "p!a").receive(1, "p!a");
    swapped(outage(0)).shows_by(&alone, &[]);
    swapped(outage(1)).shows_by(&alone, &[]);
    swapped(outage(2)).shows_by(&alone, &[Kind::Reordered]);
    swapped(outage(0).pass(5 * SECOND)).shows(&[Kind::Reordered]);
    let before = Story::default().add(0, Event::CutOff).add(0, Event::Connected).pass(5 * SECOND).send(1, "p!a");
    swapped(before).shows_by(&alone, &[Kind::Reordered]);
}

#[test]
fn a_change_by_a_process_that_is_cut_off_leaves_a_membership_unclear() {
    let left =
        |story: Story| story.change("p!a", false, Outcome::Done).pass(5 * SECOND).group_send(1).receive(1, "p!a");
    left(Story::default().join("p!a").pass(5 * SECOND)).shows(&[Kind::NoMember]);
    left(Story::default().join("p!a").pass(5 * SECOND).add(1, Event::CutOff).add(1, Event::Connected)).shows(&[]);
}

#[test]
fn the_order_holds_between_channels_of_a_route_and_ways_to_it() {
    let story = || Story::default().join("p!b").send(1, "p!a").group_send(2);
    story().receive(2, "p!b").receive(1, "p!a").shows(&[Kind::Reordered]);
}

#[test]
fn messages_that_nobody_sent_are_found() {
    Story::default().receive(1, "work").shows(&[Kind::Invented]);
    Story::default().send(1, "p!a").receive(1, "p!b").shows(&[Kind::Invented, Kind::Lost]);
}

#[test]
fn a_message_that_was_refused_and_arrives_is_found() {
    for outcome in [Outcome::Full, Outcome::NotRun] {
        let story = Story::default().try_send(1, Target::Channel("work".into()), outcome);
        story.receive(1, "work").shows(&[Kind::RefusedButSent]);
    }
    Story::default().try_send(1, Target::Channel("work".into()), Outcome::Unknown).receive(1, "work").shows(&[]);
}

#[test]
fn what_is_refused_or_unknown_may_be_missing() {
    for outcome in [Outcome::Full, Outcome::NotRun, Outcome::Unknown] {
        Story::default().try_send(1, Target::Channel("work".into()), outcome).shows(&[]);
    }
}

#[test]
fn a_message_that_outlives_its_expiry_is_found() {
    let late = || Story::default().send(1, "work").pass(63 * SECOND).receive(1, "work");
    late().shows(&[Kind::DeliveredLate]);
    late().shows_by(&Rules { steady_clock: false, ..rules() }, &[]);
    Story::default().send(1, "work").pass(59 * SECOND).receive(1, "work").shows(&[]);
}

#[test]
fn a_send_of_a_process_that_is_cut_off_may_run_after_its_call() {
    let to = || Target::Channel("work".into());
    let late = |story: Story| story.pass(63 * SECOND).receive(1, "work");
    let cut_off = || Story::default().add(0, Event::CutOff);
    late(cut_off().try_send(1, to(), Outcome::Unknown).add(0, Event::Connected)).shows(&[]);
    late(cut_off().send(1, "work").add(0, Event::Connected)).shows(&[Kind::DeliveredLate]);
    late(Story::default().try_send(1, to(), Outcome::Unknown)).shows(&[Kind::DeliveredLate]);
}

#[test]
fn a_message_may_be_missing_only_when_it_may_have_expired() {
    Story::default().send(1, "work").pass(61 * SECOND).count("full", 0).shows(&[]);
    Story::default().send(1, "work").pass(58 * SECOND).count("full", 0).shows(&[Kind::Lost]);
}

#[test]
fn a_group_message_for_a_stranger_is_found() {
    Story::default().group_send(1).receive(1, "p!a").shows(&[Kind::NoMember]);
    let left = || Story::default().join("p!a").change("p!a", false, Outcome::Done);
    left().group_send(1).receive(1, "p!a").shows(&[Kind::NoMember]);
    left().group_send(1).shows(&[]);
}

#[test]
fn a_membership_that_changes_during_a_send_is_unclear() {
    let id = id(1);
    let sending = Event::Sending { id, to: Target::Group("g".into()), expiry: 60 * SECOND };
    let during = || Story::default().add(0, sending.clone()).join("p!a");
    let done = Event::Sent { id, outcome: Outcome::Done };
    during().add(0, done.clone()).shows(&[]);
    during().add(0, done).receive(1, "p!a").shows(&[]);
}

#[test]
fn a_change_with_an_unknown_outcome_leaves_a_membership_unclear_until_the_next() {
    let unknown = || Story::default().change("p!a", true, Outcome::Unknown);
    unknown().group_send(1).shows(&[]);
    unknown().group_send(1).receive(1, "p!a").shows(&[]);
    unknown().change("p!a", true, Outcome::Done).group_send(1).shows(&[Kind::Lost]);
    unknown().change("p!a", false, Outcome::Done).group_send(1).receive(1, "p!a").shows(&[Kind::NoMember]);
    Story::default().join("p!a").change("p!a", false, Outcome::NotRun).group_send(1).shows(&[Kind::Lost]);
}

#[test]
fn a_membership_lasts_for_its_own_expiry() {
    let old = |age: Duration| Story::default().join("p!a").pass(age).group_send(1);
    old(29 * SECOND).shows(&[Kind::Lost]);
    old(31 * SECOND).shows(&[]);
}

#[test]
fn a_wipe_explains_what_came_before_it_and_nothing_after() {
    Story::default().send(1, "work").wipe().shows(&[]);
    Story::default().wipe().send(1, "work").shows(&[Kind::Lost]);
    Story::default().join("p!a").wipe().group_send(1).shows(&[]);
    Story::default().wipe().join("p!a").group_send(1).shows(&[Kind::Lost]);
}

#[test]
fn counters_explain_as_many_messages_as_they_counted() {
    let two_lost = || Story::default().send(1, "work").send(2, "work");
    two_lost().count("shard_down", 1).shows(&[Kind::Lost]);
    two_lost().count("shard_down", 2).shows(&[]);
}

#[test]
fn a_full_channel_explains_group_messages_alone() {
    Story::default().send(1, "work").count("full", 1).shows(&[Kind::Lost]);
    Story::default().join("p!a").group_send(1).count("full", 1).shows(&[]);
}

#[test]
fn members_that_share_a_place_are_lost_together() {
    let story = || Story::default().join("p!a").join("p!b").group_send(1).count("full", 1);
    story().shows(&[]);
    story().shows_by(&Rules { counts_members: true, ..rules() }, &[Kind::Lost]);
}

#[test]
fn an_interrupted_read_explains_what_was_sent_to_its_routes_before() {
    let lost = |routes: &str| Story::default().send(1, "p!a").interrupt(routes);
    lost("p!").shows(&[]);
    lost("q!").shows(&[Kind::Lost]);
    Story::default().interrupt("p!").pass(20 * SECOND).send(1, "p!a").shows(&[Kind::Lost]);
    let many = (0..257).fold(Story::default(), |story, number| story.send(number, "p!a"));
    many.interrupt("p!").shows(&[Kind::Lost]);
}

#[test]
fn a_killed_process_explains_what_it_may_have_held() {
    let killed = Event::Killed { routes: vec!["p!".into()] };
    Story::default().send(1, "p!a").add(1, killed.clone()).shows(&[]);
    Story::default().send(1, "q!a").add(1, killed).shows(&[Kind::Lost]);
}

#[test]
fn a_writer_that_is_cut_off_explains_its_messages_where_the_layer_goes_on_alone() {
    let alone = Rules { goes_on_alone: true, ..rules() };
    let cut_off = || Story::default().add(0, Event::CutOff).send(1, "work").add(0, Event::Connected);
    cut_off().shows_by(&alone, &[]);
    cut_off().shows(&[Kind::Lost]);
    cut_off().pass(5 * SECOND).send(2, "work").shows_by(&alone, &[Kind::Lost]);
}

#[test]
fn losses_of_a_layer_that_does_not_tell_them_are_none() {
    Story::default().send(1, "work").shows_by(&Rules { losses_are_told: false, ..rules() }, &[]);
}

#[test]
fn what_cannot_be_is_not_counted() {
    for reason in ["undecodable", "undecryptable", "malformed", "expired"] {
        Story::default().count(reason, 1).shows(&[Kind::WronglyCounted]);
    }
    let expired = Story::default().send(1, "work").pass(61 * SECOND);
    expired.count("expired", 1).shows(&[]);
    Story::default().send(1, "work").wipe().count("expired", 1).shows(&[]);
}

#[test]
fn a_message_that_was_delivered_is_not_counted_as_dropped() {
    let delivered = || Story::default().send(1, "work").receive(1, "work");
    delivered().count("shard_down", 1).shows(&[Kind::WronglyCounted]);
    delivered().try_send(2, Target::Channel("work".into()), Outcome::Unknown).count("shard_down", 1).shows(&[]);
}

#[test]
fn a_channel_above_its_capacity_is_found() {
    let waiting = |messages| Story::default().add(0, Event::Waiting { route: "full!".into(), messages });
    waiting(2).shows(&[]);
    waiting(3).shows(&[Kind::AboveCapacity]);
    let accepted = || (1..4).fold(Story::default(), |story, number| story.send(number, "full!a"));
    let received = |story: Story| (1..4).fold(story, |story, number| story.receive(number, "full!a"));
    received(accepted()).shows(&[Kind::AboveCapacity]);
    received(accepted().wipe()).shows(&[]);
}

#[test]
fn calls_that_hang_and_what_is_left_are_found() {
    Story::default().add(0, Event::Overdue { call: "send".into() }).shows(&[Kind::Overdue]);
    Story::default().add(0, Event::Left { what: "a task".into() }).shows(&[Kind::Left]);
}

#[test]
fn a_reader_that_gets_errors_without_a_pause_is_found() {
    let failed = Event::ReadFailed { reader: "r".into(), reason: "away".into() };
    let errors = |count, pause| (0..count).fold(Story::default(), |story, _| story.pass(pause).add(1, failed.clone()));
    errors(21, Duration::ZERO).shows(&[Kind::Spinning]);
    errors(20, Duration::ZERO).shows(&[]);
    errors(100, Duration::from_millis(60)).shows(&[]);
}

#[test]
fn a_message_that_was_given_back_has_to_come_again() {
    let given_back = |outcome| Story::default().send(1, "work").give_back(1, outcome);
    given_back(Outcome::Done).receive(1, "work").shows(&[]);
    given_back(Outcome::Done).shows(&[Kind::Lost]);
    given_back(Outcome::Done).receive(1, "work").receive(1, "work").shows(&[Kind::Duplicate]);
    given_back(Outcome::Unknown).shows(&[]);
    given_back(Outcome::NotRun).shows(&[]);
    given_back(Outcome::NotRun).receive(1, "work").shows(&[Kind::RefusedButSent]);
    let id = id(1);
    // Its reader was faster than the answer to its writer.
    let sending = Event::Sending { id, to: Target::Channel("work".into()), expiry: 60 * SECOND };
    let late = Event::Sent { id, outcome: Outcome::Done };
    Story::default().add(0, sending).give_back(1, Outcome::Unknown).add(0, late).shows(&[]);
}

#[test]
fn each_new_channel_is_new() {
    let named = |story: Story, channel: &str| story.add(0, Event::Named { channel: channel.into() });
    named(named(Story::default(), "reply?a"), "reply?b").shows(&[]);
    named(named(Story::default(), "reply?a"), "reply?a").shows(&[Kind::Duplicate]);
}

#[test]
fn what_was_sent_to_the_new_channel_of_a_reader_that_ended_is_not_lost() {
    Story::default().send(1, "reply?a").shows(&[Kind::Lost]);
    Story::default().send(1, "reply?a").add(1, Event::Abandoned { id: id(1) }).shows(&[]);
    let killed =
        |pattern: &str| Story::default().send(1, "reply?a").add(1, Event::Killed { routes: vec![pattern.into()] });
    killed("reply?").shows(&[]);
    killed("answer?").shows(&[Kind::Lost]);
}

#[test]
fn a_renewal_during_a_send_does_not_tell_that_the_membership_was_there() {
    let renewed = |story: Story| {
        let (change, id) = (900, id(1));
        let (group, channel, expiry) = ("g".into(), "p!a".into(), 30 * SECOND);
        let story = story.add(1, Event::Changing { change, group, channel, joins: true, expiry });
        let story = story.add(0, Event::Sending { id, to: Target::Group("g".into()), expiry: 60 * SECOND });
        let story = story.add(0, Event::Sent { id, outcome: Outcome::Done });
        story.add(1, Event::Changed { change, outcome: Outcome::Done })
    };
    renewed(Story::default().join("p!a")).shows(&[Kind::Lost]);
    renewed(Story::default().join("p!a").wipe()).shows(&[]);
    renewed(Story::default().join("p!a").pass(31 * SECOND)).shows(&[]);
}

#[test]
fn on_publish_and_subscribe_a_message_is_for_processes_that_are_there() {
    let published = Rules { copies: Copies::OneInEachProcess, ..rules() };
    let started = || {
        let routes = ["p!", "full!"].map(str::to_owned).to_vec();
        Story::default().add(1, Event::Started { routes }).pass(3 * SECOND)
    };
    let rest = |story: Story| story.pass(20 * SECOND).add(1, Event::Closing);
    rest(started().send(1, "p!a")).shows_by(&published, &[Kind::Lost]);
    rest(started().send(1, "p!a").receive(1, "p!a")).shows_by(&published, &[]);
    rest(started().send(1, "full!a").send(2, "other!a")).shows_by(&published, &[]);
    rest(started().send(1, "p!a").count("no_reader", 1)).shows_by(&published, &[Kind::Lost]);
    rest(started().send(1, "p!a").count("overflow", 1)).shows_by(&published, &[]);
    rest(started().send(1, "p!a").add(1, Event::CutOff)).shows_by(&published, &[]);
    rest(started().send(1, "p!a").add(1, Event::Closing)).shows_by(&published, &[]);
    rest(started().join("p!a").group_send(1)).shows_by(&published, &[Kind::Lost]);
    rest(started().join("p!a").group_send(1).receive(1, "p!a")).shows_by(&published, &[]);
    Story::default().send(1, "p!a").shows_by(&published, &[]);
}

#[test]
fn messages_pass_one_of_a_group_that_has_held_them_up_for_long() {
    let several = Rules { groups_hold_up_for: Some(5 * SECOND), ..rules() };
    let sent = || Story::default().join("p!a").group_send(1).send(2, "p!a").send(3, "p!a").group_send(4);
    let passed = |story: Story| story.receive(2, "p!a").receive(1, "p!a").receive(3, "p!a").receive(4, "p!a");
    passed(sent().pass(5 * SECOND)).shows_by(&several, &[]);
    passed(sent().pass(4 * SECOND)).shows_by(&several, &[Kind::Reordered]);
    passed(sent().pass(5 * SECOND)).shows(&[Kind::Reordered]);
    let direct = sent().pass(5 * SECOND).receive(1, "p!a").receive(3, "p!a").receive(2, "p!a").receive(4, "p!a");
    direct.shows_by(&several, &[Kind::Reordered]);
    let early = sent().pass(5 * SECOND).receive(2, "p!a").receive(1, "p!a").receive(4, "p!a").receive(3, "p!a");
    early.shows_by(&several, &[Kind::Reordered]);
}

#[test]
fn order_by_group_is_that_of_each_way_to_a_channel() {
    let by_group = Rules { order: Order::Group, ..rules() };
    let story = || Story::default().join("p!a").group_send(1).group_send(2).send(3, "p!a").send(4, "p!a");
    story().receive(3, "p!a").receive(4, "p!a").receive(1, "p!a").receive(2, "p!a").shows_by(&by_group, &[]);
    let swapped = story().receive(2, "p!a").receive(1, "p!a").receive(4, "p!a").receive(3, "p!a");
    swapped.shows_by(&by_group, &[Kind::Reordered, Kind::Reordered]);
}

#[test]
fn what_need_not_reach_others_has_to_reach_members_of_the_same_process() {
    let near = Rules { reaches_others: false, ..rules() };
    let send = |process| {
        let id = id(1);
        let to = Target::Group("g".into());
        let story = Story::default().join("p!a").add(process, Event::Sending { id, to, expiry: 60 * SECOND });
        story.add(process, Event::Sent { id, outcome: Outcome::Done })
    };
    // The member is in process 1.
    send(0).shows_by(&near, &[]);
    send(1).shows_by(&near, &[Kind::Lost]);
    send(0).shows(&[Kind::Lost]);
}

#[test]
fn a_member_at_arrival_may_get_what_was_sent_before() {
    let at_arrival = Rules { joins_at_arrival: true, ..rules() };
    let early = || Story::default().group_send(1).join("p!a").receive(1, "p!a");
    early().shows(&[Kind::NoMember]);
    early().shows_by(&at_arrival, &[]);
    let left = Story::default().join("p!a").change("p!a", false, Outcome::Done).group_send(1).receive(1, "p!a");
    left.shows_by(&at_arrival, &[Kind::NoMember]);
}
