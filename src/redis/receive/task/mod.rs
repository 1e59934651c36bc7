//! The task of a reader, which fills its buffer.
//!
//! [`run`] is the loop. [`step`] decides what the task does next. [`read_loop`] reads from all fetch loops, [`poll`]
//! makes a non-blocking pass, and [`accept`] adds what they return to the buffer. [`ownership`] takes channels over and
//! hands entries off.

pub(crate) mod accept;
pub(crate) mod ownership;
pub(crate) mod poll;
pub(crate) mod read_loop;
pub(crate) mod run;
pub(crate) mod step;

pub(crate) use run::run;
