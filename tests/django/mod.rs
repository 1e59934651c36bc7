//! Python's wire formats, proven against Python's own packages.

mod contents;
mod ends;
mod garbage;
mod itself;
mod json;
mod matrix;
mod peer;
mod pubsub;
mod python;
mod routes;
mod rust;
mod side;
mod site;

pub use self::peer::python;
