//! `ConnectError`: why a connection could not be opened, with advice.
//!
//! An error is first compared with the usual misconfigurations ([`diagnosis`], [`tls`]). The text then says what is
//! wrong and which option to change.

pub(crate) mod diagnosis;
pub(crate) mod tls;

use std::time::Duration;

use deadpool_redis::PoolError;
use redis::{Client, ErrorKind, RedisError};

use crate::redis::node::connection::Version;
use crate::redis::node::connection::connect_error::diagnosis::Mismatch;
use crate::redis::node::endpoint::EndpointError;
use crate::redis::node::endpoint::sentinel::SentinelError;
use crate::redis::node::fault;

/// Why a connection could not be opened. Its text names no address: [`Shard`](crate::redis::node::shard::Shard) adds
/// it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("{}", fault::text(.0))]
    Redis(RedisError),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// A retry does not help until the server is changed.
    #[error("the server has version {version}, but {needed} or later is required")]
    TooOld { version: String, needed: Version },
    #[error("this is a node of a Redis Cluster: set `cluster = true`, which needs the format native or pubsub")]
    Cluster,
    #[error("this is not a node of a Redis Cluster: remove `cluster = true`")]
    NotCluster,
    #[error("no node of the cluster names a master for this shard")]
    NoMaster,
    #[error("the node knows no slot of the cluster")]
    NoSlots,
    #[error("no node of the cluster has answered just now")]
    NoLayout,
    /// Holds the error of each node.
    #[error("no node of the cluster answered: {}", .0.join("; "))]
    Silent(Vec<String>),
    #[error("this is a sentinel, which stores no messages: list it in `sentinels` and not in `hosts`")]
    Sentinel,
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    #[error("the pool of connections cannot be used: {0}")]
    Pool(String),
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    #[error(transparent)]
    Sentinels(#[from] SentinelError),
    #[error("the server is a replica, which accepts no writes")]
    Replica,
}

impl ConnectError {
    /// Whether the server is reachable, and one side does not accept the other: the server cannot be used with this
    /// format, it requires another user or password, or a certificate is not trusted. An expired certificate does not
    /// count, because it is no mistake in the configuration of this program.
    pub(crate) fn is_refusal(&self) -> bool {
        match self {
            Self::Redis(error) => {
                error.kind() == ErrorKind::AuthenticationFailed
                    || error.code() == Some("NOAUTH")
                    || tls::tls_error(error).is_some_and(tls::is_mistake)
            }
            Self::Mismatch(mismatch) => mismatch.is_mistake(),
            _ => self.is_permanent(),
        }
    }

    /// Whether retries are useless.
    pub(crate) fn is_permanent(&self) -> bool {
        matches!(self, Self::TooOld { .. } | Self::Cluster | Self::NotCluster | Self::Sentinel)
    }

    /// Replaces an error that does not say what is wrong by a diagnosis of the server at the address of `client`, if
    /// there is one. The diagnosis takes `timeout` at most.
    pub(crate) async fn explained(self, client: &Client, timeout: Duration) -> Self {
        let unexplained = match &self {
            Self::Redis(error) if tls::tls_error(error).is_some_and(tls::is_certificate_refusal) => false,
            Self::Redis(error) => !error.is_connection_refusal() && fault::answer(error).is_none(),
            Self::Timeout(_) => true,
            _ => false,
        };
        if !unexplained {
            return self;
        }
        diagnosis::of(client, timeout).await.map_or(self, Self::from)
    }
}

impl From<RedisError> for ConnectError {
    fn from(error: RedisError) -> Self {
        match fault::answer(&error) {
            Some(("DENIED", _)) => Mismatch::Protected.into(),
            Some((_, text)) if text.contains("SELECT is not allowed in cluster mode") => Self::Cluster,
            Some((_, text)) if text.contains("cluster support disabled") => Self::NotCluster,
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
