//! What can go wrong with a hub.

use std::sync::Arc;

use crate::error::Error;
use crate::name::InvalidName;
use crate::server::hub::membership::index::Barred;

/// Why something was not done.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// The client is not connected any more.
    #[error("the client has gone")]
    Gone,
    /// The user has as many connections as one may have.
    #[error("the user has too many connections")]
    TooManyConnections,
    /// The client is in as many rooms as one may be in.
    #[error("the client is in too many rooms")]
    TooManyRooms,
    /// The layer failed. What concerns this process alone has been done.
    #[error("the channel layer failed")]
    Layer(#[source] Arc<Error>),
}

impl From<Error> for HubError {
    fn from(error: Error) -> Self {
        Self::Layer(Arc::new(error))
    }
}

impl From<InvalidName> for HubError {
    fn from(error: InvalidName) -> Self {
        Error::from(error).into()
    }
}

impl From<Barred> for HubError {
    fn from(barred: Barred) -> Self {
        match barred {
            Barred::Departed => Self::Gone,
            Barred::Full => Self::TooManyConnections,
            Barred::Rooms => Self::TooManyRooms,
        }
    }
}
