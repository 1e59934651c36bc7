//! Tests of the interface server over real connections. Each test plays the application.

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
mod shutdown;
mod tracing;

pub use self::program::Program;
