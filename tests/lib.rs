//! All integration tests, in one binary.

// A test that unwraps says by failing there what it expected, assertions take results whole, and inside one binary
// nothing is public to others.
#![allow(clippy::unwrap_used, clippy::needless_pass_by_value)]
#![allow(unreachable_pub, missing_docs, missing_debug_implementations)]

mod chat;
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
mod server;
mod support;
mod tidy;
mod topologies;
