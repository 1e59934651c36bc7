//! What was delivered: by whom it was sent, how often it arrived, and when.

use super::super::super::history::{Event, Outcome, Target};
use super::super::{Copies, Kind, Rules};
use super::{SECOND, Story, id, rules};

#[test]
fn a_duplicate_is_found_in_any_process() {
    let twice = || Story::default().send(1, "work").receive_in(1, 1, "work").receive_in(2, 1, "work");
    twice().shows(&[Kind::Duplicate]);
    let each_process = Rules { copies: Copies::OneInEachProcess, ..rules() };
    twice().shows_by(&each_process, &[]);
    twice().receive_in(2, 1, "work").shows_by(&each_process, &[Kind::Duplicate]);
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
    let cut_off = || Story::default().add(0, Event::CutOff { shard: None });
    late(cut_off().try_send(1, to(), Outcome::Unknown).add(0, Event::Connected { shard: 0 })).shows(&[]);
    late(cut_off().send(1, "work").add(0, Event::Connected { shard: 0 })).shows(&[Kind::DeliveredLate]);
    late(Story::default().try_send(1, to(), Outcome::Unknown)).shows(&[Kind::DeliveredLate]);
}

#[test]
fn a_send_to_a_server_that_was_away_may_run_after_its_call() {
    let to = || Target::Channel("work".into());
    let late = |story: Story| story.pass(63 * SECOND).receive(1, "work");
    let away = |slot| Story::default().add(0, Event::Started { slot: 0, routes: Vec::new() }).away(slot);
    late(away(None).try_send(1, to(), Outcome::Unknown).back(None)).shows(&[]);
    late(away(Some(0)).try_send(1, to(), Outcome::Unknown).back(Some(0))).shows(&[]);
    late(away(Some(1)).try_send(1, to(), Outcome::Unknown).back(Some(1))).shows(&[Kind::DeliveredLate]);
    late(away(None).send(1, "work").back(None)).shows(&[Kind::DeliveredLate]);
    late(away(None).back(None).pass(SECOND * 9).try_send(1, to(), Outcome::Unknown)).shows(&[Kind::DeliveredLate]);
}

#[test]
fn a_requeued_message_has_to_come_again() {
    let requeued = |outcome| Story::default().send(1, "work").requeue(1, outcome);
    requeued(Outcome::Done).receive(1, "work").shows(&[]);
    requeued(Outcome::Done).shows(&[Kind::Lost]);
    requeued(Outcome::Done).receive(1, "work").receive(1, "work").shows(&[Kind::Duplicate]);
    requeued(Outcome::Unknown).shows(&[]);
    requeued(Outcome::NotRun).shows(&[]);
    requeued(Outcome::NotRun).receive(1, "work").shows(&[Kind::RefusedButSent]);
    let id = id(1);
    // Its reader was faster than the answer to its writer.
    let sending = Event::Sending { id, to: Target::Channel("work".into()), expiry: 60 * SECOND };
    let late = Event::Sent { id, outcome: Outcome::Done };
    Story::default().add(0, sending).requeue(1, Outcome::Unknown).add(0, late).shows(&[]);
}
