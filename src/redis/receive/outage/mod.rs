//! Outages as the consumers of a reader see them: which fetch loops fail, and when a call reports it.
//!
//! A reader has a fetch loop for each server. [`failures`] has the state of these loops, and [`reports`] decides when
//! consumers get an error: when the outage begins, and again after pauses that double while it lasts.

pub(crate) mod failures;
pub(crate) mod reports;
