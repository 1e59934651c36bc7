//! The receiving side of a layer in this process.
//!
//! Python code receives by the full name of a channel, and the crate by the part up to the `!`. A
//! [pump](pump) reads each such part once, and [`Inbox`](state::Inbox) keeps its messages by full name. All other
//! channels have a [`Receiver`](channel_layer::Receiver) each.
//!
//! A message leaves the inbox on the thread of the loop that waits for it, after the loop has checked that the call
//! still waits. So a cancelled receive leaves the message where it was. A message that was handed to a call which ends
//! without taking it is a dropped [`Delivery`](delivery::Delivery), and goes back to its place.

pub(crate) mod delivery;
pub(crate) mod entry;
pub(crate) mod pump;
pub(crate) mod serve;
pub(crate) mod state;
pub(crate) mod sweep;
