//! `FailoverState`: which of the two layers is in use, and the return to the remote layer.

use std::error::Error as StdError;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::sync::{Notify, broadcast};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::error::{Error, Result};
use crate::fallback::journal::{Change, Key, MembershipJournal, PendingChange};
use crate::layer::{ChannelLayer, Event, Hysteresis, Mode, Modes};
use crate::memory::MemoryLayer;
use crate::supervise::{contain, contained};

/// Name of the failover task in reports of panics.
pub(crate) const TASK: &str = "failover";

/// Interval of checking the servers. Most outages are noticed earlier, from an event or a failed call.
const CHECK_EVERY: Duration = Duration::from_millis(100);
/// Interval of [`MembershipJournal::prune`].
const PRUNE_EVERY: Duration = Duration::from_mins(1);
/// Number of membership changes that are replayed concurrently.
const REPLAYS_AT_ONCE: usize = 64;
/// Pause after a replay that an outage or a panic has interrupted.
const PAUSE: Duration = Duration::from_millis(250);

/// State shared by the layer, its receivers and the failover task.
pub(crate) struct FailoverState {
    pub(crate) modes: Arc<Modes>,
    /// The local layer. It holds the memberships that this process has made, each until its end.
    pub(crate) local: Arc<MemoryLayer>,
    /// Locked while a membership is changed here and recorded, and while the layer checks that no change is pending and
    /// returns to the remote layer. Every change is therefore replayed before the return, unless the remote layer
    /// refuses it, or sent to the remote layer directly.
    pub(crate) journal: Mutex<MembershipJournal>,
    /// Number of times that the remote layer may have lost memberships.
    pub(crate) losses: AtomicU64,
    return_after: Duration,
    /// Number of changes of mode; odd during an outage. Changed while `transition` is locked.
    epoch: Arc<AtomicU64>,
    /// Locked to change epoch and mode together.
    transition: Mutex<Hysteresis>,
    /// Wakes the failover task before its next check.
    pub(crate) wake: Notify,
}

impl FailoverState {
    /// Starts with a reachable remote layer. `local` marks messages with `epoch`.
    pub(crate) fn new(
        local: Arc<MemoryLayer>,
        epoch: Arc<AtomicU64>,
        return_after: Duration,
        modes: Arc<Modes>,
    ) -> Self {
        let mut hysteresis = Hysteresis::new(return_after);
        hysteresis.mark_used();
        Self {
            modes,
            local,
            journal: Mutex::default(),
            losses: AtomicU64::new(0),
            return_after,
            epoch,
            transition: Mutex::new(hysteresis),
            wake: Notify::new(),
        }
    }

    /// Returns the number of changes of mode: odd while messages stay in this process.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::SeqCst)
    }

    /// Whether messages stay in this process.
    pub(crate) fn is_local(&self) -> bool {
        self.epoch() % 2 == 1
    }

    /// Falls back to the local layer, unless it is in use already.
    pub(crate) fn fall_back(&self, reason: &str) {
        {
            let mut hysteresis = self.transition.lock();
            let change = |epoch: u64| epoch.is_multiple_of(2).then_some(epoch + 1);
            if self.epoch.fetch_update(Ordering::SeqCst, Ordering::SeqCst, change).is_ok() {
                hysteresis.mark_lost();
                self.modes.mark_unreachable(0, Mode::LocalOnly, reason);
            }
        }
        self.modes.report();
        self.wake.notify_one();
    }

    /// Falls back if `remote` knows that a server is unreachable. Returns whether messages stay in this process.
    pub(crate) fn check_outage(&self, remote: &(impl ChannelLayer + ?Sized)) -> bool {
        if let Some(shard) = remote.outage() {
            self.fall_back(&format!("server {shard} cannot be reached"));
        }
        self.is_local()
    }

    /// Falls back if `error` reports an unreachable server. Returns whether it does.
    pub(crate) fn check_error(&self, error: &Error) -> bool {
        if !error.is_outage() {
            return false;
        }
        self.fall_back(&error.to_string());
        true
    }

    /// Changes a membership of this process. `synced` says whether the remote layer has received the change.
    pub(crate) fn record(
        &self,
        journal: &mut MembershipJournal,
        key: Key,
        change: Change,
        lasts: Duration,
        synced: bool,
    ) -> Result<()> {
        let mut until = Instant::now() + lasts;
        match change {
            Change::Added => {
                self.local.add_member(&key.0, key.1.clone(), until)?;
                // A membership that lasts longer keeps its end.
                until = self.local.membership_end(&key.0, &key.1).unwrap_or(until);
            }
            Change::Discarded => self.local.remove_member(&key.0, &key.1)?,
        }
        journal.record(key, change, until, synced);
        Ok(())
    }

    /// Runs the failover task until `closing` is cancelled: forwards `remote_events`, the events of `remote`, returns
    /// to `remote` after each outage, and keeps the memberships of both layers in step. A panic, for example of
    /// `remote`, ends only one step of this task.
    pub(crate) async fn watch(
        self: Arc<Self>,
        remote: Arc<impl ChannelLayer + ?Sized>,
        remote_events: broadcast::Receiver<Event>,
        events: broadcast::Sender<Event>,
        closing: CancellationToken,
    ) {
        let forwarding = self.forward_events(&*remote, remote_events, &events);
        let work = async {
            tokio::join!(forwarding, self.recover(&*remote), self.sync_discards(&*remote), self.prune());
        };
        closing.run_until_cancelled(work).await;
    }

    async fn forward_events(
        &self,
        remote: &(impl ChannelLayer + ?Sized),
        mut events: broadcast::Receiver<Event>,
        sender: &broadcast::Sender<Event>,
    ) {
        let forward = |event| {
            match &event {
                Event::DataLost { .. } => self.replay_all(),
                Event::ShardDown { reason, .. } => self.update_reason(reason),
                _ => {}
            }
            // Fails only if there is no receiver.
            let _ = sender.send(event);
            self.check_outage(remote);
        };
        loop {
            match events.recv().await {
                Ok(event) => drop(contain(TASK, || forward(event))),
                // The next check finds a missed outage. A missed event may have been a loss of data.
                Err(broadcast::error::RecvError::Lagged(_)) => self.replay_all(),
                Err(broadcast::error::RecvError::Closed) => return std::future::pending().await,
            }
        }
    }

    async fn recover(&self, remote: &(impl ChannelLayer + ?Sized)) {
        let mut ticks = interval(CHECK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut retry_at, mut backoff) = (None, Backoff::outage());
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.wake.notified() => {}
            }
            if !matches!(contained(TASK, self.recover_once(remote)).await, Some(Ok(()))) {
                sleep(PAUSE).await;
                continue;
            }
            let refused = self.journal.lock().refused_changes();
            if refused.is_empty() {
                (retry_at, backoff) = (None, Backoff::outage());
            } else if retry_at.is_none_or(|retry_at| Instant::now() >= retry_at) {
                if retry_at.is_some() {
                    // If this notices an outage, it has fallen back, and the next round waits for the end.
                    let _ = self.replay_changes(remote, &refused).await;
                }
                retry_at = Some(Instant::now() + backoff.pause());
            }
        }
    }

    /// Replays all pending membership changes to the remote layer. During an outage waits for its end first, and
    /// then returns to the remote layer.
    async fn recover_once(&self, remote: &(impl ChannelLayer + ?Sized)) -> Result<()> {
        self.check_outage(remote);
        let epoch = self.epoch();
        if self.is_local() {
            self.wait_until_stable(remote).await;
            self.journal.lock().forget_refusals();
        }
        self.replay(remote, epoch).await
    }

    /// Waits until all servers have been reachable for the required time and have taken or refused a probe message. A
    /// server that is paused for writes answers all commands but writes.
    async fn wait_until_stable(&self, remote: &(impl ChannelLayer + ?Sized)) {
        let mut ticks = interval(CHECK_EVERY.min(self.return_after / 4).max(Duration::from_millis(10)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut since, mut events) = (None, remote.events());
        loop {
            ticks.tick().await;
            let now = Instant::now();
            let lost = was_lost(&mut events) || remote.outage().is_some();
            since = if lost { None } else { since.or(Some(now)) };
            if let Some(began) = since.filter(|since| now >= *since + self.transition.lock().required(*since)) {
                let probed = Self::all_probed_since(remote, began).await;
                if was_lost(&mut events) {
                    since = None;
                } else if probed {
                    return;
                }
            }
        }
    }

    /// Returns whether each server has completed a probe after `since`, the time at which it was reachable again.
    /// Whether the probe found its server unreachable is left to the events, because the server may be connected again
    /// already.
    async fn all_probed_since(remote: &(impl ChannelLayer + ?Sized), since: Instant) -> bool {
        let since = since.elapsed();
        let health = remote.health().await;
        health.shards.iter().all(|shard| shard.probe.as_ref().is_none_or(|probe| probe.age <= since))
    }

    /// Replays all pending membership changes to the remote layer. When none is left but refused ones, returns to the
    /// remote layer if `epoch` is the present outage, because the servers have been probed during it.
    async fn replay(&self, remote: &(impl ChannelLayer + ?Sized), epoch: u64) -> Result<()> {
        loop {
            let changes = {
                let mut journal = self.journal.lock();
                let changes = journal.pending_changes();
                if changes.is_empty() {
                    self.return_to_remote(epoch);
                }
                changes
            };
            if changes.is_empty() {
                self.modes.report();
                return Ok(());
            }
            self.replay_changes(remote, &changes).await?;
        }
    }

    /// Replays `changes`. Fails in an outage. Changes that the remote layer refuses do not stop the others.
    async fn replay_changes(&self, remote: &(impl ChannelLayer + ?Sized), changes: &[PendingChange]) -> Result<()> {
        let (mut refused, mut first_refusal, mut result) = (0, None, Ok(()));
        // Each membership has one pending change, so the concurrent replays do not conflict.
        for batch in changes.chunks(REPLAYS_AT_ONCE) {
            let replays: Vec<_> = batch.iter().map(|change| self.replay_one(remote, change)).collect();
            for (change, replayed) in batch.iter().zip(join_all(replays).await) {
                match replayed {
                    Ok(()) => {}
                    Err(error) if self.check_error(&error) || error.is_closed() => result = Err(error),
                    Err(error) => {
                        if self.journal.lock().refuse(change) {
                            refused += 1;
                            first_refusal.get_or_insert((&change.key.0, error));
                        }
                    }
                }
            }
            if result.is_err() {
                break;
            }
        }
        if let Some((group, error)) = &first_refusal {
            let error: &dyn StdError = error;
            tracing::warn!(%group, error, refused, "the server refuses changes of memberships, which are retried");
        }
        result
    }

    async fn replay_one(&self, remote: &(impl ChannelLayer + ?Sized), change: &PendingChange) -> Result<()> {
        let result = contained(TASK, change.replay(remote)).await.unwrap_or(Err(Error::Panicked));
        if result.is_ok() {
            let mut journal = self.journal.lock();
            journal.confirm(change, self.current(&change.key));
        }
        result
    }

    /// Updates the reason of the present outage.
    fn update_reason(&self, reason: &str) {
        {
            let _transition = self.transition.lock();
            if self.is_local() {
                self.modes.mark_unreachable(0, Mode::LocalOnly, reason);
            }
        }
        self.modes.report();
    }

    /// Ends the outage `epoch`. Has no effect if `epoch` is not an outage, or has ended. The caller reports the change
    /// of mode after it has released the lock of the journal.
    fn return_to_remote(&self, epoch: u64) {
        let mut hysteresis = self.transition.lock();
        if epoch % 2 == 1 && self.epoch.compare_exchange(epoch, epoch + 1, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            hysteresis.mark_used();
            self.modes.mark_remote(0);
        }
    }

    async fn prune(&self) {
        loop {
            sleep(PRUNE_EVERY).await;
            contain(TASK, || self.journal.lock().prune());
        }
    }
}

/// Whether `events` report a lost server since the last call.
fn was_lost(events: &mut broadcast::Receiver<Event>) -> bool {
    use broadcast::error::TryRecvError;
    let mut lost = false;
    loop {
        match events.try_recv() {
            Ok(event) => lost |= matches!(event, Event::ShardDown { .. }),
            Err(TryRecvError::Lagged(_)) => lost = true,
            Err(TryRecvError::Empty | TryRecvError::Closed) => return lost,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_outage_that_was_probed_ends() {
        let (events, _) = broadcast::channel(1);
        let modes = Modes::new(1, events);
        let state = FailoverState::new(Arc::default(), Arc::default(), Duration::ZERO, modes.clone());
        let seen = || {
            modes.report();
            (state.is_local(), *modes.watch().borrow())
        };
        state.return_to_remote(0);
        assert_eq!(seen(), (false, Mode::Remote));
        // The outage began during the replay, before any probe.
        state.fall_back("gone");
        state.return_to_remote(0);
        assert_eq!(seen(), (true, Mode::LocalOnly));
        state.return_to_remote(1);
        assert_eq!(seen(), (false, Mode::Remote));
        state.fall_back("gone again");
        state.return_to_remote(1);
        assert_eq!(seen(), (true, Mode::LocalOnly));
    }
}
