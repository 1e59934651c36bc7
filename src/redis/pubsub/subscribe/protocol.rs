//! The commands and answers that RESP2 and RESP3 connections share.

use std::sync::Arc;

use bytes::Bytes;
use redis::{ErrorKind, RedisError};

use crate::redis::pubsub::topic::Subscription;

/// Takes the topic and the payload of a message. Called by the task of the connection, in the order of arrival.
pub(crate) type Deliver = Arc<dyn Fn(&[u8], Bytes) + Send + Sync>;

/// The command for a subscription and its argument.
pub(crate) type Command = fn(&Subscription) -> (&'static str, &str);

/// The answer for each subscription of a call.
pub(crate) type Answers = Vec<Result<(), RedisError>>;

/// Whether the server requires another login.
pub(crate) fn is_login(error: &RedisError) -> bool {
    error.kind() == ErrorKind::AuthenticationFailed || error.code() == Some("NOAUTH")
}

impl Subscription {
    /// Its Redis channel or pattern.
    pub(crate) fn topic(&self) -> &str {
        self.subscribe_command().1
    }

    /// The command that begins the subscription.
    pub(crate) fn subscribe_command(&self) -> (&'static str, &str) {
        match self {
            Self::Channel(topic) => ("SUBSCRIBE", topic),
            Self::Pattern(pattern) => ("PSUBSCRIBE", pattern),
            Self::Sharded(topic) => ("SSUBSCRIBE", topic),
        }
    }

    /// The command that ends the subscription.
    pub(crate) fn unsubscribe_command(&self) -> (&'static str, &str) {
        match self {
            Self::Channel(topic) => ("UNSUBSCRIBE", topic),
            Self::Pattern(pattern) => ("PUNSUBSCRIBE", pattern),
            Self::Sharded(topic) => ("SUNSUBSCRIBE", topic),
        }
    }
}
