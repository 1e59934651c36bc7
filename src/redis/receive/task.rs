//! The task of a reader, which fills its buffer.
//!
//! The task is never cancelled while a read is under way, because what Redis answers to a read that nobody hears is
//! lost. When nobody wants anything any more it ends its reads on the server and, after a moment, puts back what has
//! not been taken.

use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::format::RecipientResolver;
use super::put_back::{PutBack, put_back};
use super::reader::{NextOwner, Phase, Reader};
use super::timer::until;
use crate::drops::{self, DropReason};
use crate::redis::node::fault::Fault;
use crate::redis::receive::buffer::accept::{accept, ask_again};
use crate::redis::receive::buffer::entry::BufferedEntry;
use crate::redis::receive::fetch::contention::Contention;
use crate::redis::receive::fetch::fetch_loop::{FetchLoop, Read};
use crate::redis::receive::fetch::ownership::Contested;
use crate::redis::receive::fetch::reads::{Reads, Report, wait};
use crate::redis::receive::outage::failures::Failures;

/// How long reads go on when nobody wants anything, so that a loop around a receive does not stop and start them.
const LINGER: Duration = Duration::from_millis(10);
/// How long what one reader's channels gave is kept for that reader to come back, and connections for the next read.
const LINGER_LONG: Duration = Duration::from_secs(1);
/// How long to wait for a server that is away when something has to go back to it now.
const PUT_BACK_PATIENCE: Duration = Duration::from_secs(4);

/// The task of a reader, which is [finished](Reader::finish) when it ends. `may_end` says, when nothing has been wanted
/// for a while, whether nobody can come back.
pub(crate) async fn run(reader: &Arc<Reader>, may_end: &impl Fn(&Reader) -> bool) {
    let mut lanes = reader.lanes();
    let mut task = Task {
        reader,
        lanes: lanes.len(),
        failures: Failures::new(reader, lanes.len()),
        first: 0,
        stuck: false,
        sorter: reader.surroundings.format.sorter(),
        contest: Contention::default(),
    };
    loop {
        match task.next_step(&lanes).await {
            Step::Read => {
                if task.take_over(false).await {
                    task.read(&mut lanes).await;
                }
            }
            Step::Look => {
                task.take_over(true).await;
                task.look(&mut lanes).await;
            }
            Step::Rest => {
                task.put_back(|parcel| !parcel.has_one_reader(), Duration::ZERO).await;
                if reader.state().users == 0 {
                    // Whoever reads another channel next may need it.
                    lanes.iter_mut().for_each(FetchLoop::release);
                }
            }
            Step::HandOver => task.hand_over(u64::MAX),
            Step::Sleep => {
                task.put_back(|_| true, Duration::ZERO).await;
                lanes.iter_mut().for_each(FetchLoop::release);
                if !task.stuck && may_end(reader) {
                    break;
                }
            }
            Step::End => break,
        }
    }
    task.close().await;
}

/// What the task does next.
enum Step {
    /// Somebody waits.
    Read,
    /// Somebody wants to know what is there now.
    Look,
    /// Another reader of some of the channels begins.
    HandOver,
    /// Nobody wants anything: give back what others could have.
    Rest,
    /// Nobody has wanted anything for long: give back everything.
    Sleep,
    End,
}

struct Task<'r> {
    reader: &'r Arc<Reader>,
    lanes: usize,
    failures: Failures,
    /// The lane that is asked first.
    first: usize,
    /// Something could not be put back the last time, and is kept.
    stuck: bool,
    sorter: Box<dyn RecipientResolver>,
    contest: Contention,
}

impl Task<'_> {
    /// Waits for something to do.
    async fn next_step(&self, lanes: &[FetchLoop]) -> Step {
        let idle_since = Instant::now();
        loop {
            let changed = self.reader.work.signalled();
            let turn_of_other = self.contest.pause();
            let (wanted, holds, blocks_others, gone) = {
                let mut state = self.reader.state();
                if state.is_closed() || self.reader.surroundings.closing.has_ended() {
                    return Step::End;
                }
                if !state.successors.is_empty() {
                    return Step::HandOver;
                }
                if state.has_looks() {
                    return Step::Look;
                }
                if state.missing() > 0 && turn_of_other.is_none() {
                    return Step::Read;
                }
                if state.phase == Phase::Abandoned && !self.stuck {
                    return Step::Sleep;
                }
                let wanted = state.wanted > 0;
                let shared = !wanted && state.parcels.iter().any(|parcel| !parcel.has_one_reader());
                let connected = lanes.iter().any(FetchLoop::is_connected);
                let holds = !wanted && (!state.parcels.is_empty() || !state.held.is_empty() || connected);
                let gone = state.users == 0;
                (wanted, holds, shared || gone && connected, gone)
            };
            let pause = match (blocks_others, holds || gone) {
                (true, _) if !self.stuck => Some((LINGER, Step::Rest)),
                (false, false) => None,
                _ => Some((LINGER_LONG, Step::Sleep)),
            };
            // A consumer that was woken takes what is here without a word.
            let look_again = wanted.then(|| turn_of_other.unwrap_or_else(|| Instant::now() + LINGER_LONG));
            tokio::select! {
                () = changed => {}
                () = self.reader.surroundings.closing.token().cancelled() => {}
                () = until(look_again) => {}
                () = until(pause.as_ref().map(|(time, _)| idle_since + *time)) => {
                    if let Some((_, step)) = pause {
                        return step;
                    }
                }
            }
        }
    }

    /// Takes over what other readers of the same channels hold, so that the order in a channel survives a change of its
    /// reader. Unless it is `at_once`, one that waits itself gets its turn before; then nothing may be read yet.
    async fn take_over(&mut self, at_once: bool) -> bool {
        let insists = at_once || self.contest.has_yielded();
        let claim = match self.reader.surroundings.holders.claim(self.reader, insists) {
            Err(Contested) => {
                self.contest.yields();
                return false;
            }
            Ok(claim) => claim,
        };
        self.contest.is_won(!insists);
        let Some(claim) = claim else { return true };
        for predecessor in claim.predecessors {
            let mut given = std::pin::pin!(predecessor.hand_over_to(self.reader.clone(), claim.ticket));
            loop {
                tokio::select! {
                    () = &mut given => break,
                    // Who came before may wait for what this reader still has. Who came later gets it with the rest.
                    () = self.reader.work.signalled() => self.hand_over(claim.ticket),
                }
            }
        }
        true
    }

    /// Answers those who want to know what is there, without waiting for what is not.
    async fn look(&mut self, lanes: &mut [FetchLoop]) {
        ask_again(self.reader, &mut *self.sorter).await;
        let looks = std::mem::take(&mut self.reader.state().looks);
        let mut lanes: Vec<_> = lanes.iter_mut().enumerate().collect();
        let found = self.sweep(&mut lanes, looks.len()).await || !self.reader.state().parcels.is_empty();
        for look in looks {
            // Who asked takes from the buffer, or has gone.
            let _ = look.send(found);
        }
    }

    /// Takes what is there from one lane after the other until `wanted` entries are in the buffer; tells whether
    /// anything was there. Each lane comes with its place.
    async fn sweep(&mut self, lanes: &mut [(usize, &mut FetchLoop)], wanted: usize) -> bool {
        let count = lanes.len();
        let mut found = false;
        for step in 0..count {
            let missing = wanted.saturating_sub(self.reader.state().parcels.len());
            if missing == 0 {
                // It may be for somebody who waits. Then whoever looks has to look again for what is behind it.
                found = true;
                break;
            }
            let (place, lane) = &mut lanes[(self.first + step) % count];
            if lane.is_blocked_by(&self.reader.state().held) {
                continue;
            }
            let result = lane.take(missing).await;
            self.note(*place, lane, &result);
            if let Ok(Some(read)) = result {
                found = true;
                accept(self.reader, &mut *self.sorter, &lane.shard, read).await;
            }
        }
        self.first = (self.first + 1) % self.lanes;
        found
    }

    /// Reads from all lanes until nobody waits any more.
    async fn read(&mut self, lanes: &mut [FetchLoop]) {
        let reader = self.reader;
        let (several, mut swept) = (lanes.len() > 1, false);
        let mut idle: Vec<_> = lanes.iter_mut().enumerate().collect();
        let mut reads = Reads(Vec::new());
        // Ends the reads that began since it was made. A connection that carries nothing any more ends its read late, and
        // the other lanes begin again without it.
        let mut stop = Arc::new(CancellationToken::new());
        let mut satisfied_since = None;
        self.failures.waiting_begins();
        loop {
            let changed = reader.work.signalled();
            let report = self.failures.report_due();
            let (missing, over, ask_again_at) = {
                let mut state = reader.state();
                let over = state.phase != Phase::Serving || !state.successors.is_empty() || state.has_looks();
                (state.missing(), over || reader.surroundings.closing.has_ended(), state.held.ask_again_at())
            };
            if over {
                stop.cancel();
            }
            if missing > 0 && !over {
                satisfied_since = None;
                if stop.is_cancelled() {
                    (stop, swept) = (Arc::default(), false);
                }
                if several && !swept {
                    // With messages waiting everywhere, blocking reads would take more than is wanted, one from each
                    // shard.
                    swept = true;
                    self.sweep(&mut idle, missing).await;
                    continue;
                }
                let is_free = |(_, lane): &mut (usize, &mut FetchLoop)| !lane.is_blocked_by(&reader.state().held);
                for (place, lane) in idle.extract_if(.., is_free) {
                    let failed = self.failures.of(place);
                    reads.0.push(Box::pin(wait(lane, place, missing, failed, stop.clone())));
                }
            } else {
                satisfied_since.get_or_insert_with(Instant::now);
                if reads.0.is_empty() {
                    return;
                }
            }
            tokio::select! {
                Report { lane, place, result } = reads.next() => {
                    self.note(place, lane, &result);
                    if let Ok(Some(read)) = result {
                        accept(self.reader, &mut *self.sorter, &lane.shard, read).await;
                    }
                    idle.push((place, lane));
                }
                () = changed => {}
                () = until(report) => self.report(),
                () = until(ask_again_at) => ask_again(reader, &mut *self.sorter).await,
                () = reader.surroundings.closing.token().cancelled(), if !stop.is_cancelled() => {}
                () = until(satisfied_since.map(|since| since + LINGER)), if !stop.is_cancelled() => stop.cancel(),
            }
        }
    }

    /// Notes how a read by a lane has ended; tells consumers when nothing can come any more.
    fn note(&mut self, place: usize, lane: &FetchLoop, result: &Result<Option<Read>, Fault>) {
        if !self.failures.note(place, lane, result) {
            return;
        }
        self.reader.state().outage = self.failures.present();
        if self.failures.report_due().is_some_and(|due| due <= Instant::now()) {
            self.report();
        }
    }

    /// Tells consumers of the present outage.
    fn report(&mut self) {
        self.failures.reported();
        let waiters = {
            let mut state = self.reader.state();
            state.reports += 1;
            state.all_waiters()
        };
        waiters.into_iter().for_each(Waker::wake);
    }

    /// Puts the parcels that `chosen` picks back at the heads of their channels, if still nobody wants anything. Those
    /// whose server is away for longer than `patience` are kept.
    async fn put_back(&mut self, chosen: impl Fn(&BufferedEntry) -> bool, patience: Duration) {
        let parcels = {
            let mut state = self.reader.state();
            if state.wanted > 0 && !state.is_closed() {
                return;
            }
            let (parcels, others) = state.take_all().into_iter().partition::<Vec<_>, _>(chosen);
            state.prepend(others);
            parcels
        };
        let PutBack { kept, refused, lost } =
            put_back(&*self.reader.surroundings.format, parcels, Instant::now() + patience).await;
        self.stuck = !kept.is_empty();
        let mut state = self.reader.state();
        if !state.is_closed() {
            state.prepend(kept);
            drop(state);
            if let Some((shard, fault)) = lost {
                // A close that may come much later has not failed for that.
                let error = self.reader.surroundings.places.error(shard, fault);
                warn!(shard, %error, "messages that nobody came for could not be put back");
            }
            return;
        }
        drops::count(DropReason::ShardDown, kept.iter().map(BufferedEntry::left).sum());
        state.lost = lost.or(refused);
        if state.lost.is_some() && self.reader.surroundings.closing.has_ended() {
            (*self.reader.surroundings.lost.lock()).clone_from(&state.lost);
        }
    }

    /// Gives what is here to the readers that have claimed these channels before `ticket`, unless somebody here waits
    /// for it too.
    fn hand_over(&mut self, ticket: u64) {
        let mut state = self.reader.state();
        let (now, later): (Vec<_>, _) =
            std::mem::take(&mut state.successors).into_iter().partition(|successor| successor.ticket < ticket);
        state.successors = later;
        let wanted = state.wanted > 0 && !state.is_closed();
        drop(state);
        for NextOwner { reader, done, .. } in now {
            if !wanted {
                self.reader.bequeath(&reader);
            }
            // It may have gone in the meantime.
            let _ = done.send(());
        }
    }

    /// Ends the reader: consumers get nothing more, and what is left goes back.
    async fn close(&mut self) {
        let waiters = {
            let mut state = self.reader.state();
            state.reach(Phase::Closed);
            state.looks.clear();
            state.all_waiters()
        };
        waiters.into_iter().for_each(Waker::wake);
        self.hand_over(u64::MAX);
        self.put_back(|_| true, PUT_BACK_PATIENCE).await;
    }
}
