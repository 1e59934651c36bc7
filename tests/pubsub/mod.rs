//! The layer on publish and subscribe: what the conformance suite cannot ask of it.

mod faults;
mod health;
mod openness;
mod order;
mod overflow;
mod processes;
mod protocols;
pub mod tools;
mod wire;
