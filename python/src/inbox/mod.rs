//! The receiving side of a layer in this process.
//!
//! Python code receives by the full name of a channel, and the crate by the part up to the `!`. A [`pump`] reads each
//! such part once, and the [`Inbox`](channels::Inbox) keeps its messages by full name. Every other
//! [`Channel`](channel::Channel) has a [`Receiver`](channel_layer::Receiver).
//!
//! A message leaves its channel on the thread of the loop that waits for it, after the loop has checked that the call
//! still waits. So a cancelled receive leaves the message where it was. A call that ends after it was given a message
//! drops a [`Delivery`](delivery::Delivery), which returns the message to its place.

pub(crate) mod channel;
pub(crate) mod channels;
pub(crate) mod delivery;
pub(crate) mod notices;
mod pump;
mod serve;
pub(crate) mod sweep;
