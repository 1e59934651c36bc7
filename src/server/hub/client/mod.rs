//! One client of a hub.
//!
//! [`Client`] is the handle that the app uses, and [`Handler`] is the app's code for the client. [`serve`] runs the
//! connection, from its handshake to its disconnect.

mod handle;
mod handler;
pub(crate) mod serve;

pub use handle::Client;
pub use handler::{Closed, Handler};
