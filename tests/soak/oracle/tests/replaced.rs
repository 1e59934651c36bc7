//! Masters of a cluster that a replica replaced: the last calls before their death may be missing there, and no others.

use std::time::Duration;

use super::super::super::history::{Event, Outcome, Target};
use super::super::{Kind, Rules};
use super::{SECOND, Story, rules};
use crate::support::slot_of;

impl Story {
    /// The master of the slot of `name` was killed. Its replica lacks at most what happened in the `lag` before.
    fn replace(self, name: &str, lag: Duration) -> Self {
        let (slot, until) = (slot_of(name), self.time);
        let since = until.saturating_sub(lag);
        self.add(usize::MAX, Event::MasterReplaced { since, until, slots: vec![slot..=slot] })
    }
}

#[test]
fn what_was_acknowledged_within_the_lag_may_be_lost() {
    Story::default().send(1, "work").replace("work", SECOND).shows(&[]);
    Story::default().send(1, "work").replace("other", SECOND).shows(&[Kind::Lost]);
    Story::default().replace("work", SECOND).send(1, "work").shows(&[Kind::Lost]);
}

#[test]
fn only_what_a_reader_may_have_put_back_is_excused_before_the_lag() {
    let sent = |count| (1..=count).fold(Story::default(), |story: Story, number| story.send(number, "work"));
    sent(512).pass(2 * SECOND).replace("work", SECOND).shows(&[]);
    sent(513).pass(2 * SECOND).replace("work", SECOND).shows(&[Kind::Lost]);
}

#[test]
fn what_a_reader_got_within_the_lag_may_be_delivered_again() {
    let got = || Story::default().send(1, "p!a").send(2, "p!a").receive(1, "p!a").receive(2, "p!a");
    got().replace("p!", SECOND).receive(1, "p!a").receive(2, "p!a").shows(&[]);
    got().pass(2 * SECOND).replace("p!", SECOND).receive(2, "p!a").shows(&[Kind::Duplicate]);
    got().replace("other!", SECOND).receive(2, "p!a").shows(&[Kind::Duplicate]);
    // The reader held it while the master was replaced.
    let held = || Story::default().send(1, "p!a").replace("p!", SECOND).receive(1, "p!a");
    held().receive(1, "p!a").shows(&[]);
    // The new master had it at no time.
    let later = Story::default().replace("p!", SECOND).send(1, "p!a").receive(1, "p!a");
    later.receive(1, "p!a").shows(&[Kind::Duplicate]);
}

#[test]
fn a_membership_that_changed_within_the_lag_is_unclear() {
    Story::default().join("p!a").replace("g", SECOND).group_send(1).shows(&[]);
    Story::default().join("p!a").replace("p!", SECOND).group_send(1).shows(&[Kind::Lost]);
    let left = || Story::default().join("p!a").pass(2 * SECOND).change("p!a", false, Outcome::Done);
    left().replace("g", SECOND).group_send(1).receive(1, "p!a").shows(&[]);
    left().pass(2 * SECOND).replace("g", SECOND).group_send(1).receive(1, "p!a").shows(&[Kind::NoMember]);
}

#[test]
fn a_master_that_came_back_empty_has_lost_what_came_before() {
    let emptied = |story: Story| {
        let since = story.time;
        story.pass(SECOND).add(usize::MAX, Event::MasterEmptied { since })
    };
    emptied(Story::default().send(1, "work")).shows(&[]);
    emptied(Story::default()).send(1, "work").shows(&[Kind::Lost]);
}

#[test]
fn failed_calls_are_found_where_each_has_to_succeed() {
    let failed = || Event::CallFailed { call: "send".into(), reason: "MOVED".into() };
    let planned = Rules { calls_succeed: true, ..rules() };
    Story::default().add(0, failed()).shows(&[]);
    Story::default().add(0, failed()).shows_by(&planned, &[Kind::Failed]);
    Story::default().interrupt("p!").shows_by(&planned, &[Kind::Failed]);
    let counted =
        || Story::default().try_send(1, Target::Channel("work".into()), Outcome::NotRun).count("shard_down", 1);
    counted().shows_by(&planned, &[Kind::WronglyCounted]);
    counted().shows_by(&Rules { cancels_calls: true, ..planned }, &[]);
}
