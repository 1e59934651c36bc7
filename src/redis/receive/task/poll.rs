//! The non-blocking pass: takes what is on the servers now.

use tokio::time::Instant;

use super::accept::{accept, resolve_held};
use super::run::Task;
use crate::redis::receive::fetch::fetch_loop::FetchLoop;

/// The result of a non-blocking pass.
#[derive(Default)]
pub(super) struct Passed {
    /// Whether the pass found entries, or there were enough before it.
    found: bool,
    /// Whether no server of a cluster serves one of the channels now.
    postponed: bool,
}

impl Task<'_> {
    /// Makes a non-blocking pass for all callers that have asked for one, and sends them whether it found anything.
    ///
    /// If it finds nothing and a cluster does not serve some of the channels now, a second pass waits for these. All of
    /// them together are waited for as long as one command may take.
    pub(super) async fn poll(&mut self, fetch_loops: &mut [FetchLoop]) {
        resolve_held(self.reader, &mut *self.resolver).await;
        let polls = std::mem::take(&mut self.reader.state().polls);
        let mut fetch_loops: Vec<_> = fetch_loops.iter_mut().enumerate().collect();
        let mut passed = self.pass(&mut fetch_loops, polls.len(), None).await;
        if passed.postponed && !passed.found {
            let deadline = Instant::now() + self.reader.context.places.shard(0).command_timeout();
            passed = self.pass(&mut fetch_loops, polls.len(), Some(deadline)).await;
        }
        let found = passed.found || !self.reader.state().buffer.ready.is_empty();
        for poll in polls {
            // A caller that was dropped needs no answer; the others take from the buffer.
            let _ = poll.send(found);
        }
    }

    /// Takes what is there from one fetch loop after the other until the buffer has `wanted` entries. Each fetch loop
    /// comes with its index. With a `deadline`, the pass waits until then until the cluster serves the channels, and
    /// records a failure otherwise.
    pub(super) async fn pass(
        &mut self,
        fetch_loops: &mut [(usize, &mut FetchLoop)],
        wanted: usize,
        deadline: Option<Instant>,
    ) -> Passed {
        let waits_until = deadline.unwrap_or_else(Instant::now);
        let count = fetch_loops.len();
        let mut passed = Passed::default();
        for offset in 0..count {
            let missing = wanted.saturating_sub(self.reader.state().buffer.ready.len());
            if missing == 0 {
                // A waiting consumer may take the buffered entries. Reporting them as found makes the caller poll again
                // for entries behind them.
                passed.found = true;
                break;
            }
            let (index, fetch_loop) = &mut fetch_loops[(self.next_poll + offset) % count];
            if !fetch_loop.leave_out_blocked(&self.reader.state().buffer.held) {
                continue;
            }
            let result = fetch_loop.take(missing, waits_until).await;
            let places = &self.reader.context.places;
            if deadline.is_none() && result.as_ref().is_err_and(|fault| places.postpones(fault)) {
                passed.postponed = true;
                continue;
            }
            self.record(*index, fetch_loop, &result);
            if let Ok(Some(read)) = result {
                passed.found = true;
                accept(self.reader, &mut *self.resolver, fetch_loop, read).await;
            }
        }
        self.next_poll = (self.next_poll + 1) % self.failures.fetch_loops();
        passed
    }
}
