//! `FallbackLayer`: a remote layer that falls back to this process while its servers are unreachable.
//!
//! A task notices the end of an outage, replays the membership changes of this process to the remote layer, and then
//! switches back.

mod calls;
mod failover;
mod journal;
mod layer;
mod members;
mod source;
#[cfg(test)]
mod tests;

pub use layer::FallbackLayer;
