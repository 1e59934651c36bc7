//! Removes what an inbox no longer needs.

use std::sync::{Arc, Weak};
use std::time::Duration;

use channel_layer::Message;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::channel::{Channel, ChannelState, Source};
use super::delivery::Held;
use crate::core::Core;

/// The pause between two sweeps. A message that was returned and that no call of this process takes meanwhile goes back
/// to the server, where other processes can take it.
const PAUSE: Duration = Duration::from_secs(1);

/// Sweeps until the inbox is empty.
pub(super) async fn run(core: Weak<Core>) {
    let mut ticks = interval(PAUSE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    loop {
        ticks.tick().await;
        let Some(core) = core.upgrade() else { return };
        let returned = sweep(&core);
        requeue(&core, returned).await;
        let mut registry = core.inbox.registry.lock();
        if registry.channels.is_empty() && registry.pumps.is_empty() {
            registry.is_swept = false;
            return;
        }
    }
}

/// Removes expired messages, unused channels and unused pumps. Returns the messages that go back to the server.
fn sweep(core: &Core) -> Vec<(Arc<Channel>, Held)> {
    let now = Instant::now();
    let (mut returned, mut unused) = (Vec::new(), Vec::new());
    let mut registry = core.inbox.registry.lock();
    registry.channels.retain(|_, channel| {
        let mut state = channel.state();
        state.queue.retain(|held| held.expires > now);
        let idle = if state.waiters.is_empty() { now - state.idle_since } else { Duration::ZERO };
        if idle >= PAUSE && matches!(state.source, Source::Receiver(_)) && core.returns_messages() {
            returned.extend(state.queue.drain(..).map(|held| (channel.clone(), held)));
        }
        let is_unused = state.queue.is_empty() && idle >= linger(core, &state);
        if is_unused {
            state.is_removed = true;
            unused.push(std::mem::replace(&mut state.source, Source::Pump));
        }
        !is_unused
    });
    let registry = &mut *registry;
    registry.pumps.retain(|source, pump| {
        if registry.channels.keys().any(|name| name.starts_with(&**source)) {
            pump.used = now;
        }
        let is_needed = now - pump.used < core.expiry();
        if !is_needed {
            pump.task.abort();
        }
        is_needed
    });
    returned
}

/// How long a channel is kept that no call waits for.
fn linger(core: &Core, state: &ChannelState) -> Duration {
    if matches!(state.source, Source::Pump) { PAUSE } else { core.linger() }
}

/// Returns messages to the server. They come behind the messages that wait there.
pub(crate) async fn requeue(core: &Arc<Core>, returned: Vec<(Arc<Channel>, Held)>) {
    let (Some(connected), false) = (core.get(), returned.is_empty()) else {
        return;
    };
    let messages: Vec<(&str, Message)> =
        returned.iter().map(|(channel, held)| (&*channel.name, held.message.clone())).collect();
    let results = connected.layer.requeue(&messages).await;
    drop(messages);
    for ((channel, held), result) in returned.into_iter().zip(results) {
        if let Err(error) = result
            && !error.may_have_run()
            && !error.is_closed()
        {
            core.inbox.put_back(core, &channel.name, held);
        }
    }
}
