//! What can go wrong between here and one server.

use std::fmt;
use std::sync::Arc;

use redis::{ErrorKind, RedisError, ServerErrorKind};

use crate::error::{Error, ServerFault};

/// Why a command did not succeed; cheap to clone, so that each caller of a batch gets it.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each answers a question of its own")]
pub(crate) struct Fault {
    /// Whether the command may have taken place all the same.
    pub(crate) may_have_run: bool,
    /// Whether the connection is of no more use.
    pub(crate) broken: bool,
    /// Whether there is no server to talk to, rather than one that refused.
    pub(crate) outage: bool,
    /// Whether the same command may succeed later.
    transient: bool,
    cause: Cause,
}

#[derive(Clone)]
struct Cause(Arc<dyn std::error::Error + Send + Sync>);

impl Fault {
    /// A command that was not sent for want of a connection.
    pub(crate) fn unsent(cause: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self { may_have_run: false, broken: false, outage: true, transient: true, cause: Cause(Arc::new(cause)) }
    }

    /// A command that was not sent, though the server is there.
    pub(crate) fn busy(cause: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::unsent(cause).of_a_server_that_is_there()
    }

    /// The same cause, where it is that a server is not willing.
    pub(crate) fn of_a_server_that_is_there(self) -> Self {
        Self { outage: false, ..self }
    }

    /// An answer that the command cannot give, from a server that is not what it should be.
    pub(crate) fn unexpected(answer: &str) -> Self {
        let cause: Box<dyn std::error::Error + Send + Sync> = format!("unexpected answer: {answer}").into();
        Self { may_have_run: true, broken: false, outage: false, transient: false, cause: Cause(cause.into()) }
    }

    /// A call of which a part was done before the layer closed.
    pub(crate) fn cut_off() -> Self {
        let cause: Box<dyn std::error::Error + Send + Sync> = "the layer was closed before all was sent".into();
        Self { may_have_run: true, broken: false, outage: false, transient: false, cause: Cause(cause.into()) }
    }

    /// The same cause for a call of which other parts may have been done.
    pub(crate) fn of_a_part(self, others_ran: bool) -> Self {
        Self { may_have_run: self.may_have_run || others_ran, ..self }
    }

    /// The same cause for a command that will not be sent because of it.
    pub(crate) fn before_sending(self) -> Self {
        Self { may_have_run: false, ..self }
    }

    /// As the error of a call that needed `shard`.
    pub(crate) fn into_error(self, shard: usize) -> Error {
        let Self { may_have_run, outage, transient, cause: Cause(cause), .. } = self;
        Error::Redis { shard, source: Box::new(ServerFault { may_have_run, outage, transient, cause }) }
    }
}

/// Whether an error with this code is the answer to a command that has not run.
fn is_refusal(code: &str) -> bool {
    is_passing(code) || ["NOPERM", "NOAUTH"].contains(&code)
}

/// Whether an error with this code is the answer to a command that has not run, and may run later.
fn is_passing(code: &str) -> bool {
    is_shortage(code) || ["NOSCRIPT", "EXECABORT", "BUSY", "CLUSTERDOWN", "TRYAGAIN"].contains(&code)
}

/// Whether an error with this code says that a server takes no writes for want of memory, disk or replicas.
pub(super) fn is_shortage(code: &str) -> bool {
    ["OOM", "MISCONF", "NOREPLICAS"].contains(&code)
}

impl From<RedisError> for Fault {
    fn from(error: RedisError) -> Self {
        let (may_have_run, broken) = match error.kind() {
            // Refused before they ran: by a server that is starting, is a replica now, or lacks the permission.
            ErrorKind::Server(
                ServerErrorKind::BusyLoading | ServerErrorKind::MasterDown | ServerErrorKind::ReadOnly,
            ) => (false, true),
            ErrorKind::Server(_) | ErrorKind::Extension => (!error.code().is_some_and(is_refusal), false),
            _ => (!error.is_connection_refusal(), true),
        };
        let transient = broken || error.code().is_some_and(is_passing);
        Self { may_have_run, broken, outage: broken, transient, cause: Cause(Arc::new(error)) }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cause.fmt(f)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Cause {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}
