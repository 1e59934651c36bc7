//! The order in which messages arrived.

use super::super::super::history::Event;
use super::super::{Kind, Order, Rules};
use super::{SECOND, Story, rules};

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
    let outage = |process| {
        Story::default()
            .send(1, "p!a")
            .add(process, Event::CutOff { shard: None })
            .add(process, Event::Connected { shard: 0 })
    };
    let swapped = |story: Story| story.send(2, "p!a").receive(2, "p!a").receive(1, "p!a");
    swapped(outage(0)).shows_by(&alone, &[]);
    swapped(outage(1)).shows_by(&alone, &[]);
    swapped(outage(2)).shows_by(&alone, &[Kind::Reordered]);
    swapped(outage(0).pass(5 * SECOND)).shows(&[Kind::Reordered]);
    let before = Story::default()
        .add(0, Event::CutOff { shard: None })
        .add(0, Event::Connected { shard: 0 })
        .pass(5 * SECOND)
        .send(1, "p!a");
    swapped(before).shows_by(&alone, &[Kind::Reordered]);
}

#[test]
fn the_order_holds_between_channels_of_a_route_and_ways_to_it() {
    let story = || Story::default().join("p!b").send(1, "p!a").group_send(2);
    story().receive(2, "p!b").receive(1, "p!a").shows(&[Kind::Reordered]);
}

#[test]
fn messages_pass_those_of_a_group_whose_server_is_away_for_long() {
    let several = Rules { passes_groups_after: Some(5 * SECOND), ..rules() };
    let sent = |slot| {
        let sent = Story::default().start().join("p!a").group_send(1).away(slot);
        sent.send(2, "p!a").send(3, "p!a").group_send(4)
    };
    let passed = |story: Story| story.receive(2, "p!a").receive(1, "p!a").receive(3, "p!a").receive(4, "p!a");
    for slot in [None, Some(1)] {
        passed(sent(slot).pass(5 * SECOND)).shows_by(&several, &[]);
        passed(sent(slot).pass(4 * SECOND)).shows_by(&several, &[Kind::Reordered]);
        passed(sent(slot).pass(5 * SECOND)).shows(&[Kind::Reordered]);
    }
    passed(sent(Some(0)).pass(5 * SECOND)).shows_by(&several, &[Kind::Reordered]);
    let direct = sent(None).pass(5 * SECOND).receive(1, "p!a").receive(3, "p!a").receive(2, "p!a").receive(4, "p!a");
    direct.shows_by(&several, &[Kind::Reordered]);
    let early = sent(None).pass(4 * SECOND).receive(2, "p!a").pass(2 * SECOND).receive(1, "p!a");
    early.receive(3, "p!a").receive(4, "p!a").shows_by(&several, &[Kind::Reordered]);
}

#[test]
fn messages_pass_those_of_a_group_only_until_its_server_is_known_to_be_back() {
    let several = Rules { passes_groups_after: Some(5 * SECOND), ..rules() };
    let passed = |story: Story| {
        let story = story.group_send(1).send(2, "p!a").pass(5 * SECOND);
        story.receive(2, "p!a").receive(1, "p!a")
    };
    let started = || Story::default().start().join("p!a");
    let outage = |story: Story, time| story.away(None).pass(time).back(None);
    passed(outage(started(), SECOND)).shows_by(&several, &[Kind::Reordered]);
    passed(outage(started(), 3 * SECOND)).shows_by(&several, &[]);
    passed(outage(started(), 6 * SECOND).pass(9 * SECOND)).shows_by(&several, &[Kind::Reordered]);
    passed(outage(outage(started(), SECOND).pass(SECOND), SECOND)).shows_by(&several, &[]);
}

#[test]
fn messages_pass_those_that_waited_while_the_clock_of_their_server_was_set() {
    let by_clock = Rules { orders_by_clock: true, ..rules() };
    let step = |story: Story| story.add(usize::MAX, Event::ClockStepped { server: 0 });
    let swapped = |story: Story| story.receive(2, "p!a").receive(1, "p!a");
    let stepped = || step(Story::default().send(1, "p!a")).send(2, "p!a");
    swapped(stepped()).shows_by(&by_clock, &[]);
    swapped(stepped()).shows(&[Kind::Reordered]);
    swapped(step(Story::default()).send(1, "p!a").send(2, "p!a")).shows_by(&by_clock, &[Kind::Reordered]);
    let later = swapped(Story::default().send(1, "p!a").send(2, "p!a")).pass(3 * SECOND);
    step(later).shows_by(&by_clock, &[Kind::Reordered]);
}

#[test]
fn order_by_group_is_that_of_each_way_to_a_channel() {
    let by_group = Rules { order: Order::Group, ..rules() };
    let story = || Story::default().join("p!a").group_send(1).group_send(2).send(3, "p!a").send(4, "p!a");
    story().receive(3, "p!a").receive(4, "p!a").receive(1, "p!a").receive(2, "p!a").shows_by(&by_group, &[]);
    let swapped = story().receive(2, "p!a").receive(1, "p!a").receive(4, "p!a").receive(3, "p!a");
    swapped.shows_by(&by_group, &[Kind::Reordered, Kind::Reordered]);
}
