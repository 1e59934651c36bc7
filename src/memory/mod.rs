//! `MemoryLayer`: the channel layer of one process, with all guarantees of the contract.

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
