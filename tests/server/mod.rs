//! The interface server with real connections, in front of an application that each test plays itself.

mod certified;
mod client;
mod content;
mod deployed;
mod extremes;
mod http;
mod http2;
mod listening;
mod misbehaving;
mod program;
mod requests;
mod running;
mod security;
mod stopping;
mod tracing_steps;

pub use self::program::Program;
