//! The other processes of a hub: greeting them, and looking whether there are any.

use std::sync::Arc;

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, broadcast};
use tokio::time::{Instant, interval, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::layer::{ChannelLayer, Event};
use crate::server::hub::membership::reconciler::{Keeper, LEAVE_WITHIN, renewal};
use crate::server::hub::names::Names;
use crate::server::hub::peers::presence::{LEASE, LOOK_EVERY, Look, Presence};
use crate::server::hub::peers::wire;
use crate::supervise::contained;

pub(crate) struct Others {
    layer: Arc<dyn ChannelLayer>,
    names: Arc<Names>,
    /// Held for a look or a change, never across an await.
    presence: Mutex<Presence>,
    all_answered: Notify,
}

impl Others {
    pub(crate) fn new(layer: Arc<dyn ChannelLayer>, names: Arc<Names>) -> Self {
        Self { layer, names, presence: Mutex::default(), all_answered: Notify::new() }
    }

    /// Whether nobody else can have clients in a room.
    pub(crate) fn are_none(&self) -> bool {
        self.presence.lock().is_alone(Instant::now())
    }

    /// Whether the layer could be asked the last time.
    pub(crate) fn are_reachable(&self) -> bool {
        self.presence.lock().is_reachable()
    }

    /// Comes into the group of all processes, and waits until the others know.
    pub(crate) async fn come(&self) -> Result<()> {
        self.layer.group_add(self.names.everyone(), self.names.member()).await?;
        let known = Instant::now() + LEASE;
        if !self.layer.lists_all_members() {
            // Then none of the others ever believes to be alone either.
            self.presence.lock().answers();
            return Ok(());
        }
        let look = self.look().await?;
        if look.others.is_empty() {
            return Ok(());
        }
        self.presence.lock().greets(look.others);
        self.layer.group_send(self.names.everyone(), wire::hello(self.names.member())).await?;
        if timeout_at(known, self.all_answered.notified()).await.is_err() {
            tracing::info!("other processes of the hub do not answer, and may have ended without closing");
        }
        Ok(())
    }

    /// Another process greets: from now on nothing stays in this one. Gives whether it is to be answered.
    pub(crate) fn greeted(&self, channel: &str) -> bool {
        if channel == self.names.member() {
            return false;
        }
        self.presence.lock().greeted(Instant::now());
        true
    }

    /// Answers a greeting.
    pub(crate) async fn answer(&self, channel: &str) {
        if let Err(error) = self.layer.send(channel, wire::answer(self.names.member())).await {
            // It waits a moment longer then.
            tracing::debug!(%error, "a greeting could not be answered");
        }
    }

    pub(crate) fn answered(&self, channel: &str) {
        if self.presence.lock().answered(channel) {
            self.all_answered.notify_one();
        }
    }

    /// Looks at the group until `stop`, stays in it, and sees to it that groups are made again when the layer has lost
    /// them; leaves it in the end.
    pub(crate) async fn watch(
        self: Arc<Self>,
        keeper: Arc<Keeper>,
        events: broadcast::Receiver<Event>,
        stop: CancellationToken,
    ) {
        stop.run_until_cancelled(self.keep_watch(&keeper, events)).await;
        self.go().await;
    }

    async fn keep_watch(&self, keeper: &Keeper, mut events: broadcast::Receiver<Event>) {
        let mut looks = interval(LOOK_EVERY);
        let (every, mut renewed) = (renewal(self.layer.group_expiry()), Instant::now());
        // The others have not been told of a loss.
        let (mut ended, mut untold) = (false, false);
        loop {
            let lost = tokio::select! {
                _ = looks.tick() => false,
                event = events.recv(), if !ended => {
                    ended = matches!(event, Err(RecvError::Closed));
                    // Which events were missed is unknown.
                    matches!(event, Ok(Event::DataLost { .. }) | Err(RecvError::Lagged(_)))
                }
            };
            if lost {
                self.presence.lock().lost(Instant::now());
                keeper.lost();
            }
            untold |= lost;
            let due = renewed.elapsed() >= every;
            let stayed = contained("processes of the hub", self.stay(due, untold)).await;
            match stayed.unwrap_or(Err(Error::Panicked)) {
                Ok(missing) => {
                    untold = false;
                    if due {
                        renewed = Instant::now();
                    }
                    if missing && !lost {
                        keeper.lost();
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "the other processes of the hub are unknown");
                    self.presence.lock().failed();
                }
            }
        }
    }

    /// Leaves the group of all processes. Otherwise the others believe in this one until its membership ends.
    pub(crate) async fn go(&self) {
        let leaving = self.layer.group_discard(self.names.everyone(), self.names.member());
        if !matches!(timeout(LEAVE_WITHIN, leaving).await, Ok(Ok(()))) {
            tracing::debug!("the other processes of the hub cannot be told that this one ends");
        }
    }

    /// Looks, comes again if that is due or this process is missing, and greets the others if it is missing or data was
    /// lost; gives whether it was missing.
    async fn stay(&self, due: bool, lost: bool) -> Result<bool> {
        let lists = self.layer.lists_all_members();
        // Before this process adds itself, for then nobody can tell.
        let missing = lists && !self.look().await?.myself;
        if due || lost || missing {
            self.layer.group_add(self.names.everyone(), self.names.member()).await?;
        }
        if !lists {
            self.presence.lock().answers();
        } else if lost || missing {
            self.layer.group_send(self.names.everyone(), wire::hello(self.names.member())).await?;
        }
        Ok(missing)
    }

    async fn look(&self) -> Result<Look> {
        let began = Instant::now();
        let channels = self.layer.group_channels(self.names.everyone()).await?;
        let (myself, others): (Vec<_>, Vec<_>) =
            channels.into_iter().map(|channel| channel.to_string()).partition(|channel| channel == self.names.member());
        let look = Look { began, myself: !myself.is_empty(), others };
        self.presence.lock().looked(&look);
        Ok(look)
    }
}
