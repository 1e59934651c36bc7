//! Blocking reads from all fetch loops of a reader.

use std::sync::Arc;
use std::task::Waker;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::accept::{accept, resolve_held};
use super::run::Task;
use super::step::{LINGER, until};
use crate::name::ChannelName;
use crate::redis::node::fault::Fault;
use crate::redis::node::shard::Shard;
use crate::redis::receive::fetch::fetch_loop::FetchLoop;
use crate::redis::receive::fetch::fetched::Read;
use crate::redis::receive::fetch::pending_reads::{CompletedRead, PendingReads, read_or_recover};
use crate::redis::receive::reader::{Phase, Reader};

/// What the state of the reader requires of its reads.
struct Demand {
    /// How many entries waiting consumers miss.
    missing: usize,
    /// Whether all reads have to end.
    must_end: bool,
    /// When the members of held messages are to be looked up again.
    resolve_again_at: Option<Instant>,
    /// Whether a channel that reads left out because of held messages can be read again.
    has_unblocked: bool,
}

/// A channel that reads have left out because of held messages.
type LeftOut = (Arc<Shard>, ChannelName);

impl Demand {
    fn of(reader: &Reader, left_out: &[LeftOut]) -> Self {
        let mut state = reader.state();
        let busy = state.phase != Phase::Serving || !state.next_owners.is_empty() || state.has_polls();
        let must_end = busy || reader.context.closing.has_ended();
        let held = &state.buffer.held;
        let has_unblocked = left_out.iter().any(|(shard, channel)| !held.blocks(channel, shard));
        Self { missing: state.missing(), must_end, resolve_again_at: held.resolve_again_at(), has_unblocked }
    }
}

impl Task<'_> {
    /// Reads from all fetch loops until no consumer waits any more.
    pub(super) async fn read(&mut self, fetch_loops: &mut [FetchLoop]) {
        let reader = self.reader;
        let (several, mut passed) = (fetch_loops.len() > 1, false);
        let mut idle: Vec<_> = fetch_loops.iter_mut().enumerate().collect();
        let mut reads = PendingReads::default();
        // Ends the reads that began since it was created. A read on a dead connection ends late; the other fetch loops
        // begin again without it, under a new token.
        let mut stop = Arc::new(CancellationToken::new());
        // The channels that reads under this token leave out.
        let mut left_out: Vec<LeftOut> = Vec::new();
        let mut satisfied_since = None;
        self.failures.waiting_begins();
        loop {
            let changed = reader.work.signalled();
            let report_at = self.failures.report_due();
            let Demand { missing, must_end, resolve_again_at, has_unblocked } = Demand::of(reader, &left_out);
            if must_end || has_unblocked {
                stop.cancel();
            }
            if missing > 0 && !must_end {
                satisfied_since = None;
                if stop.is_cancelled() {
                    (stop, passed) = (Arc::default(), false);
                    left_out.clear();
                }
                if several && !passed {
                    // With messages on every shard, blocking reads would take one from each, which is more than is
                    // wanted.
                    passed = true;
                    self.pass(&mut idle, missing, None).await;
                    continue;
                }
                let is_free = |(_, fetch_loop): &mut (usize, &mut FetchLoop)| {
                    fetch_loop.leave_out_blocked(&reader.state().buffer.held)
                };
                for (index, fetch_loop) in idle.extract_if(.., is_free) {
                    left_out.extend(fetch_loop.left_out().map(|channel| (fetch_loop.shard.clone(), channel.clone())));
                    let fault = self.failures.fault_of(index);
                    reads.push(read_or_recover(fetch_loop, index, missing, fault, stop.clone()));
                }
            } else {
                satisfied_since.get_or_insert_with(Instant::now);
                if reads.is_empty() {
                    return;
                }
            }
            tokio::select! {
                CompletedRead { fetch_loop, index, result } = reads.next() => {
                    self.record(index, fetch_loop, &result);
                    if let Ok(Some(read)) = result {
                        accept(reader, &mut *self.resolver, fetch_loop, read).await;
                    }
                    idle.push((index, fetch_loop));
                }
                () = changed => {}
                () = until(report_at) => self.report(),
                () = until(resolve_again_at) => resolve_held(reader, &mut *self.resolver).await,
                () = reader.context.closing.token().cancelled(), if !stop.is_cancelled() => {}
                () = until(satisfied_since.map(|since| since + LINGER)), if !stop.is_cancelled() => stop.cancel(),
            }
        }
    }

    /// Records how a read by a fetch loop ended, and reports an outage to consumers when that is due.
    pub(super) fn record(&mut self, index: usize, fetch_loop: &FetchLoop, result: &Result<Option<Read>, Fault>) {
        if !self.failures.record(index, fetch_loop, result) {
            return;
        }
        self.reader.state().outage.current = self.failures.outage();
        if self.failures.report_due().is_some_and(|due| due <= Instant::now()) {
            self.report();
        }
    }

    /// Reports the present outage to all waiting consumers.
    fn report(&mut self) {
        self.failures.reported();
        let waiters = {
            let mut state = self.reader.state();
            state.outage.reports += 1;
            state.waiters.all()
        };
        waiters.into_iter().for_each(Waker::wake);
    }
}
