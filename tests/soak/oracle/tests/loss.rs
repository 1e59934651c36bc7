//! Messages that were not delivered, and what explains them.

use super::super::super::history::{Event, Outcome, Target};
use super::super::{Copies, Kind, Rules};
use super::{SECOND, Story, id, rules};

#[test]
fn a_lost_message_is_found() {
    Story::default().send(1, "work").shows(&[Kind::Lost]);
}

#[test]
fn a_message_that_a_member_misses_is_found() {
    Story::default().join("p!a").join("q!a").group_send(1).receive(1, "p!a").shows(&[Kind::Lost]);
}

#[test]
fn what_is_refused_or_unknown_may_be_missing() {
    for outcome in [Outcome::Full, Outcome::NotRun, Outcome::Unknown] {
        Story::default().try_send(1, Target::Channel("work".into()), outcome).shows(&[]);
    }
}

#[test]
fn a_message_may_be_missing_only_when_it_may_have_expired() {
    Story::default().send(1, "work").pass(61 * SECOND).count("full", 0).shows(&[]);
    Story::default().send(1, "work").pass(58 * SECOND).count("full", 0).shows(&[Kind::Lost]);
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
fn a_full_channel_explains_messages_of_the_group_send_that_counted_it() {
    Story::default().send(1, "work").count("full", 1).shows(&[Kind::Lost]);
    let lost = |counted: &[u32]| Story::default().join("p!a").group_send(1).count_in_group_send(counted, "full", 1);
    lost(&[1]).shows(&[]);
    lost(&[1, 2]).shows(&[]);
    lost(&[2]).shows(&[Kind::Lost]);
    lost(&[1]).group_send(3).shows(&[Kind::Lost]);
}

#[test]
fn a_full_channel_leaves_interrupted_reads_to_other_messages() {
    let full = (1..=256).fold(Story::default().join("p!a"), |story, number| {
        story.group_send(number).count_in_group_send(&[number], "full", 1)
    });
    full.send(257, "p!a").interrupt("p!").shows(&[]);
    let both = Story::default().join("p!a").join("q!a").group_send(1).count_in_group_send(&[1], "full", 1);
    both.interrupt("p!").shows(&[]);
}

#[test]
fn what_a_failed_group_send_counts_explains_no_other_message() {
    for outcome in [Outcome::NotRun, Outcome::Unknown] {
        for reason in ["shard_down", "unconfirmed", "closed"] {
            let failed = || {
                let story = Story::default().join("q!a").try_send(1, Target::Group("g".into()), outcome);
                story.count_in_group_send(&[1], reason, 1)
            };
            failed().shows(&[]);
            failed().send(2, "work").shows(&[Kind::Lost]);
            failed().send(2, "work").count("shard_down", 1).shows(&[]);
        }
    }
}

#[test]
fn what_a_group_send_counts_of_other_calls_explains_their_messages() {
    let story = Story::default().send(1, "work").join("p!a").group_send(2).receive(2, "p!a");
    story.count_in_group_send(&[2], "unconfirmed", 1).shows(&[]);
}

#[test]
fn members_that_share_a_place_are_lost_together() {
    let story = || Story::default().join("p!a").join("p!b").group_send(1).count_in_group_send(&[1], "full", 1);
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
    let cut_off =
        || Story::default().add(0, Event::CutOff { shard: None }).send(1, "work").add(0, Event::Connected { shard: 0 });
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
    delivered().count_in_group_send(&[1], "full", 1).shows(&[Kind::WronglyCounted]);
    delivered().try_send(2, Target::Channel("work".into()), Outcome::Unknown).count("shard_down", 1).shows(&[]);
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
fn on_publish_and_subscribe_a_message_is_for_processes_that_are_there() {
    let published = Rules { copies: Copies::OneInEachProcess, ..rules() };
    let started = || Story::default().start().pass(3 * SECOND);
    let rest = |story: Story| story.pass(20 * SECOND).add(1, Event::Closing);
    rest(started().send(1, "p!a")).shows_by(&published, &[Kind::Lost]);
    rest(started().send(1, "p!a").receive(1, "p!a")).shows_by(&published, &[]);
    rest(started().send(1, "full!a").send(2, "other!a")).shows_by(&published, &[]);
    rest(started().send(1, "p!a").count("no_reader", 1)).shows_by(&published, &[Kind::Lost]);
    rest(started().send(1, "p!a").count("overflow", 1)).shows_by(&published, &[]);
    rest(started().send(1, "p!a").add(1, Event::CutOff { shard: None })).shows_by(&published, &[]);
    rest(started().send(1, "p!a").add(1, Event::Closing)).shows_by(&published, &[]);
    rest(started().join("p!a").group_send(1)).shows_by(&published, &[Kind::Lost]);
    rest(started().join("p!a").group_send(1).receive(1, "p!a")).shows_by(&published, &[]);
    Story::default().send(1, "p!a").shows_by(&published, &[]);
}
