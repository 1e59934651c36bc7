//! `FallbackLayer`: another layer while its servers are there, and this process alone while they are not.

mod calls;
mod failover;
mod journal;
mod layer;
mod members;
mod source;
#[cfg(test)]
mod tests;

pub use layer::FallbackLayer;
