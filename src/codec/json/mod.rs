//! Messages as JSON, in the dialect of Python's `json` module.
//!
//! The dialect has `NaN`, `Infinity` and `-Infinity`, which Python writes by default and other readers refuse, so that a
//! reader and a writer of its own are needed. It has no byte strings.

mod read;
mod write;

pub(super) use read::read;
pub(super) use write::write;

#[cfg(test)]
mod tests;
