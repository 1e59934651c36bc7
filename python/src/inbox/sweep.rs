//! Removes what an inbox no longer needs.

use std::sync::{Arc, Weak};
use std::time::Duration;

use channel_layer::Message;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::delivery::Held;
use super::entry::{Entry, Source};
use crate::core::Core;

/// The pause between two sweeps. A message that was given back and that no call of this process takes meanwhile returns
/// to its channel, where other processes can take it.
const PAUSE: Duration = Duration::from_secs(1);

/// Sweeps until the inbox is empty.
pub(crate) async fn run(core: Weak<Core>) {
    let mut ticks = interval(PAUSE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    loop {
        ticks.tick().await;
        let Some(core) = core.upgrade() else { return };
        let (returned, unused) = sweep(&core);
        drop(unused);
        requeue(&core, returned).await;
        let mut state = core.inbox.state();
        if state.entries.is_empty() && state.pumps.is_empty() {
            state.swept = false;
            return;
        }
    }
}

/// Removes expired messages, unused channels and unused pumps. Returns the messages to be returned to their channels,
/// and the removed channels, which the caller drops without the lock.
fn sweep(core: &Core) -> (Vec<(Arc<str>, Held)>, Vec<Entry>) {
    let now = Instant::now();
    let (mut returned, mut unused) = (Vec::new(), Vec::new());
    let mut state = core.inbox.state();
    for (name, entry) in &mut state.entries {
        entry.queue.retain(|held| held.expires > now);
        let is_idle = entry.waiters.is_empty() && now - entry.idle_since >= PAUSE;
        if is_idle && core.returns_messages() && matches!(entry.source, Source::Receiver(_)) {
            returned.extend(entry.queue.drain(..).map(|held| (name.clone(), held)));
        }
    }
    let linger = core.linger();
    let is_unused = |_: &Arc<str>, entry: &mut Entry| {
        entry.is_unused() && (matches!(entry.source, Source::Pump) || now - entry.idle_since >= linger)
    };
    unused.extend(state.entries.extract_if(is_unused).map(|(_, entry)| entry));
    let state = &mut *state;
    let entries = &state.entries;
    state.pumps.retain(|source, (task, used)| {
        if entries.keys().any(|name| name.starts_with(&**source)) {
            *used = now;
        }
        let is_needed = !task.is_finished() && now - *used < core.expiry();
        if !is_needed {
            task.abort();
        }
        is_needed
    });
    (returned, unused)
}

/// Returns messages to their channels. They come behind the messages that wait there.
pub(crate) async fn requeue(core: &Arc<Core>, returned: Vec<(Arc<str>, Held)>) {
    let (Some(connected), false) = (core.get(), returned.is_empty()) else { return };
    let messages: Vec<(&str, Message)> = returned.iter().map(|(name, held)| (&**name, held.message.clone())).collect();
    let results = connected.layer.requeue(&messages).await;
    drop(messages);
    for ((name, held), result) in returned.into_iter().zip(results) {
        if let Err(error) = result
            && !error.may_have_run()
            && !error.is_closed()
        {
            core.inbox.give_back(core, &name, held);
        }
    }
}
