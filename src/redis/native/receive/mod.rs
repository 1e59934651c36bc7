//! How the native format receives: [`read`] turns popped messages into entries, and [`resolver`] finds their
//! recipients, from their [`address`](super::address) and from [`groups`](super::groups).

pub(crate) mod read;
pub(crate) mod resolver;
