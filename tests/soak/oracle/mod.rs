//! The oracle: what a history shows of promises that were broken. Pure, so that it can be tested with made-up
//! histories.

mod delivery;
mod facts;
mod loss;
mod membership;
mod outages;
mod replaced;
mod resources;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use super::history::{MessageId, Record};
use facts::Facts;

/// What a layer promises, as far as layers differ.
#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools)]
pub struct Rules {
    pub copies: Copies,
    pub order: Order,
    /// How long a server has to be unreachable until newer messages pass those of its groups; `None` if they never do.
    pub passes_groups_after: Option<Duration>,
    /// Whether messages wait in the order of the times at which the server took them by its clock.
    pub orders_by_clock: bool,
    /// Whether each message that is not delivered is counted or announced.
    pub losses_are_told: bool,
    /// Whether every call succeeds unless a channel is full, and no read is interrupted.
    pub calls_succeed: bool,
    /// Whether calls are cancelled. What they have not sent counts as dropped.
    pub cancels_calls: bool,
    /// Whether a process that is cut off goes on alone, so that its messages reach nobody else.
    pub goes_on_alone: bool,
    /// Whether processes other than that of the writer have to get messages.
    pub reaches_others: bool,
    /// Whether a group message may reach channels that are members when it arrives and were not when it was sent.
    pub joins_at_arrival: bool,
    /// Whether each member of a group takes a place of its own, and is counted apart when it misses a message.
    pub counts_members: bool,
    /// Routes that nobody reads before the end.
    pub silent: BTreeSet<String>,
    /// The capacities of those routes.
    pub capacities: BTreeMap<String, usize>,
    /// Whether the clocks of the servers ran without steps.
    pub steady_clock: bool,
}

/// How many readers get a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copies {
    One,
    OneInEachProcess,
}

/// What a reader sees in the order in which one writer sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Everything on one route.
    Route,
    /// Everything on one channel that was sent to it directly or by the same group.
    Group,
    /// Everything on one route, but for messages that waited while their writer or their reader was cut off.
    UnlessCutOff,
}

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub kind: Kind,
    /// The route that the history should be shown of.
    pub route: Option<String>,
    pub id: Option<MessageId>,
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A message was delivered that nobody sent.
    Invented,
    Duplicate,
    Reordered,
    /// A message was delivered whose `send` said that it was not sent.
    RefusedButSent,
    DeliveredLate,
    /// A message of a group reached a channel that was no member.
    NoMember,
    Lost,
    /// More messages were counted as dropped than could be, or for a reason that does not exist in this round.
    WronglyCounted,
    AboveCapacity,
    Overdue,
    /// A call failed, or a read was interrupted, although each has to succeed.
    Failed,
    /// A reader got errors without a pause.
    Spinning,
    Left,
}

/// All promises that `records` show to be broken.
pub fn judge(records: &[Record], rules: &Rules) -> Vec<Violation> {
    let facts = Facts::of(records);
    let mut found = delivery::violations(&facts, rules);
    found.extend(loss::violations(&facts, rules));
    found.extend(resources::violations(records, &facts, rules));
    found
}

/// Messages that have not arrived and that nothing explains, so far.
pub fn lost(records: &[Record], rules: &Rules) -> Vec<Violation> {
    let mut found = loss::violations(&Facts::of(records), rules);
    found.retain(|violation| violation.kind == Kind::Lost);
    found
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.text)
    }
}
