//! The status of a hub: its state, its status page, its gauges and its trace spans.
//!
//! All of it describes the hub in this process only.

pub(crate) mod gauges;
pub(crate) mod page;
pub(crate) mod spans;
pub(crate) mod state;
