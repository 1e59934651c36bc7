//! Tests of Python's formats against Python's own packages.

mod capacity;
mod channels_1;
mod contents;
mod ends;
mod example;
mod expiry;
mod garbage;
mod itself;
mod json;
mod keys;
mod matrix;
mod peer;
mod poison;
mod pubsub;
mod python;
mod routes;
mod rust;
mod server;
mod side;
mod site;
mod spread;
mod statistics;
mod workers;

pub use self::peer::python;
