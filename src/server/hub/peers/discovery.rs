//! `PeerDiscovery`: announces this process, and finds out whether there are other processes.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, broadcast};
use tokio::time::{Instant, interval, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::layer::{ChannelLayer, Event};
use crate::server::hub::membership::reconciler::{LEAVE_TIMEOUT, MembershipReconciler, renewal_interval};
use crate::server::hub::names::Names;
use crate::server::hub::peers::state::{LEASE, POLL_EVERY, PeerPoll, PeerState};
use crate::server::hub::peers::wire;
use crate::supervise::contained;

pub(crate) struct PeerDiscovery {
    layer: Arc<dyn ChannelLayer>,
    names: Arc<Names>,
    /// Locked for one query or change, never across an await.
    state: Mutex<PeerState>,
    all_answered: Notify,
}

impl PeerDiscovery {
    pub(crate) fn new(layer: Arc<dyn ChannelLayer>, names: Arc<Names>) -> Self {
        Self { layer, names, state: Mutex::default(), all_answered: Notify::new() }
    }

    /// Whether no other process can have clients.
    pub(crate) fn is_alone(&self) -> bool {
        self.state.lock().is_alone(Instant::now())
    }

    /// Whether the last query of the layer succeeded.
    pub(crate) fn is_reachable(&self) -> bool {
        self.state.lock().is_reachable()
    }

    /// Joins the group of all processes, and waits until the others know this process.
    pub(crate) async fn announce(&self) -> Result<()> {
        self.layer.group_add(self.names.everyone(), self.names.member()).await?;
        let deadline = Instant::now() + LEASE;
        if !self.layer.lists_all_members() {
            // On such a layer no process ever considers itself alone.
            self.state.lock().mark_reachable();
            return Ok(());
        }
        let poll = self.poll().await?;
        if poll.others.is_empty() {
            return Ok(());
        }
        self.state.lock().expect_answers(poll.others);
        self.layer.group_send(self.names.everyone(), wire::hello(self.names.member())).await?;
        if timeout_at(deadline, self.all_answered.notified()).await.is_err() {
            tracing::info!("some processes of the hub do not answer, and may have ended without closing");
        }
        Ok(())
    }

    /// Handles the announcement of another process: from now on messages leave this process. Returns whether to answer.
    pub(crate) fn on_hello(&self, channel: &str) -> bool {
        if channel == self.names.member() {
            return false;
        }
        self.state.lock().peer_seen(Instant::now());
        true
    }

    /// Answers an announcement.
    pub(crate) async fn answer(&self, channel: &str) {
        if let Err(error) = self.layer.send(channel, wire::answer(self.names.member())).await {
            // The other process then waits for the whole lease.
            tracing::debug!(%error, "cannot answer the announcement of another process");
        }
    }

    pub(crate) fn on_answer(&self, channel: &str) {
        if self.state.lock().answer_received(channel) {
            self.all_answered.notify_one();
        }
    }

    /// Polls the group and renews the membership of this process until `stop` is cancelled. Tells `reconciler` if the
    /// layer lost its groups. Leaves the group at the end.
    pub(crate) async fn watch(
        self: Arc<Self>,
        reconciler: Arc<MembershipReconciler>,
        events: broadcast::Receiver<Event>,
        stop: CancellationToken,
    ) {
        stop.run_until_cancelled(self.run(&reconciler, events)).await;
        self.leave().await;
    }

    async fn run(&self, reconciler: &MembershipReconciler, mut events: broadcast::Receiver<Event>) {
        let mut ticks = interval(POLL_EVERY);
        let (every, mut renewed) = (renewal_interval(self.layer.group_expiry()), Instant::now());
        // Whether a loss of data has yet to be announced to the others.
        let (mut ended, mut unannounced) = (false, false);
        loop {
            let lost = tokio::select! {
                _ = ticks.tick() => false,
                event = events.recv(), if !ended => {
                    ended = matches!(event, Err(RecvError::Closed));
                    // A missed event may have been a loss of data.
                    matches!(event, Ok(Event::DataLost { .. }) | Err(RecvError::Lagged(_)))
                }
            };
            if lost {
                self.state.lock().data_lost(Instant::now());
                reconciler.groups_lost();
            }
            unannounced |= lost;
            let due = renewed.elapsed() >= every;
            let refreshed = contained("processes of the hub", self.refresh(due, unannounced)).await;
            match refreshed.unwrap_or(Err(Error::Panicked)) {
                Ok(missing) => {
                    unannounced = false;
                    if due {
                        renewed = Instant::now();
                    }
                    if missing && !lost {
                        reconciler.groups_lost();
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "cannot query the other processes of the hub");
                    self.state.lock().poll_failed();
                }
            }
        }
    }

    /// Leaves the group of all processes. Otherwise the other processes would send messages to this one until its
    /// membership expires.
    pub(crate) async fn leave(&self) {
        let leaving = self.layer.group_discard(self.names.everyone(), self.names.member());
        if !matches!(timeout(LEAVE_TIMEOUT, leaving).await, Ok(Ok(()))) {
            tracing::debug!("cannot leave the group of the hub's processes");
        }
    }

    /// Polls the group. Adds this process again if that is due, if it is missing, or if data was lost. Announces it in
    /// the last two cases. Returns whether it was missing.
    async fn refresh(&self, due: bool, lost: bool) -> Result<bool> {
        let lists_all = self.layer.lists_all_members();
        // Checked before this process adds itself, which would hide it.
        let missing = lists_all && !self.poll().await?.myself;
        if due || lost || missing {
            self.layer.group_add(self.names.everyone(), self.names.member()).await?;
        }
        if !lists_all {
            self.state.lock().mark_reachable();
        } else if lost || missing {
            self.layer.group_send(self.names.everyone(), wire::hello(self.names.member())).await?;
        }
        Ok(missing)
    }

    async fn poll(&self) -> Result<PeerPoll> {
        let began = Instant::now();
        let channels = self.layer.group_channels(self.names.everyone()).await?;
        let (myself, others): (Vec<_>, Vec<_>) =
            channels.into_iter().map(|channel| channel.to_string()).partition(|channel| channel == self.names.member());
        let poll = PeerPoll { began, myself: !myself.is_empty(), others };
        self.state.lock().polled(&poll);
        Ok(poll)
    }
}
