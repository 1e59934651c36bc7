//! The send path of every stored format: from a caller's message to the script that adds it to its channel.
//!
//! A [`sender::Sender`] puts each message into a [`queue`] of a shard. The task of the queue sends everything that
//! gathered during its previous round trip as one [`batch`], through the [`WriteFormat`] of the layer. A caller can run
//! that task itself ([`DrivenTask`](super::driven::DrivenTask)), so that a single message does not wait for the
//! scheduler. In a cluster [`parts`] sends each channel of a batch by a call of its own, and [`slots`] keeps the
//! messages of a slot on one queue while it moves.

#![allow(missing_debug_implementations, reason = "the types cannot be named outside of the crate")]

pub(crate) mod batch;
pub(crate) mod format;
pub(crate) mod open_calls;
pub(crate) mod parts;
pub(crate) mod queue;
pub(crate) mod sender;
pub(crate) mod slots;

pub(crate) use batch::{Batch, Outgoing, Pushed, SendOutcome};
pub(crate) use format::{OutboundMessage, WriteFormat};
pub(crate) use sender::{PendingSend, Sender};
