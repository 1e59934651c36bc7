//! The sources of options: files, the environment, and the forms of Python's layers.

pub(crate) mod environment;
pub(crate) mod file;
pub(crate) mod python;
pub(crate) mod raw;
pub(crate) mod redis_variables;
pub(crate) mod source;
