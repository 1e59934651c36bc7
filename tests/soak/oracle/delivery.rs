//! Rules about what was delivered: that it was sent, once, in order, in time, and to whom it may concern.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::history::{MessageId, Moment, Outcome, Target, has_one_reader, route};
use super::facts::{Delivered, Facts, Message};
use super::membership::Membership;
use super::{Copies, Kind, Order, Rules, Violation};

/// How much later than its expiry a message may be handed over: what clocks of processes and servers differ by.
const EXPIRY_TOLERANCE: Duration = Duration::from_secs(2);

pub fn violations(facts: &Facts<'_>, rules: &Rules) -> Vec<Violation> {
    let mut found = Vec::new();
    // When a reader got each message last.
    let mut seen = BTreeMap::new();
    let mut last: BTreeMap<_, (MessageId, Moment)> = BTreeMap::new();
    for delivered in &facts.deliveries {
        let Delivered { id, channel, .. } = delivered;
        let Some(message) = facts.messages.get(id) else {
            found.push(violation(Kind::Invented, delivered, "nobody sent it".into()));
            continue;
        };
        let reader = (rules.copies == Copies::OneInEachProcess).then_some(delivered.process);
        if let Some(before) = seen.insert((*id, *channel, reader), delivered.at) {
            if facts.replaced.iter().any(|replaced| replaced.may_repeat(channel, message.start, before)) {
                continue;
            }
            found.push(violation(Kind::Duplicate, delivered, "it had been delivered before".into()));
        }
        let may_change = rules.goes_on_alone && was_cut_off(facts, message, delivered);
        found.extend(
            wrong_receiver(facts, rules, message, delivered)
                .filter(|found| found.kind != Kind::NoMember || !may_change),
        );
        if matches!(message.outcome, Outcome::Full | Outcome::NotRun) {
            let text = format!("its call ended with {:?}", message.outcome);
            found.push(violation(Kind::RefusedButSent, delivered, text));
        }
        let sent = message.end.unwrap_or(Moment::MAX);
        let is_late = delivered.asked > sent.saturating_add(message.expiry + EXPIRY_TOLERANCE);
        if rules.steady_clock && is_late && !may_have_run_later(facts, rules, message) {
            let text = format!("it was sent by {sent:?} and lives for {:?}", message.expiry);
            found.push(violation(Kind::DeliveredLate, delivered, text));
        }
        if has_one_reader(channel) {
            let stream = match rules.order {
                Order::Group => (id.writer, *channel, Some(message.to)),
                Order::Route | Order::UnlessCutOff => (id.writer, route(channel), None),
            };
            match last.get(&stream).filter(|(last, _)| last > id) {
                Some(&(_, passed_at)) if may_be_passed(facts, rules, message, delivered, passed_at) => {}
                Some((later, _)) => {
                    found.push(violation(Kind::Reordered, delivered, format!("{later} came before it")));
                    last.insert(stream, (*id, delivered.at));
                }
                None => _ = last.insert(stream, (*id, delivered.at)),
            }
        }
    }
    found
}

/// Whether a newer message of the same writer may have been delivered before `message`, at `passed_at`.
fn may_be_passed(
    facts: &Facts<'_>,
    rules: &Rules,
    message: &Message<'_>,
    delivered: &Delivered<'_>,
    passed_at: Moment,
) -> bool {
    let time = rules.passes_groups_after.filter(|_| matches!(message.to, Target::Group(_)));
    let slot = facts.slots.get(&delivered.process);
    let waits_for_its_group =
        time.zip(slot).is_some_and(|(time, slot)| facts.outages.lasted(*slot, time, message.start, passed_at));
    let waits_behind_a_step = rules.orders_by_clock && facts.clock_stepped(message.start, delivered.at);
    waits_for_its_group
        || waits_behind_a_step
        || rules.order == Order::UnlessCutOff && was_cut_off(facts, message, delivered)
}

/// Whether the writer or the reader of a message was cut off while it was on its way.
fn was_cut_off(facts: &Facts<'_>, message: &Message<'_>, delivered: &Delivered<'_>) -> bool {
    let processes = [message.process, delivered.process];
    processes.into_iter().any(|process| facts.was_cut_off(process, message.start, delivered.at))
}

/// Whether the server may have run the command after its call had ended, when it continued after a pause. The message
/// lives from then on.
fn may_have_run_later(facts: &Facts<'_>, rules: &Rules, message: &Message<'_>) -> bool {
    let is_unconfirmed = message.outcome == Outcome::Unknown || rules.goes_on_alone;
    let met_an_outage = |end| {
        let slot = facts.slots.get(&message.process);
        slot.is_some_and(|slot| facts.outages.met(*slot, message.start, end))
            || facts.was_cut_off(message.process, message.start, end)
    };
    is_unconfirmed && message.end.is_some_and(met_an_outage)
}

/// Whether a channel got what was sent to another, or to a group that it was no member of.
fn wrong_receiver(
    facts: &Facts<'_>,
    rules: &Rules,
    message: &Message<'_>,
    delivered: &Delivered<'_>,
) -> Option<Violation> {
    match message.to {
        Target::Channel(name) if name == delivered.channel => None,
        Target::Channel(name) => Some(violation(Kind::Invented, delivered, format!("it was sent to {name}"))),
        Target::Group(group) => {
            // A call that failed or was cancelled may take effect later.
            let is_exact = message.outcome == Outcome::Done && !rules.joins_at_arrival;
            let end = message.end.filter(|_| is_exact);
            let end = end.unwrap_or(delivered.at);
            let membership = facts.memberships.during(group, delivered.channel, message.start, end);
            (membership == Membership::Stranger)
                .then(|| violation(Kind::NoMember, delivered, format!("it was no member of {group}")))
        }
    }
}

fn violation(kind: Kind, delivered: &Delivered<'_>, text: String) -> Violation {
    let Delivered { id, channel, process, at, .. } = delivered;
    let text = format!("{id} on {channel} at {at:?} in process {process}: {text}");
    Violation { kind, route: Some(route(channel).to_owned()), id: Some(*id), text }
}
