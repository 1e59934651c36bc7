//! `MemoryLayer`: a channel layer inside one process, with all guarantees of the contract.
//!
//! It serves tests, programs of one process, and the other layers, which use it while their servers are unreachable.

mod channel;
mod group;
mod layer;
mod members;
mod queue;
mod receive;
mod registry;
mod sweep;
#[cfg(test)]
mod tests;

pub(crate) use channel::Bounds;
pub use layer::MemoryLayer;
pub(crate) use receive::MemorySource;
