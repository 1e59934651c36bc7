//! Whether the server of a [`Shard`] is up, and how to wait for it.

use std::time::Duration;

use super::{NotConnected, Shard, State};
use crate::redis::node::connection::ServerConnection;
use crate::redis::node::fault::Fault;

impl Shard {
    /// Whether the server is down with `fault` because the cluster replaces its master. Calls wait for the new master
    /// for the command timeout, so up to then this is no outage. Nor is a node of a cluster missed that has no slots.
    pub(super) fn is_being_replaced(&self, fault: &Fault) -> bool {
        let waits = fault.redirect.is_some() && self.status.down_for() <= self.command_timeout();
        self.source.is_cluster() && (waits || !self.source.has_slots())
    }

    /// The current connection.
    pub(crate) fn connection(&self) -> Result<ServerConnection, Fault> {
        match &*self.state.borrow() {
            State::Up(connection) => Ok(connection.clone()),
            State::Down(fault) => Err(fault.clone()),
        }
    }

    /// The generation of the current connection.
    pub(crate) fn generation(&self) -> Result<u64, Fault> {
        match &*self.state.borrow() {
            State::Up(connection) => Ok(connection.generation),
            State::Down(fault) => Err(fault.clone()),
        }
    }

    /// Why the server is down, unless its cluster is replacing it. `None` if it is up.
    pub(crate) fn outage(&self) -> Option<Fault> {
        self.fault().filter(|fault| !self.is_being_replaced(fault))
    }

    /// Why the server is down. `None` if it is up.
    pub(crate) fn fault(&self) -> Option<Fault> {
        self.generation().err()
    }

    /// The time of the server in ms since the epoch, if it is up.
    pub(crate) fn now_ms(&self) -> Result<u64, Fault> {
        match &*self.state.borrow() {
            // The clock was read before the server counted as up.
            State::Up(_) => self.clock.now_ms().ok_or_else(|| Fault::unsent(NotConnected)),
            State::Down(fault) => Err(fault.clone()),
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        matches!(&*self.state.borrow(), State::Up(_))
    }

    /// How long the server has been unreachable; zero if it is up.
    pub(crate) fn down_for(&self) -> Duration {
        if self.is_up() { Duration::ZERO } else { self.status.down_for() }
    }

    /// Waits until the server is up.
    pub(crate) async fn up(&self) -> ServerConnection {
        self.up_or(|_| {}).await
    }

    /// Waits until the server is up. Calls `on_down` with the reason now and after each failed attempt.
    pub(crate) async fn up_or(&self, mut on_down: impl FnMut(&Fault)) -> ServerConnection {
        let mut states = self.state.subscribe();
        loop {
            let state = states.borrow_and_update().clone();
            match state {
                State::Up(connection) => return connection,
                State::Down(fault) => on_down(&fault),
            }
            // The sender lives in `self`, so that the wait cannot fail.
            let _ = states.changed().await;
        }
    }

    /// Waits until the connection of `generation` is lost or replaced. Returns the reason.
    pub(crate) async fn wait_until_lost(&self, generation: u64) -> Fault {
        let mut states = self.state.subscribe();
        loop {
            match &*states.borrow_and_update() {
                State::Up(connection) if connection.generation == generation => {}
                State::Up(_) => return Fault::unsent(NotConnected),
                State::Down(fault) => return fault.clone(),
            }
            // The sender lives in `self`, so that the wait cannot fail.
            let _ = states.changed().await;
        }
    }
}
