//! Why a server could not be reached, in words that say what to do.

pub(crate) mod diagnosis;
pub(crate) mod tls;

use std::time::Duration;

use deadpool_redis::PoolError;
use redis::{Client, ErrorKind, RedisError};

use crate::redis::node::connect_error::diagnosis::Mismatch;
use crate::redis::node::connection::Version;
use crate::redis::node::endpoint::EndpointError;
use crate::redis::node::fault;
use crate::redis::node::source::sentinel::SentinelError;

/// Why a server could not be reached. Its text names no address: [`Shard`](crate::redis::node::shard::Shard) adds it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("{}", fault::words(.0))]
    Redis(RedisError),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// Trying again will not help before somebody changes the server.
    #[error("the server has version {version}, and {needed} or later is needed")]
    TooOld { version: String, needed: Version },
    #[error(
        "this is a Redis Cluster, which is not supported; only the format pubsub, without sharded_pubsub, works there"
    )]
    Cluster,
    #[error("this is a sentinel, which keeps no messages: name it in `sentinels` and not in `hosts`")]
    Sentinel,
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    #[error("the pool of connections cannot be used: {0}")]
    Pool(String),
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    #[error(transparent)]
    Sentinels(#[from] SentinelError),
    #[error("the server is a replica, which takes no writes")]
    Replica,
}

impl ConnectError {
    /// Whether the server is there, and one of the two does not accept the other: it is no server for this format, wants
    /// another user or password, or a certificate is not trusted. A certificate that has only expired is no mistake in the
    /// configuration of this program.
    pub(crate) fn is_refusal(&self) -> bool {
        match self {
            Self::Redis(error) => {
                error.kind() == ErrorKind::AuthenticationFailed
                    || error.code() == Some("NOAUTH")
                    || tls::broken(error).is_some_and(tls::is_mistake)
            }
            Self::Mismatch(mismatch) => mismatch.is_mistake(),
            _ => self.is_permanent(),
        }
    }

    /// Whether the server will never do, however often it is tried.
    pub(crate) fn is_permanent(&self) -> bool {
        matches!(self, Self::TooOld { .. } | Self::Cluster | Self::Sentinel)
    }

    /// This error, or what answers at the address of `client` where the error does not say it. The server is asked again
    /// and has `patience` for it.
    pub(crate) async fn explained(self, client: &Client, patience: Duration) -> Self {
        let unexplained = match &self {
            Self::Redis(error) if tls::broken(error).is_some_and(tls::is_judgement) => false,
            Self::Redis(error) => !error.is_connection_refusal() && fault::answer(error).is_none(),
            Self::Timeout(_) => true,
            _ => false,
        };
        if !unexplained {
            return self;
        }
        diagnosis::of(client, patience).await.map_or(self, Self::from)
    }
}

impl From<RedisError> for ConnectError {
    fn from(error: RedisError) -> Self {
        match fault::answer(&error) {
            Some(("DENIED", _)) => Mismatch::Protected.into(),
            Some((_, words)) if words.contains("SELECT is not allowed in cluster mode") => Self::Cluster,
            _ => Self::Redis(error),
        }
    }
}

impl From<PoolError> for ConnectError {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Backend(error) => error.into(),
            error => Self::Pool(error.to_string()),
        }
    }
}

impl From<deadpool_redis::BuildError> for ConnectError {
    fn from(error: deadpool_redis::BuildError) -> Self {
        Self::Pool(error.to_string())
    }
}
