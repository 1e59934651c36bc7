//! All integration tests, in one binary.

// A test that unwraps says what it expected by failing there; and inside one binary nothing is public to others.
#![allow(clippy::unwrap_used, unreachable_pub, missing_docs, missing_debug_implementations)]

mod chat;
mod commands;
mod conformance;
mod model;
mod support;
mod tidy;
