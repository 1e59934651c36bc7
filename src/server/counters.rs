//! Counters of one server since its start, for its status page, and `ClientDropReason`: why a message did not reach a
//! client. The metrics cover most of the counted events too, but not the frames and the replies.

use std::array;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::supervise::update_metric;

/// The events that are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Count {
    FramesIn,
    RepliesOut,
    /// The application accepted a handshake.
    Accepted,
    /// The application refused a handshake.
    Refused,
    /// The application did not answer a handshake in time.
    TimedOut,
    /// The server refused a handshake itself.
    Rejected,
    /// A response with a 2xx status.
    Succeeded,
    /// A response with a 3xx status.
    Redirected,
    /// A response with a 4xx status.
    ClientError,
    /// A response with a 5xx status.
    ServerError,
}

const COUNTS: usize = Count::ServerError as usize + 1;

#[derive(Debug)]
pub(crate) struct Counters([AtomicU64; COUNTS]);

impl Default for Counters {
    fn default() -> Self {
        Self(array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Counters {
    pub(crate) fn add(&self, count: Count, more: usize) {
        self.0[count as usize].fetch_add(more as u64, Ordering::Relaxed);
    }

    pub(crate) fn totals(&self) -> Totals {
        Totals(array::from_fn(|at| self.0[at].load(Ordering::Relaxed)))
    }
}

/// The values of all counters at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals([u64; COUNTS]);

impl Totals {
    pub(crate) fn of(&self, count: Count) -> u64 {
        self.0[count as usize]
    }

    pub(crate) fn handshakes(&self) -> u64 {
        [Count::Accepted, Count::Refused, Count::TimedOut, Count::Rejected].map(|count| self.of(count)).iter().sum()
    }

    pub(crate) fn responses(&self) -> u64 {
        let counts = [Count::Succeeded, Count::Redirected, Count::ClientError, Count::ServerError];
        counts.map(|count| self.of(count)).iter().sum()
    }
}

/// Why a message did not reach a client. The metric counts these reasons beside the drop reasons of the layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClientDropReason {
    /// The client disconnected.
    ClientGone,
    /// The client does not read as fast as the application sends.
    SlowConsumer,
}

/// The label of the metric.
impl From<ClientDropReason> for &'static str {
    fn from(reason: ClientDropReason) -> Self {
        match reason {
            ClientDropReason::ClientGone => "client_gone",
            ClientDropReason::SlowConsumer => "slow_consumer",
        }
    }
}

/// Counts clients that the server closes because they read too slowly.
pub(crate) fn count_slow_consumers(clients: usize) {
    if clients > 0 {
        update_metric(|| metrics::counter!("channel_layer_slow_consumers_closed_total").increment(clients as u64));
    }
}
