//! The sources of options: files, environment variables, and configurations of Python's layers.
//!
//! Each source finds the option by its name in the table and lets the option parse the value. An error names the
//! option, and the environment variable if one was read.

pub(crate) mod environment;
pub(crate) mod file;
pub(crate) mod origin;
pub(crate) mod python;
pub(crate) mod raw;
pub(crate) mod redis_variables;
#[cfg(test)]
mod tests;
