//! Which of the two layers carries messages, and the way back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::try_join_all;
use parking_lot::Mutex;
use tokio::sync::{Notify, broadcast};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::fallback::journal::{Change, Due, Key, MembershipJournal};
use crate::layer::{ChannelLayer, Event, Hysteresis, Mode, Modes};
use crate::memory::MemoryLayer;

/// How often the servers are looked at. Most outages are known before, from an event or a call that failed.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often changes that do not matter any more are forgotten.
const PRUNE_EVERY: Duration = Duration::from_mins(1);
/// How many memberships are told of at once.
const TOLD_AT_ONCE: usize = 64;
/// How long telling the remote layer of memberships pauses when it fails.
const PAUSE: Duration = Duration::from_millis(250);

/// What the layer, its receivers and the task that leads back share.
pub(crate) struct Guard {
    pub(crate) modes: Arc<Modes>,
    /// The layer of this process. It has the memberships that this process has made, each until its end.
    pub(crate) local: Arc<MemoryLayer>,
    /// Held to change a membership here and to note that, or to find that no change is left and to return. So every
    /// change is either told before the return or goes to the remote layer itself.
    pub(crate) journal: Mutex<MembershipJournal>,
    /// Counts how often the remote layer may have lost memberships.
    pub(crate) losses: AtomicU64,
    return_after: Duration,
    /// Counts the outages, odd while there is one. Changed under `turn`.
    epoch: Arc<AtomicU64>,
    /// Held to change epoch and mode together, so that they always say the same.
    turn: Mutex<Hysteresis>,
    pub(crate) left: Notify,
}

impl Guard {
    /// Of a remote layer that is there. `local` knows messages by `epoch`.
    pub(crate) fn new(
        local: Arc<MemoryLayer>,
        epoch: Arc<AtomicU64>,
        return_after: Duration,
        modes: Arc<Modes>,
    ) -> Self {
        let mut hysteresis = Hysteresis::new(return_after);
        hysteresis.arrived();
        Self {
            modes,
            local,
            journal: Mutex::default(),
            losses: AtomicU64::new(0),
            return_after,
            epoch,
            turn: Mutex::new(hysteresis),
            left: Notify::new(),
        }
    }

    /// Counts the outages: odd while messages stay in this process.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::SeqCst)
    }

    /// Whether messages stay in this process.
    pub(crate) fn is_local(&self) -> bool {
        self.epoch() % 2 == 1
    }

    /// Keeps messages in this process from now on, if they do not stay here already.
    pub(crate) fn leave(&self, reason: &str) {
        {
            let mut hysteresis = self.turn.lock();
            let change = |epoch: u64| epoch.is_multiple_of(2).then_some(epoch + 1);
            if self.epoch.fetch_update(Ordering::SeqCst, Ordering::SeqCst, change).is_ok() {
                hysteresis.departed();
                self.modes.leave(0, Mode::LocalOnly, reason);
            }
        }
        self.left.notify_one();
    }

    /// Leaves if a server of `remote` is known to be away; gives whether messages stay in this process.
    pub(crate) fn look(&self, remote: &impl ChannelLayer) -> bool {
        if let Some(shard) = remote.outage() {
            self.leave(&format!("server {shard} cannot be reached"));
        }
        self.is_local()
    }

    /// Leaves if `error` says that a server is away; gives whether it does.
    pub(crate) fn judge(&self, error: &Error) -> bool {
        if !error.is_outage() {
            return false;
        }
        self.leave(&error.to_string());
        true
    }

    /// Changes a membership of this process, and notes whether the remote layer has been `told`.
    pub(crate) fn note(&self, journal: &mut MembershipJournal, key: Key, change: Change, told: bool) -> Result<()> {
        let until = Instant::now() + self.local.group_expiry();
        match change {
            Change::Added => self.local.join(&key.0, key.1.clone(), until)?,
            Change::Discarded => self.local.part(&key.0, &key.1)?,
        }
        journal.note(key, change, until, told);
        Ok(())
    }

    /// Passes the events of `remote` on, and leads back to it after each outage, until `closing`.
    pub(crate) async fn watch(
        self: Arc<Self>,
        remote: Arc<impl ChannelLayer>,
        events: broadcast::Sender<Event>,
        closing: CancellationToken,
    ) {
        let heard = self.listen(&*remote, &events);
        let work = async {
            tokio::join!(heard, self.lead_back(&*remote), self.follow_discards(&*remote), self.prune());
        };
        closing.run_until_cancelled(work).await;
    }

    async fn listen(&self, remote: &impl ChannelLayer, events: &broadcast::Sender<Event>) {
        let mut heard = remote.events();
        loop {
            match heard.recv().await {
                Ok(event) => {
                    match &event {
                        Event::DataLost { .. } => self.tell_all_again(),
                        Event::ShardDown { reason, .. } => self.explain(reason),
                        _ => {}
                    }
                    // Nobody may listen.
                    let _ = events.send(event);
                    self.look(remote);
                }
                // What was missed shows in the next look; that data was lost may have been among it.
                Err(broadcast::error::RecvError::Lagged(_)) => self.tell_all_again(),
                Err(broadcast::error::RecvError::Closed) => return std::future::pending().await,
            }
        }
    }

    async fn lead_back(&self, remote: &impl ChannelLayer) {
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = look.tick() => {}
                () = self.left.notified() => {}
            }
            self.look(remote);
            let epoch = self.epoch();
            if self.is_local() {
                self.prove(remote).await;
            }
            if self.tell(remote, epoch).await.is_err() {
                sleep(PAUSE).await;
            }
        }
    }

    /// Waits until all servers have been there for as long as is required of them, and a message has come through or was refused:
    /// one that is paused for writes answers everything else.
    async fn prove(&self, remote: &impl ChannelLayer) {
        let mut look = interval(LOOK_EVERY.min(self.return_after / 4).max(Duration::from_millis(10)));
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut since, mut heard) = (None, remote.events());
        loop {
            look.tick().await;
            let now = Instant::now();
            let away = was_lost(&mut heard) || remote.outage().is_some();
            since = if away { None } else { since.or(Some(now)) };
            if let Some(began) = since.filter(|since| now >= *since + self.turn.lock().required(*since)) {
                let answered = Self::answers_probes(remote, began).await;
                if was_lost(&mut heard) {
                    since = None;
                } else if answered {
                    return;
                }
            }
        }
    }

    /// Whether a message was sent through each server after `since`, when it was there again. If one found its server away
    /// that shows in the events, since the server may be connected to again already.
    async fn answers_probes(remote: &impl ChannelLayer, since: Instant) -> bool {
        let there_for = since.elapsed();
        let health = remote.health().await;
        health.shards.iter().all(|shard| shard.probe.as_ref().is_none_or(|probe| probe.age <= there_for))
    }

    /// Tells the remote layer of all changes of memberships that it does not know of, and returns to it when there are
    /// none left and the outage is that of `epoch`, after which the servers have proven themselves.
    async fn tell(&self, remote: &impl ChannelLayer, epoch: u64) -> Result<()> {
        loop {
            let due = {
                let mut journal = self.journal.lock();
                let due = journal.due();
                if due.is_empty() {
                    self.arrive(epoch);
                    return Ok(());
                }
                due
            };
            // Each membership is there once, so that no two of these are about the same.
            for some in due.chunks(TOLD_AT_ONCE) {
                let telling: Vec<_> = some.iter().map(|due| self.tell_one(remote, due)).collect();
                try_join_all(telling).await?;
            }
        }
    }

    async fn tell_one(&self, remote: &impl ChannelLayer, due: &Due) -> Result<()> {
        let done = due.tell(remote).await;
        if let Err(error) = &done {
            self.judge(error);
        } else {
            let mut journal = self.journal.lock();
            journal.settle(due, self.present(&due.key));
        }
        done
    }

    /// Gives the reason of an outage that goes on.
    fn explain(&self, reason: &str) {
        let _turn = self.turn.lock();
        if self.is_local() {
            self.modes.leave(0, Mode::LocalOnly, reason);
        }
    }

    /// Ends the outage of `epoch`, if that is one and not over.
    fn arrive(&self, epoch: u64) {
        let mut hysteresis = self.turn.lock();
        if epoch % 2 == 1 && self.epoch.compare_exchange(epoch, epoch + 1, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            hysteresis.arrived();
            self.modes.arrive(0);
        }
    }

    async fn prune(&self) {
        loop {
            sleep(PRUNE_EVERY).await;
            self.journal.lock().prune();
        }
    }
}

/// Whether a server was lost by what was `heard` since the last call.
fn was_lost(heard: &mut broadcast::Receiver<Event>) -> bool {
    use broadcast::error::TryRecvError;
    let mut lost = false;
    loop {
        match heard.try_recv() {
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
    fn only_the_outage_in_which_servers_have_proven_themselves_is_over() {
        let (events, _) = broadcast::channel(1);
        let modes = Modes::new(1, events);
        let guard = Guard::new(Arc::default(), Arc::default(), Duration::ZERO, modes.clone());
        let state = || (guard.is_local(), *modes.watch().borrow());
        guard.arrive(0);
        assert_eq!(state(), (false, Mode::Remote));
        // It began while memberships were told, before anything was proven.
        guard.leave("gone");
        guard.arrive(0);
        assert_eq!(state(), (true, Mode::LocalOnly));
        guard.arrive(1);
        assert_eq!(state(), (false, Mode::Remote));
        guard.leave("gone again");
        guard.arrive(1);
        assert_eq!(state(), (true, Mode::LocalOnly));
    }
}
