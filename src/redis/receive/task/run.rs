//! The loop of the task of a reader.
//!
//! The task is never cancelled during a read, because the answer of Redis to an abandoned read is lost. When no
//! consumer waits any more, the task ends its reads on the server and, after a pause, puts back the entries that no
//! consumer has taken.

use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use super::accept::resolve_arrivals;
use super::step::Step;
use crate::redis::receive::buffer::buffered_entry::BufferedEntry;
use crate::redis::receive::fetch::contention::Contention;
use crate::redis::receive::fetch::fetch_loop::FetchLoop;
use crate::redis::receive::fetch::ownership::ChannelOwners;
use crate::redis::receive::format::RecipientResolver;
use crate::redis::receive::outage::failures::Failures;
use crate::redis::receive::put_back::PutBack;
use crate::redis::receive::reader::{Phase, Reader};

/// How long the last put-back of a reader waits for an unreachable server.
const PUT_BACK_TIMEOUT: Duration = Duration::from_secs(4);

/// Runs the task of a reader. The caller [finishes](Reader::finish) the reader when the task has ended.
///
/// The task calls `may_end` when no consumer has waited for a while. `may_end` returns whether no consumer can come
/// back.
pub(crate) async fn run(reader: &Arc<Reader>, owners: &ChannelOwners, may_end: &impl Fn(&Reader) -> bool) {
    let mut fetch_loops = FetchLoop::for_channels(&reader.context, &reader.channels, reader.owned);
    let mut task = Task {
        reader,
        owners,
        failures: Failures::new(reader.context.retry_pause(), !reader.owned, fetch_loops.len()),
        next_poll: 0,
        stuck: false,
        resolver: reader.context.format.resolver(),
        contention: Contention::default(),
    };
    // A panic may have left some.
    resolve_arrivals(reader, &mut *task.resolver).await;
    loop {
        match task.next_step(&fetch_loops).await {
            Step::Read => {
                if task.acquire(false).await {
                    task.read(&mut fetch_loops).await;
                }
            }
            Step::Poll => {
                task.acquire(true).await;
                task.poll(&mut fetch_loops).await;
            }
            Step::HandOff => task.hand_off(u64::MAX),
            Step::ReturnShared => {
                task.put_back(|entry| !entry.has_one_reader(), Duration::ZERO).await;
                if reader.state().waiters.consumers == 0 {
                    // Another reader may need the connections.
                    fetch_loops.iter_mut().for_each(FetchLoop::release);
                }
            }
            Step::ReturnAll => {
                task.put_back(|_| true, Duration::ZERO).await;
                fetch_loops.iter_mut().for_each(FetchLoop::release);
                if !task.stuck && may_end(reader) {
                    break;
                }
            }
            Step::End => break,
        }
    }
    task.close().await;
}

/// The state that only the task of a reader uses.
pub(super) struct Task<'r> {
    pub(super) reader: &'r Arc<Reader>,
    pub(super) owners: &'r ChannelOwners,
    pub(super) failures: Failures,
    /// The index of the fetch loop with which the next non-blocking pass begins.
    pub(super) next_poll: usize,
    /// Whether the last put-back kept entries that the server did not take.
    pub(super) stuck: bool,
    pub(super) resolver: Box<dyn RecipientResolver>,
    pub(super) contention: Contention,
}

impl Task<'_> {
    /// Puts the entries that match `chosen` back at the heads of their channels, unless a consumer waits again. Entries
    /// whose server is unreachable for longer than `timeout` are kept; a closed reader drops them.
    async fn put_back(&mut self, chosen: impl Fn(&BufferedEntry) -> bool, timeout: Duration) {
        let mut put_back = {
            let mut state = self.reader.state();
            if state.waiters.deliveries_wanted > 0 && !state.is_closed() {
                return;
            }
            PutBack::take(self.reader, &mut state, chosen)
        };
        put_back.run(Instant::now() + timeout).await;
        self.stuck = put_back.has_kept();
        let is_closed = self.reader.state().is_closed();
        if is_closed {
            put_back.drop_kept();
        }
        let (lost, refused) = (put_back.lost.take(), put_back.refused.take());
        drop(put_back);
        let context = &self.reader.context;
        if is_closed {
            if let Some(lost) = lost.or(refused) {
                if context.closing.has_ended() {
                    *context.lost.lock() = Some(lost.clone());
                }
                self.reader.state().lost = Some(lost);
            }
        } else if let Some((shard, fault)) = lost {
            // Only a log line: a close, which may come much later, has not failed because of this loss.
            let error = context.places.error(shard, fault);
            warn!(shard, %error, "unread messages could not be put back");
        }
        self.reader.count_drops();
    }

    /// Closes the reader: wakes all consumers, which then fail, and puts all entries back.
    async fn close(&mut self) {
        let waiters = {
            let mut state = self.reader.state();
            state.advance(Phase::Closed);
            state.polls.clear();
            state.waiters.all()
        };
        waiters.into_iter().for_each(Waker::wake);
        self.hand_off(u64::MAX);
        self.put_back(|_| true, PUT_BACK_TIMEOUT).await;
    }
}
