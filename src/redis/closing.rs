//! `Closing`: whether a layer has ended, and why.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};

/// The end of a layer, which is closed or dropped, or whose runtime ends. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Closing {
    /// Cancelled at the end, whatever its cause.
    token: CancellationToken,
    /// Whether the layer was closed or dropped.
    closed: Arc<AtomicBool>,
}

impl Closing {
    /// Ends the layer because it is closed or dropped.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.token.cancel();
    }

    /// The token that is cancelled at the end. If it is cancelled without [`close`](Self::close), the runtime of the
    /// layer has ended.
    pub(crate) fn token(&self) -> &CancellationToken {
        &self.token
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Fails if the layer has ended.
    pub(crate) fn check(&self) -> Result<()> {
        if self.has_ended() { Err(self.error()) } else { Ok(()) }
    }

    /// Fails if the layer was closed or dropped. Senders use this, because they would contend for the lock of the
    /// token. Their queue tells them that the runtime has ended.
    pub(crate) fn check_not_closed(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) { Err(Error::Closed) } else { Ok(()) }
    }

    /// The error of calls after the end.
    pub(crate) fn error(&self) -> Error {
        if self.closed.load(Ordering::Acquire) { Error::Closed } else { Error::RuntimeEnded }
    }

    /// Replaces [`Error::Closed`], as the parts of a layer return it, by the error for the cause of the end.
    pub(crate) fn explain(&self, error: Error) -> Error {
        if matches!(error, Error::Closed) { self.error() } else { error }
    }
}
