//! `Error`: the error type of the crate.

use crate::name::{ChannelName, InvalidName};

/// The error of a backend library, type-erased so that backends can change.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The result of every fallible call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a channel layer.
///
/// `Display` prints the whole error, including the cause and the address of the server. There is therefore no
/// [`source`](std::error::Error::source).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The channel is at capacity; the message was not sent.
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
    /// An option of the configuration has an invalid value.
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
    /// A Redis server failed or is unreachable. [`may_have_run`](Self::may_have_run) says whether the operation may
    /// have taken effect nevertheless.
    #[error("{cause}")]
    Redis {
        /// Position of the server in the configured hosts, or its number in a cluster.
        shard: usize,
        /// What failed, on which server, and why. `Display` prints it as the error itself.
        cause: BoxError,
    },
    /// A Redis server is too old to be used.
    #[error("Redis at {address} has version {version}, but {needed} or later is required")]
    UnsupportedServer {
        /// Position of the server in the configured hosts, or its number in a cluster.
        shard: usize,
        /// The address of the server, without credentials.
        address: String,
        /// The version that it reports.
        version: String,
        /// The oldest supported version.
        needed: String,
    },
    /// The layer does not offer this operation.
    #[error("this layer does not support {operation}")]
    Unsupported {
        /// The unsupported operation.
        operation: &'static str,
    },
    /// The layer panicked, which is a bug. The operation may have taken effect.
    #[error("the channel layer panicked")]
    Panicked,
    /// The layer has been closed.
    #[error("the channel layer is closed")]
    Closed,
    /// The tokio runtime on which the layer was connected has ended, and with it the tasks of the layer.
    #[error("the runtime that connected the channel layer has ended")]
    RuntimeEnded,
}

impl Error {
    /// Whether the same call may succeed later without a change: the channel was full, or a server was unreachable,
    /// busy, or short of memory, disk or replicas. Permanent refusals, such as a key of another type or a forbidden
    /// command, are not transient.
    ///
    /// A transient error does not make a repetition safe: see [`may_have_run`](Self::may_have_run).
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::ChannelFull { .. }) || self.server_fault(|fault| fault.transient)
    }

    /// Whether the operation may have taken effect although it failed, because a server was lost before it answered.
    ///
    /// Repeating such a call may send a message twice. A call that several servers or layers carry out may have run if
    /// any of them did its part. A group send, for example, has reached the members on the servers that did not fail.
    ///
    /// ```
    /// use channel_layer::Error;
    ///
    /// fn is_worth_another_try(error: &Error) -> bool {
    ///     error.is_transient() && !error.may_have_run()
    /// }
    /// ```
    pub fn may_have_run(&self) -> bool {
        matches!(self, Self::Panicked) || self.server_fault(|fault| fault.may_have_run)
    }

    /// Whether the layer has stopped working, so that every call fails: [`Closed`](Self::Closed) or
    /// [`RuntimeEnded`](Self::RuntimeEnded).
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::Closed | Self::RuntimeEnded)
    }

    /// Whether a server is unreachable. A server that refuses a call is reachable.
    pub(crate) fn is_outage(&self) -> bool {
        self.server_fault(|fault| fault.outage)
    }

    /// Marks the error of one part of a call as `may_have_run`, because another part ran or may have run.
    pub(crate) fn of_a_part(self) -> Self {
        match self {
            Self::Redis { shard, cause } => {
                let cause = match cause.downcast::<ServerFault>() {
                    Ok(fault) => Box::new(ServerFault { may_have_run: true, ..*fault }),
                    // An unknown cause already counts as `may_have_run`.
                    Err(cause) => cause,
                };
                Self::Redis { shard, cause }
            }
            // Only `Redis` can report that a part ran.
            other => {
                let text = other.to_string();
                let fault = ServerFault { may_have_run: true, outage: false, transient: false, text };
                Self::Redis { shard: 0, cause: Box::new(fault) }
            }
        }
    }

    /// Applies `predicate` to the fault of a server. Returns `true` if the cause of the fault is unknown, and `false`
    /// if no server failed.
    fn server_fault(&self, predicate: fn(&ServerFault) -> bool) -> bool {
        match self {
            Self::Redis { cause, .. } => cause.downcast_ref::<ServerFault>().is_none_or(predicate),
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

/// The cause of [`Error::Redis`]: the text of the error, and its classification.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(crate) struct ServerFault {
    pub(crate) may_have_run: bool,
    pub(crate) outage: bool,
    pub(crate) transient: bool,
    pub(crate) text: String,
}
