//! `MemoryLayer`: the channel layer of one process, with every guarantee of the contract.

mod channel;
mod group;
mod layer;
mod receive;
mod registry;
mod sweep;
#[cfg(test)]
mod tests;

pub use layer::MemoryLayer;
pub(crate) use receive::MemorySource;
