//! The buffer of a reader: fetched entries that no consumer has taken yet.
//!
//! What a read brought is in [`arrivals`] until the format has made each message an [`entry`] with recipients. Then the entry is in the [`fifo`], or [`held`] if its group cannot be looked up.

pub(crate) mod arrivals;
pub(crate) mod entry;
pub(crate) mod fifo;
pub(crate) mod held;
