//! Rules about what was not delivered: each message is explained by a counter or an announcement.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::super::history::{MessageId, Moment, Outcome, Target, route};
use super::facts::{Allowance, Facts, Place};
use super::{Copies, Kind, Rules, Violation};

/// Reasons for which messages are dropped, and that a round without foreign writers and keys never has.
const IMPOSSIBLE: &[&str] = &["undecodable", "undecryptable", "malformed"];

/// How long a process may take to open its channels.
const OPENING: Duration = Duration::from_secs(2);
/// How long a connection may carry nothing before that is announced: the longest command timeout, and the pause between
/// probes.
const UNNOTICED: Duration = Duration::from_secs(6);

/// A message that somebody should have got and did not.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Missing<'r> {
    start: Moment,
    id: MessageId,
    /// The channel; the route where a group message counts once for all members on it.
    channel: &'r str,
    by_group: bool,
}

/// Messages that were sent, have to be delivered and were not, in the order in which they were sent.
fn missing<'r>(facts: &Facts<'r>) -> BTreeSet<Missing<'r>> {
    let delivered: BTreeSet<_> = facts.deliveries.iter().map(|delivered| (delivered.id, delivered.channel)).collect();
    let mut missing = BTreeSet::new();
    for (&id, message) in &facts.messages {
        let (Outcome::Done, Some(end)) = (message.outcome, message.end) else { continue };
        let (start, by_group) = (message.start, matches!(message.to, Target::Group(_)));
        if facts.wiped_since(start) || facts.may_have_expired(message) {
            continue;
        }
        let receivers = match message.to {
            Target::Channel(channel) => vec![channel.as_str()],
            Target::Group(group) => facts.memberships.members(group, start, end),
        };
        let lost = receivers.into_iter().filter(|channel| !delivered.contains(&(id, *channel)));
        let lost = lost.filter(|channel| !facts.may_lack(channel, start, end));
        missing.extend(lost.map(|channel| Missing { start, id, channel, by_group }));
    }
    missing
}

pub fn violations(facts: &Facts<'_>, rules: &Rules) -> Vec<Violation> {
    let mut found = wrongly_counted(facts, rules);
    if !rules.losses_are_told {
        return found;
    }
    let mut unexplained = missing(facts);
    unexplained.retain(|lost| {
        !is_cut_off(facts, rules, lost) && is_to_arrive(facts, rules, lost) && has_reader(facts, rules, lost)
    });
    let mut unexplained = in_places(unexplained, rules);
    let mut allowances = facts.allowances.clone();
    // Those that end first serve only the oldest messages.
    allowances.sort_by_key(|allowance| allowance.until);
    let mut full = facts.counted_by_calls.clone();
    full.retain(|call| call.reason == "full");
    let mut take_full = |id| full.iter_mut().any(|call| call.ids.contains(&id) && take(&mut call.messages));
    // Of the messages of a call, those come first that no allowance explains.
    unexplained.retain(|lost| allowances.iter().any(|allowance| covers(allowance, lost)) || !take_full(lost.id));
    unexplained.retain(|lost| !take_full(lost.id));
    unexplained.retain(|lost| {
        let allowance = allowances.iter_mut().find(|allowance| covers(allowance, lost));
        allowance.map(|allowance| allowance.room -= 1).is_none()
    });
    let mut dropped = dropped(facts);
    unexplained.retain(|_| !take(&mut dropped));
    found.extend(unexplained.into_iter().map(|Missing { start, id, channel, .. }| Violation {
        kind: Kind::Lost,
        route: Some(route(channel).to_owned()),
        id: Some(id),
        text: format!("{id} to {channel}, sent at {start:?}, was not delivered, counted or announced"),
    }));
    found
}

/// Whether `lost` may be lost by `allowance`.
fn covers(allowance: &Allowance<'_>, lost: &Missing<'_>) -> bool {
    let is_there = match &allowance.place {
        Place::Routes(routes) => routes.iter().any(|read| has_route(read, lost.channel)),
        Place::Slots(replaced) => replaced.has(lost.channel),
    };
    allowance.room > 0 && lost.start <= allowance.until && is_there
}

/// How many messages were counted as dropped after their calls had succeeded.
fn dropped(facts: &Facts<'_>) -> u64 {
    // A full channel explains messages of the call that counted it, and messages that nobody was there to read are left
    // out.
    let counted = facts.counted.iter().filter(|(reason, _)| !["full", "expired", "no_reader"].contains(reason));
    // The messages of a group send that could not reach a server are not expected: the call has failed.
    let has_failed = |id| facts.messages.get(id).is_some_and(|message| message.outcome != Outcome::Done);
    let failed = facts.counted_by_calls.iter().filter(|call| match call.reason {
        "shard_down" => true,
        "unconfirmed" | "closed" => call.ids.iter().any(has_failed),
        _ => false,
    });
    counted.map(|(_, messages)| messages).sum::<u64>() - failed.map(|call| call.messages).sum::<u64>()
}

/// Whether `channel` is on a route, or is a new channel whose name begins with a pattern.
fn has_route(read: &str, channel: &str) -> bool {
    read == route(channel) || read.ends_with('?') && channel.starts_with(read)
}

/// Joins the members of a group that share a place, where one loss is counted for all of them.
fn in_places<'r>(missing: BTreeSet<Missing<'r>>, rules: &Rules) -> BTreeSet<Missing<'r>> {
    let place = |lost: &Missing<'r>| {
        let is_shared = lost.by_group && !rules.counts_members;
        if is_shared { route(lost.channel) } else { lost.channel }
    };
    missing.into_iter().map(|lost| Missing { channel: place(&lost), ..lost }).collect()
}

/// Whether the writer of a message kept it to its own process, as it does while the servers are away.
fn is_cut_off(facts: &Facts<'_>, rules: &Rules, lost: &Missing<'_>) -> bool {
    let Some(message) = facts.messages.get(&lost.id).filter(|_| rules.goes_on_alone) else { return false };
    facts.was_cut_off(message.process, message.start, message.end.unwrap_or(message.start))
}

/// Whether a message has to reach the process that it is for.
fn is_to_arrive(facts: &Facts<'_>, rules: &Rules, lost: &Missing<'_>) -> bool {
    let Some(message) = facts.messages.get(&lost.id).filter(|_| !rules.reaches_others) else { return true };
    match message.to {
        Target::Group(group) => facts.memberships.process(group, lost.channel) == Some(message.process),
        Target::Channel(_) => false,
    }
}

/// Whether a process was there that had to hear a message where only those get it that are connected when it is sent.
fn has_reader(facts: &Facts<'_>, rules: &Rules, lost: &Missing<'_>) -> bool {
    let Some(message) = facts.messages.get(&lost.id).filter(|_| rules.copies == Copies::OneInEachProcess) else {
        return true;
    };
    let until = message.end.unwrap_or(message.start) + UNNOTICED;
    let mut runs = facts.runs.iter().filter(|run| {
        let reads =
            run.routes.iter().any(|read| read == route(lost.channel)) && !rules.silent.contains(route(lost.channel));
        // Memberships end with their process.
        reads && (!lost.by_group || facts.memberships.process_alone(lost.channel) == Some(run.process))
    });
    runs.any(|run| {
        let is_there = run.since + OPENING <= message.start && until <= run.until;
        is_there && !facts.was_cut_off(run.process, message.start, until)
    })
}

fn wrongly_counted(facts: &Facts<'_>, rules: &Rules) -> Vec<Violation> {
    let wrong = |text| Violation { kind: Kind::WronglyCounted, route: None, id: None, text };
    let mut found = Vec::new();
    let mut possible: BTreeMap<&str, u64> = IMPOSSIBLE.iter().map(|reason| (*reason, 0)).collect();
    // The format of asgi_redis cannot tell a message that was deleted from one that has expired.
    let may_be_gone = !facts.wipes.is_empty() || facts.messages.values().any(|message| facts.may_have_expired(message));
    if rules.steady_clock && !may_be_gone {
        possible.insert("expired", 0);
    }
    if !rules.steady_clock {
        // A token that seems to come from the future does not open.
        possible.remove("undecryptable");
    }
    if rules.calls_succeed && !rules.cancels_calls {
        possible.insert("shard_down", 0);
    }
    for (reason, limit) in possible {
        let counted = facts.counted.get(reason).copied().unwrap_or(0);
        if counted > limit {
            let text = format!("{counted} messages were counted as {reason}, and at most {limit} can have been");
            found.push(wrong(text));
        }
    }
    let (counted, limit) = (facts.counted.values().sum::<u64>(), undelivered(facts));
    // A replica that takes over may deliver what was counted as dropped.
    let is_exact = rules.copies == Copies::One && !rules.goes_on_alone && facts.replaced.is_empty();
    if found.is_empty() && is_exact && counted > limit {
        let text = format!("{counted} messages were counted as dropped, and only {limit} were not delivered");
        found.push(wrong(text));
    }
    found
}

/// How many copies of messages can have been dropped at all: those that nobody got.
fn undelivered(facts: &Facts<'_>) -> u64 {
    let delivered: BTreeSet<_> = facts.deliveries.iter().map(|delivered| (delivered.id, delivered.channel)).collect();
    let copies = facts.messages.iter().map(|(&id, message)| match message.to {
        Target::Channel(channel) => usize::from(!delivered.contains(&(id, channel))),
        Target::Group(group) => {
            let end = message.end.filter(|_| message.outcome == Outcome::Done).unwrap_or(facts.end);
            let members = facts.memberships.possible_members(group, message.start, end);
            members.into_iter().filter(|channel| !delivered.contains(&(id, *channel))).count()
        }
    });
    copies.sum::<usize>() as u64
}

/// Takes one of `left`; `false` if there is none.
fn take(left: &mut u64) -> bool {
    let some = *left > 0;
    *left -= u64::from(some);
    some
}
