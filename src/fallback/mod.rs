//! `FallbackLayer`: another layer while its servers are there, and this process alone while they are not.

mod calls;
mod guard;
mod layer;
mod ledger;
mod source;

pub use layer::FallbackLayer;
