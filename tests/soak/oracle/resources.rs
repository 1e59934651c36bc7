//! Rules about capacity, time, and what is left behind.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::super::history::{Event, Moment, Outcome, Record, Target, route};
use super::facts::Facts;
use super::{Kind, Rules, Violation};

/// A reader that gets more errors than this in a second does not wait for its server.
const MOST_ERRORS: usize = 20;

pub fn violations(records: &[Record], facts: &Facts<'_>, rules: &Rules) -> Vec<Violation> {
    let mut found = above_capacity(records, facts, rules);
    let mut named = BTreeSet::new();
    let mut failed: BTreeMap<(usize, &str), Vec<Moment>> = BTreeMap::new();
    for Record { at, process, event } in records {
        let (kind, text) = match event {
            Event::Overdue { call } => (Kind::Overdue, format!("{call} had not ended at {at:?}")),
            Event::Left { what } => (Kind::Left, what.clone()),
            Event::CallFailed { call, reason } | Event::ReadFailed { reader: call, reason } if rules.calls_succeed => {
                (Kind::Failed, format!("{call} failed in process {process} at {at:?}: {reason}"))
            }
            Event::Interrupted { routes } if rules.calls_succeed => {
                (Kind::Failed, format!("a read of {routes:?} in process {process} was interrupted at {at:?}"))
            }
            Event::Named { channel } if !named.insert(channel) => {
                (Kind::Duplicate, format!("new_channel returned {channel} again at {at:?}"))
            }
            Event::ReadFailed { reader, .. } => {
                failed.entry((*process, reader)).or_default().push(*at);
                continue;
            }
            _ => continue,
        };
        found.push(Violation { kind, route: None, id: None, text });
    }
    for ((process, reader), times) in failed {
        let burst = times.windows(MOST_ERRORS + 1).find(|burst| burst[MOST_ERRORS] < burst[0] + Duration::from_secs(1));
        if let Some(burst) = burst {
            let text = format!("{reader} in process {process} got {} errors from {:?} on", burst.len(), burst[0]);
            found.push(Violation { kind: Kind::Spinning, route: None, id: None, text });
        }
    }
    found
}

/// Messages beyond the capacity of routes that nobody reads before the end: seen there, or accepted although nothing
/// can have made room.
fn above_capacity(records: &[Record], facts: &Facts<'_>, rules: &Rules) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut above = |route: &str, text: String| {
        let route = Some(route.to_owned());
        found.push(Violation { kind: Kind::AboveCapacity, route, id: None, text });
    };
    for Record { at, event, .. } in records {
        let Event::Waiting { route, messages } = event else { continue };
        if let Some(&capacity) = rules.capacities.get(route).filter(|capacity| *messages > **capacity as u64) {
            above(route, format!("{messages} messages wait on {route} at {at:?}, and it holds {capacity}"));
        }
    }
    let made_room = !facts.wipes.is_empty()
        || !facts.replaced.is_empty()
        || facts.messages.values().any(|message| facts.may_have_expired(message));
    if made_room || !rules.steady_clock {
        return found;
    }
    let mut accepted: BTreeMap<&str, usize> = BTreeMap::new();
    for message in facts.messages.values().filter(|message| message.outcome == Outcome::Done) {
        if let Target::Channel(channel) = message.to {
            *accepted.entry(route(channel)).or_default() += 1;
        }
    }
    for (route, &capacity) in &rules.capacities {
        let accepted = accepted.get(route.as_str()).copied().unwrap_or(0);
        if accepted > capacity {
            above(route, format!("{accepted} messages were accepted on {route}, which holds {capacity}"));
        }
    }
    found
}
