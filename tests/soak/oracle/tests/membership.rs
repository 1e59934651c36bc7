//! The members that a group message had to reach.

use std::time::Duration;

use super::super::super::history::{Event, Outcome, Target};
use super::super::{Kind, Rules};
use super::{SECOND, Story, id, rules};

#[test]
fn a_change_by_a_process_that_is_cut_off_leaves_a_membership_unclear() {
    let left =
        |story: Story| story.change("p!a", false, Outcome::Done).pass(5 * SECOND).group_send(1).receive(1, "p!a");
    left(Story::default().join("p!a").pass(5 * SECOND)).shows(&[Kind::NoMember]);
    left(
        Story::default()
            .join("p!a")
            .pass(5 * SECOND)
            .add(1, Event::CutOff { shard: None })
            .add(1, Event::Connected { shard: 0 }),
    )
    .shows(&[]);
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
fn a_clock_that_is_set_may_end_a_membership_early() {
    let step = |story: Story| story.add(usize::MAX, Event::ClockStepped { server: 0 });
    let aged = |story: Story, age: Duration| story.pass(age).group_send(1);
    aged(step(Story::default().join("p!a")), 11 * SECOND).shows(&[]);
    aged(step(Story::default().join("p!a")), 8 * SECOND).shows(&[Kind::Lost]);
    aged(step(Story::default()).join("p!a"), 11 * SECOND).shows(&[Kind::Lost]);
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
