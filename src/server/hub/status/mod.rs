//! Status of a hub: its state, its status page, its gauges and its trace spans.

pub(crate) mod gauges;
pub(crate) mod page;
pub(crate) mod spans;
pub(crate) mod state;
