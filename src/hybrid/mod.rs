//! `HybridLayer`: normal channels on a local layer, all other channels and groups on a remote layer.
//!
//! A receiver of channels on both layers reads the two layers in turn.

mod layer;
mod source;
#[cfg(test)]
mod tests;

pub use layer::HybridLayer;
