//! Python's wire formats, proven against Python's own packages.

mod contents;
mod itself;
mod json;
mod peer;
mod routes;
mod side;
mod site;

pub use self::peer::python;
