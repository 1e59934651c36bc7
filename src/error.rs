//! The one error type of the crate.

use std::fmt;
use std::sync::Arc;

use crate::name::{ChannelName, InvalidName};

/// What a backend library reported, behind one type so that backends can change.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong with a channel layer.
///
/// `Display` prints this level only; [`source`](std::error::Error::source) has the cause.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The channel holds as many messages as its capacity allows; the message was not sent.
    #[error("channel {channel} is full")]
    ChannelFull {
        /// The channel as the caller named it.
        channel: ChannelName,
    },
    /// The encoded message is larger than the layer accepts; it was not sent.
    #[error("message of {size} bytes is larger than the limit of {limit} bytes")]
    MessageTooLarge {
        /// Bytes of the encoded message.
        size: usize,
        /// Bytes that the layer accepts.
        limit: usize,
    },
    /// A channel or group name, or a pattern for one, is not valid.
    #[error(transparent)]
    InvalidName(#[from] InvalidName),
    /// An option of the configuration has a value that cannot work.
    #[error("invalid configuration: {option} = {value}: {reason}")]
    InvalidConfig {
        /// The option, under its name in configuration files.
        option: String,
        /// The value as given; secrets are left out.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A message could not be encoded or decoded.
    #[error("message cannot be {direction}: {reason}")]
    Codec {
        /// `encoded` or `decoded`.
        direction: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A sealed message could not be opened, or a message could not be sealed.
    #[error("message cannot be opened: {reason}")]
    Decrypt {
        /// Why, without a word of its content.
        reason: &'static str,
    },
    /// A Redis server failed, or could not be reached. Whether the operation took place is unknown, unless the source
    /// says that there was no connection.
    #[error("redis shard {shard} failed")]
    Redis {
        /// Position of the server in the configured hosts.
        shard: usize,
        /// What the connection reported.
        #[source]
        source: BoxError,
    },
    /// A Redis server is too old to be used.
    #[error("redis shard {shard} has version {version}, and {needed} or later is needed")]
    UnsupportedServer {
        /// Position of the server in the configured hosts.
        shard: usize,
        /// The version that it reports.
        version: String,
        /// The oldest version that will do.
        needed: String,
    },
    /// The layer does not offer this operation.
    #[error("this layer does not support {operation}")]
    Unsupported {
        /// What was asked for.
        operation: &'static str,
    },
    /// The layer has been closed.
    #[error("the channel layer is closed")]
    Closed,
}

impl Error {
    /// Whether the same call may succeed later without a change: the channel was full, or a server was away.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::ChannelFull { .. } | Self::Redis { .. })
    }

    /// Whether the operation may have taken place although it failed: a server was lost before it answered.
    pub fn may_have_run(&self) -> bool {
        match self {
            Self::Redis { source, .. } => source.downcast_ref::<ServerFault>().is_none_or(|fault| fault.may_have_run),
            _ => false,
        }
    }

    /// Whether a server is away, and not only unwilling.
    pub(crate) fn is_outage(&self) -> bool {
        match self {
            Self::Redis { source, .. } => source.downcast_ref::<ServerFault>().is_none_or(|fault| fault.outage),
            _ => false,
        }
    }

    pub(crate) fn config(option: impl Into<String>, value: impl ToString, reason: impl ToString) -> Self {
        Self::InvalidConfig { option: option.into(), value: value.to_string(), reason: reason.to_string() }
    }

    pub(crate) fn encode(reason: impl ToString) -> Self {
        Self::Codec { direction: "encoded", reason: reason.to_string() }
    }

    pub(crate) fn decode(reason: impl ToString) -> Self {
        Self::Codec { direction: "decoded", reason: reason.to_string() }
    }
}

/// The source of [`Error::Redis`]: what the connection reported, and what that means.
#[derive(Debug)]
pub(crate) struct ServerFault {
    pub(crate) may_have_run: bool,
    pub(crate) outage: bool,
    pub(crate) cause: Arc<dyn std::error::Error + Send + Sync>,
}

impl fmt::Display for ServerFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cause.fmt(f)
    }
}

impl std::error::Error for ServerFault {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.source()
    }
}
