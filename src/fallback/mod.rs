//! `FallbackLayer`: a remote layer that falls back to this process while its servers are unreachable.

mod calls;
mod failover;
mod journal;
mod layer;
mod members;
mod source;
#[cfg(test)]
mod tests;

pub use layer::FallbackLayer;
