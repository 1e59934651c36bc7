//! `Inbox`: the channels that this process receives from.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use channel_layer::capacity::Capacity;
use channel_layer::{ChannelName, Error};
use parking_lot::{Mutex, MutexGuard};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::delivery::{Delivery, Held};
use super::entry::{Entry, Numbers, Source, Waiter};
use super::{pump, serve, sweep};
use crate::bridge::call::{Begun, CallState};
use crate::bridge::event_loop::LoopCalls;
use crate::core::{Connected, Core};
use crate::outcome::Outcome;

/// The channels of one layer in this process.
pub(crate) struct Inbox {
    /// Never locked while Python runs. A poll of a receiver may wake a loop, which locks only the mailbox of the loop.
    state: Mutex<State>,
    /// How many messages of one channel the inbox holds.
    capacity: Capacity,
}

pub(crate) struct State {
    pub(crate) entries: HashMap<Arc<str>, Entry>,
    /// The pumps by what they read, with the time at which a call last needed them.
    pub(crate) pumps: HashMap<Box<str>, (AbortHandle, Instant)>,
    pub(crate) numbers: Numbers,
    /// Messages that were dropped because their channel held too many.
    pub(crate) dropped: u64,
    /// Whether a task sweeps.
    pub(crate) swept: bool,
}

/// Serves a channel on the loop that waits for it.
struct LoopWaker {
    core: Weak<Core>,
    channel: Arc<str>,
    calls: Arc<LoopCalls>,
}

impl Wake for LoopWaker {
    fn wake(self: Arc<Self>) {
        serve::on_loop(&self.calls, self.core.clone(), vec![self.channel.clone()]);
    }
}

pub(crate) fn waker(core: &Arc<Core>, channel: &Arc<str>, calls: &Arc<LoopCalls>) -> Waker {
    Arc::new(LoopWaker { core: Arc::downgrade(core), channel: channel.clone(), calls: calls.clone() }).into()
}

impl Inbox {
    pub(crate) fn new(expiry: Duration, capacity: Capacity) -> Self {
        let (entries, pumps) = (HashMap::new(), HashMap::new());
        let state = State { entries, pumps, numbers: Numbers::new(expiry), dropped: 0, swept: false };
        Self { state: Mutex::new(state), capacity }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Begins a call that waits for a message of `channel`.
    pub(crate) fn receive(
        &self,
        core: &Arc<Core>,
        channel: &str,
        call: &Arc<CallState>,
        calls: &Arc<LoopCalls>,
    ) -> Begun {
        let mut state = self.state();
        let State { entries, numbers, .. } = &mut *state;
        let (name, entry) = entry_of(entries, channel);
        if let (Source::Receiver(receiver @ None), Some(connected)) = (&mut entry.source, core.get()) {
            match connected.layer.receiver(&[channel]) {
                Ok(new) => *receiver = Some(new),
                Err(error) => return Begun::Complete(Err(Arc::new(error))),
            }
        }
        if entry.waiters.is_empty() {
            let waker = waker(core, &name, calls);
            match entry.poll_take(&mut Context::from_waker(&waker), 1, numbers) {
                Poll::Ready(Ok(held)) => {
                    let delivery = held.into_iter().next().map(|held| Delivery::new(core, name.clone(), held));
                    state.remove_unused(&name);
                    drop(state);
                    return Begun::Complete(Ok(delivery.map_or(Outcome::None, Outcome::Message)));
                }
                Poll::Ready(Err(error)) => return Begun::Complete(Err(Arc::new(error))),
                Poll::Pending => {}
            }
        } else {
            // The loop polls again, for one message more.
            serve::on_loop(calls, Arc::downgrade(core), vec![name.clone()]);
        }
        entry.waiters.push_back(Waiter { call: call.clone(), calls: calls.clone() });
        state.ensure_source(core, &name);
        drop(state);
        let (core, number) = (Arc::downgrade(core), call.number);
        Begun::Waiting(Box::new(move || {
            if let Some(core) = core.upgrade() {
                core.inbox.cancel(&core, &name, number);
            }
        }))
    }

    /// Ends a call that waits.
    fn cancel(&self, core: &Arc<Core>, channel: &Arc<str>, number: u64) {
        let mut state = self.state();
        let Some(entry) = state.entries.get_mut(channel) else { return };
        entry.remove_waiter(number);
        // Another loop may have to poll in the name of its own call.
        let next = entry.next_loop();
        state.remove_unused(channel);
        drop(state);
        if let Some(next) = next {
            serve::on_loop(&next, Arc::downgrade(core), vec![channel.clone()]);
        }
    }

    /// Puts a message back that was handed to a call and not taken.
    pub(crate) fn give_back(&self, core: &Arc<Core>, channel: &Arc<str>, held: Held) {
        let mut state = self.state();
        let (_, entry) = entry_of(&mut state.entries, channel);
        entry.put_back(held);
        let next = entry.next_loop();
        state.ensure_swept(core);
        drop(state);
        if let Some(next) = next {
            serve::on_loop(&next, Arc::downgrade(core), vec![channel.clone()]);
        }
    }

    /// Adds messages that a pump has read, and wakes the loops that wait for them.
    pub(crate) fn deliver(&self, core: &Arc<Core>, deliveries: impl Iterator<Item = channel_layer::Delivery>) {
        let now = Instant::now();
        let mut loops: Vec<(Arc<LoopCalls>, Vec<Arc<str>>)> = Vec::new();
        let mut state = self.state();
        let State { entries, numbers, dropped, .. } = &mut *state;
        for delivery in deliveries {
            let (name, entry) = entry_of(entries, delivery.channel.as_str());
            entry.queue.push_back(numbers.hold(delivery.message, now));
            if entry.queue.len() > self.capacity_of(&delivery.channel) {
                entry.queue.pop_front();
                *dropped += 1;
            }
            if entry.queue.len() > entry.waiters.len() {
                continue;
            }
            let Some(next) = entry.next_loop() else { continue };
            match loops.iter_mut().find(|(calls, _)| Arc::ptr_eq(calls, &next)) {
                Some((_, names)) => names.push(name),
                None => loops.push((next, vec![name])),
            }
        }
        drop(state);
        for (calls, names) in loops {
            serve::on_loop(&calls, Arc::downgrade(core), names);
        }
    }

    /// Fails the calls that wait for channels below `source`, or for the channel `source`.
    pub(crate) fn fail(&self, source: &str, error: Error) {
        let error = Arc::new(error);
        let mut state = self.state();
        let failed = state.entries.iter_mut().filter(|(name, _)| non_local(name) == source);
        let waiters: Vec<_> = failed.flat_map(|(_, entry)| std::mem::take(&mut entry.waiters)).collect();
        drop(state);
        for Waiter { call, calls } in waiters {
            call.complete(Err(error.clone()));
            calls.completed(call.number);
        }
    }

    /// Takes all messages that the inbox holds.
    pub(crate) fn clear(&self) -> Vec<(Arc<str>, Held)> {
        let mut state = self.state();
        let held = state
            .entries
            .iter_mut()
            .flat_map(|(name, entry)| entry.queue.drain(..).map(|held| (name.clone(), held)).collect::<Vec<_>>());
        held.collect()
    }

    fn capacity_of(&self, channel: &ChannelName) -> usize {
        self.capacity.of(channel)
    }
}

impl State {
    /// Removes a process-local channel without messages and calls.
    pub(crate) fn remove_unused(&mut self, channel: &str) {
        let is_unused = |entry: &Entry| entry.is_unused() && matches!(entry.source, Source::Pump);
        if self.entries.get(channel).is_some_and(is_unused) {
            self.entries.remove(channel);
        }
    }

    /// Starts what reads the channel, unless it has started.
    fn ensure_source(&mut self, core: &Arc<Core>, channel: &Arc<str>) {
        match self.entries.get(channel).map(|entry| &entry.source) {
            Some(Source::Pump) => {
                let source = non_local(channel);
                match self.pumps.get_mut(source) {
                    Some((task, used)) if !task.is_finished() => *used = Instant::now(),
                    _ => {
                        let task = core.runtime.spawn(pump::run(Arc::downgrade(core), source.into()));
                        self.pumps.insert(source.into(), (task.abort_handle(), Instant::now()));
                    }
                }
            }
            Some(Source::Receiver(None)) => {
                core.runtime.spawn(pump::open(core.clone(), channel.clone()));
            }
            _ => {}
        }
        self.ensure_swept(core);
    }

    fn ensure_swept(&mut self, core: &Arc<Core>) {
        if !std::mem::replace(&mut self.swept, true) {
            core.runtime.spawn(sweep::run(Arc::downgrade(core)));
        }
    }

    /// Gives a channel its receiver, now that the layer is connected.
    pub(crate) fn open(&mut self, channel: &str, connected: &Connected) -> Result<Option<Arc<LoopCalls>>, Error> {
        let Some(entry) = self.entries.get_mut(channel) else { return Ok(None) };
        if let Source::Receiver(receiver @ None) = &mut entry.source {
            *receiver = Some(connected.layer.receiver(&[channel])?);
        }
        Ok(entry.next_loop())
    }
}

/// The part of a name up to and including the `!`, or the whole name.
pub(crate) fn non_local(channel: &str) -> &str {
    channel.split_inclusive('!').next().unwrap_or(channel)
}

fn entry_of<'e>(entries: &'e mut HashMap<Arc<str>, Entry>, channel: &str) -> (Arc<str>, &'e mut Entry) {
    let name = entries.get_key_value(channel).map_or_else(|| Arc::from(channel), |(name, _)| name.clone());
    let entry = entries.entry(name.clone()).or_insert_with(|| Entry::new(channel));
    (name, entry)
}
