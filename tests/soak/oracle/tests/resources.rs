//! Capacity, time, and what is left behind.

use std::time::Duration;

use super::super::super::history::Event;
use super::super::Kind;
use super::Story;

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
fn each_new_channel_is_new() {
    let named = |story: Story, channel: &str| story.add(0, Event::Named { channel: channel.into() });
    named(named(Story::default(), "reply?a"), "reply?b").shows(&[]);
    named(named(Story::default(), "reply?a"), "reply?a").shows(&[Kind::Duplicate]);
}
