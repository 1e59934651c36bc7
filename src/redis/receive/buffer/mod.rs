//! The buffer of a reader: fetched entries that no consumer has taken yet.
//!
//! Fetched messages are in [`arrivals`] until the format has made each of them a [`buffered_entry`] with recipients.
//! Then the entry is in the [`fifo`], or [`held`] if its group cannot be looked up.

pub(crate) mod arrivals;
pub(crate) mod buffered_entry;
pub(crate) mod fifo;
pub(crate) mod held;
