//! `HybridLayer`: normal channels on a local layer, all other channels and groups on a remote one.

mod layer;
mod source;
#[cfg(test)]
mod tests;

pub use layer::HybridLayer;
