//! The interface server with real connections, in front of an application that each test plays itself.

mod client;
mod deployed;
mod http;
mod listening;
mod misbehaving;
mod program;
mod running;
mod security;
mod stopping;
mod tracing_steps;

pub use self::program::Program;
