//! The layer on publish and subscribe: behaviour that the conformance suite does not cover.

mod faults;
mod health;
mod openness;
mod order;
mod overflow;
mod processes;
mod protocols;
pub mod tools;
mod wire;
