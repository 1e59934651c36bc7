//! The interface server with real connections, in front of an application that each test plays itself.

mod client;
mod http;
mod listening;
mod misbehaving;
mod running;
mod security;
mod stopping;
