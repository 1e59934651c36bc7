//! JSON in the dialect of Python's `json` module.
//!
//! The dialect has `NaN`, `Infinity` and `-Infinity`, which Python writes by default and other readers refuse, so it
//! needs its own reader and writer. It has no byte strings.

mod read;
mod write;

pub(super) use read::read;
pub(super) use write::write;

#[cfg(test)]
mod tests;
