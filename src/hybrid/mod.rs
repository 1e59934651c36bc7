//! `HybridLayer`: normal channels close by, everything that belongs to a client far away.

mod layer;
mod source;
#[cfg(test)]
mod tests;

pub use layer::HybridLayer;
