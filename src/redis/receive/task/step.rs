//! What the task of a reader does next.

use std::time::Duration;

use tokio::time::Instant;

use super::run::Task;
use crate::redis::receive::fetch::fetch_loop::FetchLoop;
use crate::redis::receive::reader::{Phase, State};

/// How long reads go on when no consumer waits, so that a loop around `receive` does not stop and start them.
pub(super) const LINGER: Duration = Duration::from_millis(10);
/// How long a reader without a waiting consumer keeps entries of single-reader channels, and connections for the next
/// read.
const LINGER_LONG: Duration = Duration::from_secs(1);

/// What the task does next.
pub(super) enum Step {
    /// A consumer waits: read from all fetch loops.
    Read,
    /// A caller asks what is there now: make a non-blocking pass.
    Poll,
    /// Another reader has acquired some of the channels: hand off their entries.
    HandOff,
    /// No consumer waits: put back the entries that other workers could take.
    ReturnShared,
    /// No consumer has waited for long: put all entries back.
    ReturnAll,
    End,
}

/// What the state of the reader requires.
enum Decision {
    Now(Step),
    Wait {
        /// A step, and how long the task has to be idle before it.
        idle: Option<(Duration, Step)>,
        /// Whether a consumer waits and was woken for a buffered entry.
        wanted: bool,
    },
}

impl Task<'_> {
    /// Waits until there is something to do.
    pub(super) async fn next_step(&self, fetch_loops: &[FetchLoop]) -> Step {
        let closing = &self.reader.context.closing;
        let idle_since = Instant::now();
        loop {
            let changed = self.reader.work.signalled();
            let yields_until = self.contention.yields_until();
            if closing.has_ended() {
                return Step::End;
            }
            let connected = fetch_loops.iter().any(FetchLoop::is_connected);
            let (idle, wanted) = match self.decide(&mut self.reader.state(), yields_until.is_some(), connected) {
                Decision::Now(step) => return step,
                Decision::Wait { idle, wanted } => (idle, wanted),
            };
            // A woken consumer takes its entry without notifying the task.
            let check_again = wanted.then(|| yields_until.unwrap_or_else(|| Instant::now() + LINGER_LONG));
            tokio::select! {
                () = changed => {}
                () = closing.token().cancelled() => {}
                () = until(check_again) => {}
                () = until(idle.as_ref().map(|(time, _)| idle_since + *time)) => {
                    if let Some((_, step)) = idle {
                        return step;
                    }
                }
            }
        }
    }

    /// `yields` is whether another reader has its turn, and `connected` whether a fetch loop has a connection.
    fn decide(&self, state: &mut State, yields: bool, connected: bool) -> Decision {
        if state.is_closed() {
            return Decision::Now(Step::End);
        }
        if !state.next_owners.is_empty() {
            return Decision::Now(Step::HandOff);
        }
        if state.has_polls() {
            return Decision::Now(Step::Poll);
        }
        if state.missing() > 0 && !yields {
            return Decision::Now(Step::Read);
        }
        if state.phase == Phase::Abandoned && !self.stuck {
            return Decision::Now(Step::ReturnAll);
        }
        let (wanted, unused) = (state.waiters.deliveries_wanted > 0, state.waiters.consumers == 0);
        let has_shared = !wanted && state.buffer.ready.iter().any(|entry| !entry.has_one_reader());
        let has_any = !wanted && (!state.buffer.is_empty() || connected);
        let blocks_others = has_shared || unused && connected;
        let idle = match (blocks_others, has_any || unused) {
            (true, _) if !self.stuck => Some((LINGER, Step::ReturnShared)),
            (false, false) => None,
            _ => Some((LINGER_LONG, Step::ReturnAll)),
        };
        Decision::Wait { idle, wanted }
    }
}

/// Waits until `time`, or forever if it is `None`.
pub(super) async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
