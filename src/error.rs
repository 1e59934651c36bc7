//! The one error type of the crate.

use crate::name::{ChannelName, InvalidName};

/// What a backend library reported, behind one type so that backends can change.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong with a channel layer.
///
/// `Display` says all of it, the cause and the address of a server included, so that there is no
/// [`source`](std::error::Error::source) to print behind it.
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
    /// A Redis server failed, or could not be reached. [`may_have_run`](Self::may_have_run) says whether the operation may
    /// have taken place all the same.
    #[error("{cause}")]
    Redis {
        /// Position of the server in the configured hosts.
        shard: usize,
        /// What failed, at which address, and why. It is printed as the error itself.
        cause: BoxError,
    },
    /// A Redis server is too old to be used.
    #[error("Redis at {address} has version {version}, and {needed} or later is needed")]
    UnsupportedServer {
        /// Position of the server in the configured hosts.
        shard: usize,
        /// Where the server is, without credentials.
        address: String,
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
    /// The layer panicked: a bug. The operation may have taken place.
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
    /// Whether the same call may succeed later without a change: the channel was full, or a server was away, busy, or short
    /// of memory, disk or replicas. What a server refuses for good, as a key of another type or a command that the user may
    /// not give, is not.
    ///
    /// That does not make it safe to call again: see [`may_have_run`](Self::may_have_run).
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::ChannelFull { .. }) || self.server_fault(|fault| fault.transient)
    }

    /// Whether the operation may have taken place although it failed: a server was lost before it answered.
    ///
    /// Who then sends again may send twice, so try again only what cannot have run. A call that several servers or layers
    /// carry out may have run if any of them did its part: a group send has in any case reached the members on the servers
    /// that did not fail.
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

    /// Whether the layer works no more, so that every call fails: [`Closed`](Self::Closed) or
    /// [`RuntimeEnded`](Self::RuntimeEnded).
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::Closed | Self::RuntimeEnded)
    }

    /// Whether a server is away, and not only unwilling.
    pub(crate) fn is_outage(&self) -> bool {
        self.server_fault(|fault| fault.outage)
    }

    /// The same failure of a call of which another part ran, or may have run.
    pub(crate) fn of_a_part(self) -> Self {
        match self {
            Self::Redis { shard, cause } => {
                let cause = match cause.downcast::<ServerFault>() {
                    Ok(fault) => Box::new(ServerFault { may_have_run: true, ..*fault }),
                    // Of an unknown cause the worst is assumed already.
                    Err(cause) => cause,
                };
                Self::Redis { shard, cause }
            }
            // Only this variant says that something ran.
            other => {
                let text = other.to_string();
                let fault = ServerFault { may_have_run: true, outage: false, transient: false, text };
                Self::Redis { shard: 0, cause: Box::new(fault) }
            }
        }
    }

    /// What a server's fault says; the worst where nothing is known of it, and nothing where no server failed.
    fn server_fault(&self, says: fn(&ServerFault) -> bool) -> bool {
        match self {
            Self::Redis { cause, .. } => cause.downcast_ref::<ServerFault>().is_none_or(says),
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

/// The cause of [`Error::Redis`]: what the connection reported, and what that means.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(crate) struct ServerFault {
    pub(crate) may_have_run: bool,
    pub(crate) outage: bool,
    pub(crate) transient: bool,
    pub(crate) text: String,
}
