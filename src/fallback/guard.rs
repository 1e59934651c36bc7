//! Which of the two layers carries messages, and the way back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, broadcast};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::ledger::{Change, Ledger};
use crate::error::{Error, Result};
use crate::layer::{ChannelLayer, Event, Mode, Modes};

/// How often the servers are looked at. Most outages are known before, from an event or a call that failed.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often memberships that have expired are forgotten.
const PRUNE_EVERY: Duration = Duration::from_mins(1);
/// How long telling the remote layer of memberships pauses when it fails.
const PAUSE: Duration = Duration::from_millis(250);

/// What the layer, its receivers and the task that leads back share.
pub(super) struct Guard {
    pub(super) modes: Arc<Modes>,
    /// Held to note a change, or to find that there is none left and to return. So every change is either told before the
    /// return or goes to the remote layer itself.
    pub(super) ledger: Mutex<Ledger>,
    return_after: Duration,
    /// Counts the outages, odd while there is one.
    epoch: AtomicU64,
    left: Notify,
}

impl Guard {
    pub(super) fn new(ledger: Ledger, return_after: Duration, modes: Arc<Modes>) -> Self {
        Self { modes, ledger: Mutex::new(ledger), return_after, epoch: AtomicU64::new(0), left: Notify::new() }
    }

    /// Counts the outages: odd while messages stay in this process.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::SeqCst)
    }

    /// Whether messages stay in this process.
    pub(super) fn is_local(&self) -> bool {
        self.epoch() % 2 == 1
    }

    /// Keeps messages in this process from now on.
    pub(super) fn leave(&self, reason: &str) {
        let change = |epoch: u64| epoch.is_multiple_of(2).then_some(epoch + 1);
        if self.epoch.fetch_update(Ordering::SeqCst, Ordering::SeqCst, change).is_ok() {
            self.modes.leave(0, Mode::LocalOnly, reason);
        }
        self.left.notify_one();
    }

    /// Leaves if a server of `remote` is known to be away; gives whether messages stay in this process.
    pub(super) fn look(&self, remote: &impl ChannelLayer) -> bool {
        if let Some(shard) = remote.outage() {
            self.leave(&format!("server {shard} cannot be reached"));
        }
        self.is_local()
    }

    /// Leaves if `error` says that a server is away; gives whether it does.
    pub(super) fn judge(&self, error: &Error) -> bool {
        if !error.is_outage() {
            return false;
        }
        self.leave(&error.to_string());
        true
    }

    /// Passes the events of `remote` on, and leads back to it after each outage, until `closing`.
    pub(super) async fn watch(
        self: Arc<Self>,
        remote: Arc<impl ChannelLayer>,
        events: broadcast::Sender<Event>,
        closing: CancellationToken,
    ) {
        let heard = self.listen(&*remote, &events);
        let work = async {
            tokio::join!(heard, self.lead_back(&*remote), self.prune());
        };
        closing.run_until_cancelled(work).await;
    }

    async fn listen(&self, remote: &impl ChannelLayer, events: &broadcast::Sender<Event>) {
        let mut heard = remote.events();
        loop {
            match heard.recv().await {
                Ok(event) => {
                    if let Event::DataLost { .. } = event {
                        self.ledger.lock().forget_told();
                        self.left.notify_one();
                    }
                    // Nobody may listen.
                    let _ = events.send(event);
                    self.look(remote);
                }
                // What was missed shows in the next look; that data was lost may have been among it.
                Err(broadcast::error::RecvError::Lagged(_)) => self.ledger.lock().forget_told(),
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
            if self.is_local() {
                self.prove(remote).await;
            }
            if self.tell(remote).await.is_err() {
                sleep(PAUSE).await;
            }
        }
    }

    /// Waits until all servers have been there for as long as is asked of them.
    async fn prove(&self, remote: &impl ChannelLayer) {
        let mut look = interval(LOOK_EVERY.min(self.return_after / 4).max(Duration::from_millis(10)));
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut since = None;
        loop {
            look.tick().await;
            let now = Instant::now();
            let away = remote.outage().is_some();
            since = if away { None } else { since.or(Some(now)) };
            if since.is_some_and(|since| now >= since + self.return_after) {
                return;
            }
        }
    }

    /// Tells the remote layer of all changes of memberships that it does not know of, and returns to it when there are
    /// none left.
    async fn tell(&self, remote: &impl ChannelLayer) -> Result<()> {
        loop {
            let due = {
                let mut ledger = self.ledger.lock();
                let due = ledger.due();
                if due.is_empty() {
                    self.arrive();
                    return Ok(());
                }
                due
            };
            for due in due {
                let (group, channel) = &due.key;
                let done = match due.change {
                    Change::Added => remote.group_add(group.as_str(), channel.as_str()).await,
                    Change::Discarded => remote.group_discard(group.as_str(), channel.as_str()).await,
                };
                if let Err(error) = done {
                    self.judge(&error);
                    return Err(error);
                }
                self.ledger.lock().settle(&due);
            }
        }
    }

    fn arrive(&self) {
        let change = |epoch: u64| (epoch % 2 == 1).then_some(epoch + 1);
        if self.epoch.fetch_update(Ordering::SeqCst, Ordering::SeqCst, change).is_ok() {
            self.modes.arrive(0);
        }
    }

    async fn prune(&self) {
        loop {
            sleep(PRUNE_EVERY).await;
            self.ledger.lock().prune();
        }
    }
}
