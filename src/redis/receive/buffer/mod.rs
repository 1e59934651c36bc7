//! The buffer of a reader: fetched entries that no consumer has taken yet.
//!
//! What a read brought is in [`arrivals`] until the format has made each message an [`entry`], whose recipients follow from its
//! [`address`] and from its group. Then the entry is in the [`fifo`], or [`held`] if its group cannot be looked up.

pub(crate) mod address;
pub(crate) mod arrivals;
pub(crate) mod entry;
pub(crate) mod fifo;
pub(crate) mod held;
