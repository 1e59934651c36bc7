//! The non-blocking pass: takes what is on the servers now.

use tokio::time::Instant;

use super::accept::{accept, resolve_held};
use super::run::Task;
use crate::redis::receive::fetch::fetch_loop::FetchLoop;

impl Task<'_> {
    /// Makes a non-blocking pass for all callers that have asked for one, and sends them whether it found anything.
    pub(super) async fn poll(&mut self, fetch_loops: &mut [FetchLoop]) {
        resolve_held(self.reader, &mut *self.resolver).await;
        let polls = std::mem::take(&mut self.reader.state().polls);
        let mut fetch_loops: Vec<_> = fetch_loops.iter_mut().enumerate().collect();
        let fetched = self.pass(&mut fetch_loops, polls.len(), true).await;
        let found = fetched || !self.reader.state().buffer.ready.is_empty();
        for poll in polls {
            // A caller that was dropped needs no answer; the others take from the buffer.
            let _ = poll.send(found);
        }
    }

    /// Takes what is there from one fetch loop after the other until the buffer has `wanted` entries. Returns whether
    /// anything was found. Each fetch loop comes with its index. Unless `is_poll` is set, blocking reads follow. They
    /// wait for the servers of a cluster that have no answer now.
    pub(super) async fn pass(
        &mut self,
        fetch_loops: &mut [(usize, &mut FetchLoop)],
        wanted: usize,
        is_poll: bool,
    ) -> bool {
        let (begun, is_cluster) = (Instant::now(), self.reader.context.places.is_cluster());
        let count = fetch_loops.len();
        let mut found = false;
        for offset in 0..count {
            let missing = wanted.saturating_sub(self.reader.state().buffer.ready.len());
            if missing == 0 {
                // A waiting consumer may take the buffered entries. Reporting them as found makes the caller poll again
                // for entries behind them.
                found = true;
                break;
            }
            let (index, fetch_loop) = &mut fetch_loops[(self.next_poll + offset) % count];
            if !fetch_loop.leave_out_blocked(&self.reader.state().buffer.held) {
                continue;
            }
            // All fetch loops together wait for one command timeout.
            let waits = is_poll && begun.elapsed() < fetch_loop.shard.command_timeout();
            let result = fetch_loop.take(missing, waits).await;
            if !is_poll && is_cluster && result.as_ref().is_err_and(|fault| fault.redirect.is_some()) {
                continue;
            }
            self.record(*index, fetch_loop, &result);
            if let Ok(Some(read)) = result {
                found = true;
                accept(self.reader, &mut *self.resolver, fetch_loop, read).await;
            }
        }
        self.next_poll = (self.next_poll + 1) % self.failures.fetch_loops();
        found
    }
}
