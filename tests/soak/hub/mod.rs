//! The Hub: rounds of several processes with WebSocket clients, which share rooms over one layer.
//!
//! Their history is told in the words of layers. A client is a channel with one reader, a room or a user is a group,
//! and joining, leaving and broadcasting are changes of groups and group sends.

mod audience;
mod clients;
mod site;

pub use audience::{Audience, LASTING};
pub use site::Site;

use super::history::MessageId;
use super::oracle::{Copies, Order, Rules};
use super::plan::Plan;

/// The rooms that clients join; `ALL` is the one of every client, which is broadcast to by `broadcast_all`.
const ROOMS: [&str; 3] = ["red", "green", "blue"];
const USERS: [&str; 2] = ["ada", "bob"];
const ALL: &str = "all";

/// What hubs promise in a round.
pub fn rules(plan: &Plan) -> Rules {
    Rules {
        copies: Copies::One,
        order: Order::Group,
        passes_groups_after: None,
        orders_by_clock: false,
        calls_succeed: false,
        cancels_calls: false,
        losses_are_told: true,
        goes_on_alone: false,
        // Clients of other processes may miss what is sent while a server is away.
        reaches_others: plan.faults.is_empty(),
        joins_at_arrival: true,
        counts_members: true,
        silent: [].into(),
        capacities: [].into(),
        steady_clock: true,
    }
}

/// The name of a group that stands for a user.
fn user_group(user: &str) -> String {
    format!("user {user}")
}

/// The text of a message to clients.
fn text(id: MessageId, padding: usize) -> String {
    format!("message {} {} {}", id.writer, id.number, "x".repeat(padding))
}

/// The message that a client got, unless it is an answer.
fn parse(text: &str) -> Option<MessageId> {
    let mut words = text.strip_prefix("message ")?.split(' ');
    Some(MessageId { writer: words.next()?.parse().ok()?, number: words.next()?.parse().ok()? })
}
