//! All integration tests, in one binary.

// In a test, an `unwrap` that panics is a failed assertion, and assertion helpers take results by value. Nothing in
// this binary is visible to other crates.
#![allow(clippy::unwrap_used, clippy::needless_pass_by_value)]
#![allow(unreachable_pub, missing_docs, missing_debug_implementations)]

mod chat;
mod cluster;
mod commands;
mod composite;
mod configuration;
mod conformance;
mod deploy;
mod django;
mod documents;
mod fallback;
mod formats;
mod hub;
mod loss;
mod metrics;
mod model;
mod password;
mod pubsub;
mod redis;
mod scale;
mod server;
mod support;
mod tidy;
mod topologies;
