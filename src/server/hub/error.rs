//! `HubError`: the error of the hub.

use std::sync::Arc;

use crate::error::Error;
use crate::name::InvalidName;
use crate::server::hub::membership::index::JoinRefused;

/// An error of the hub.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// The client is not connected any more.
    #[error("the client has gone")]
    Gone,
    /// The user has reached its limit of connections.
    #[error("the user has too many connections")]
    TooManyConnections,
    /// The client has reached its limit of rooms.
    #[error("the client is in too many rooms")]
    TooManyRooms,
    /// The layer failed. The part of the call that concerns this process has been done.
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

impl From<JoinRefused> for HubError {
    fn from(refused: JoinRefused) -> Self {
        match refused {
            JoinRefused::Departed => Self::Gone,
            JoinRefused::TooManyConnections => Self::TooManyConnections,
            JoinRefused::TooManyRooms => Self::TooManyRooms,
        }
    }
}
