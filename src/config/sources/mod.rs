//! The sources of options: files, environment variables, and configurations of Python's layers.

pub(crate) mod environment;
pub(crate) mod file;
pub(crate) mod origin;
pub(crate) mod python;
pub(crate) mod raw;
pub(crate) mod redis_variables;
#[cfg(test)]
mod tests;
