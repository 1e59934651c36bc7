//! `Inbox`: the channels that this process receives from.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use channel_layer::capacity::Capacity;
use channel_layer::{ChannelName, Error, Message};
use foldhash::fast::RandomState;
use parking_lot::Mutex;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::channel::{Channel, ChannelState, Source, Waiter};
use super::delivery::{Delivery, Held};
use super::{pump, serve, sweep};
use crate::bridge::call::{Begun, CallState};
use crate::bridge::event_loop::LoopCalls;
use crate::core::Core;
use crate::outcome::Outcome;

/// The channels of one layer in this process.
pub(crate) struct Inbox {
    /// Locked before the state of a channel.
    pub(super) registry: Mutex<Registry>,
    pub(super) stamps: Stamps,
    /// How many messages a channel holds.
    capacity: Capacity,
}

#[derive(Default)]
pub(super) struct Registry {
    pub(super) channels: HashMap<Arc<str>, Arc<Channel>, RandomState>,
    /// The pumps by what they read.
    pub(super) pumps: HashMap<Box<str>, Pump>,
    /// Whether a task sweeps.
    pub(super) is_swept: bool,
}

/// A task that reads the process-local channels below a name.
pub(super) struct Pump {
    pub(super) number: u64,
    pub(super) task: AbortHandle,
    /// When a channel last needed it.
    pub(super) used: Instant,
}

/// Gives messages their numbers and their expiry.
pub(crate) struct Stamps {
    next: AtomicU64,
    expiry: Duration,
}

impl Stamps {
    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn hold(&self, message: Message) -> Held {
        Held { number: self.number(), message, expires: Instant::now() + self.expiry }
    }
}

impl Inbox {
    pub(crate) fn new(expiry: Duration, capacity: Capacity) -> Self {
        Self { registry: Mutex::default(), stamps: Stamps { next: AtomicU64::new(0), expiry }, capacity }
    }

    /// Applies `change` to a channel, which is created if it is missing.
    fn with_channel<R>(
        &self,
        core: &Arc<Core>,
        name: &str,
        change: impl FnOnce(&Arc<Channel>, &mut ChannelState) -> R,
    ) -> R {
        loop {
            let channel = self.registry.lock().channel(core, name);
            let mut state = channel.state();
            // A sweep may have removed it in the meantime.
            if !state.is_removed {
                return change(&channel, &mut state);
            }
        }
    }

    /// Begins a call that waits for a message of the channel `name`.
    pub(crate) fn receive(&self, core: &Arc<Core>, name: &str, call: &Arc<CallState>, calls: &Arc<LoopCalls>) -> Begun {
        let begun = self.with_channel(core, name, |channel, state| {
            // The pump would never see a name that the crate refuses.
            let is_valid = if state.is_started { Ok(()) } else { ChannelName::parse(&channel.name).map(drop) };
            if let Err(error) = is_valid.map_err(Error::from).and_then(|()| open(core, channel, state)) {
                return Err(Err(Arc::new(error)));
            }
            if state.waiters.is_empty() {
                let waker = serve::waker(core, channel, state, calls);
                match state.poll_take(&mut Context::from_waker(&waker), 1, &self.stamps) {
                    Poll::Ready(Ok(held)) => return Err(Ok((channel.clone(), held))),
                    Poll::Ready(Err(error)) => return Err(Err(Arc::new(error))),
                    Poll::Pending => {}
                }
            } else {
                // The loop polls again, for one message more.
                serve::on_loop(calls, core, vec![channel.clone()]);
            }
            state.waiters.push_back(Waiter { call: call.clone(), calls: calls.clone() });
            Ok((channel.clone(), std::mem::replace(&mut state.is_started, true)))
        });
        match begun {
            Ok((channel, was_started)) => {
                if !was_started {
                    self.start_source(core, &channel);
                }
                let (core, number) = (Arc::downgrade(core), call.number);
                Begun::Waiting(Box::new(move || {
                    if let Some(core) = core.upgrade() {
                        cancel(&core, &channel, number);
                    }
                }))
            }
            Err(Ok((channel, held))) => {
                let delivery = held.into_iter().next().map(|held| Delivery::new(core, &channel, held));
                Begun::Complete(Ok(delivery.map_or(Outcome::None, Outcome::Message)))
            }
            Err(Err(error)) => Begun::Complete(Err(error)),
        }
    }

    /// Returns a message to its place, after it was handed to a call and not taken.
    pub(super) fn put_back(&self, core: &Arc<Core>, name: &str, held: Held) {
        let (channel, next) = self.with_channel(core, name, |channel, state| {
            state.put_back(held);
            (channel.clone(), state.next_loop())
        });
        if let Some(next) = next {
            serve::on_loop(&next, core, vec![channel]);
        }
    }

    /// Adds a message to every channel.
    pub(super) fn notify(&self, core: &Arc<Core>, message: &Message) {
        let registry = self.registry.lock();
        let next = |channel: &Arc<Channel>| {
            let mut state = channel.state();
            state.queue.push_back(self.stamps.hold(message.clone()));
            state.next_loop().map(|next| (next, channel.clone()))
        };
        let waiting: Vec<_> = registry.channels.values().filter_map(next).collect();
        drop(registry);
        for (calls, channel) in waiting {
            serve::on_loop(&calls, core, vec![channel]);
        }
    }

    /// Adds messages that a pump has read, and wakes the loops that wait for them.
    pub(super) fn deliver(&self, core: &Arc<Core>, deliveries: impl Iterator<Item = channel_layer::Delivery>) {
        let mut loops: Vec<(Arc<LoopCalls>, Vec<Arc<Channel>>)> = Vec::new();
        let mut registry = self.registry.lock();
        for delivery in deliveries {
            let channel = registry.channel(core, delivery.channel.as_str());
            let Some(next) = self.add(&channel, &delivery.channel, delivery.message) else {
                continue;
            };
            match loops.iter_mut().find(|(calls, _)| Arc::ptr_eq(calls, &next)) {
                Some((_, channels)) => channels.push(channel),
                None => loops.push((next, vec![channel])),
            }
        }
        drop(registry);
        for (calls, channels) in loops {
            serve::on_loop(&calls, core, channels);
        }
    }

    /// Adds a message. Returns the loop that waits for it.
    fn add(&self, channel: &Channel, name: &ChannelName, message: Message) -> Option<Arc<LoopCalls>> {
        let mut state = channel.state();
        state.queue.push_back(self.stamps.hold(message));
        if state.queue.len() <= state.waiters.len() {
            return state.next_loop();
        }
        // The client does not keep up: the oldest message is dropped, as channels_redis does.
        if state.queue.len() > self.capacity.of(name) {
            state.queue.pop_front();
        }
        None
    }

    /// Fails the calls that wait for channels below `source`, or for the channel `source`.
    pub(super) fn fail(&self, source: &str, error: Error) {
        self.fail_calls(error, |channel| channel.non_local() == source);
    }

    fn fail_calls(&self, error: Error, concerns: impl Fn(&Channel) -> bool) {
        let error = Arc::new(error);
        let registry = self.registry.lock();
        let failed = registry.channels.values().filter(|channel| concerns(channel));
        let waiters = failed.flat_map(|channel| {
            let mut state = channel.state();
            state.is_started = false;
            std::mem::take(&mut state.waiters)
        });
        let waiters: Vec<_> = waiters.collect();
        drop(registry);
        for Waiter { call, calls } in waiters {
            call.complete(Err(error.clone()));
            calls.completed(call.number);
        }
    }

    /// Ends the pumps, fails the calls that wait, and returns the messages of the inbox.
    pub(crate) fn end(&self) -> Vec<(Arc<Channel>, Held)> {
        // A pump that is not listed does not fail the calls when it ends.
        let pumps = std::mem::take(&mut self.registry.lock().pumps);
        pumps.values().for_each(|pump| pump.task.abort());
        self.fail_calls(Error::Closed, |_| true);
        self.clear()
    }

    /// Takes all messages that the inbox holds, with their channels.
    pub(crate) fn clear(&self) -> Vec<(Arc<Channel>, Held)> {
        let registry = self.registry.lock();
        let channels = registry.channels.values();
        let held = channels.flat_map(|channel| {
            let held = std::mem::take(&mut channel.state().queue);
            held.into_iter().map(|held| (channel.clone(), held))
        });
        held.collect()
    }

    /// Starts what reads the channel.
    fn start_source(&self, core: &Arc<Core>, channel: &Arc<Channel>) {
        if !channel.is_process_local() {
            core.runtime.spawn(pump::open(core.clone(), channel.clone()));
            return;
        }
        let source = channel.non_local();
        let mut registry = self.registry.lock();
        if let Some(pump) = registry.pumps.get_mut(source) {
            pump.used = Instant::now();
            return;
        }
        let number = self.stamps.number();
        let task = core.runtime.spawn(pump::run(Arc::downgrade(core), source.into(), number)).abort_handle();
        registry.pumps.insert(source.into(), Pump { number, task, used: Instant::now() });
    }

    /// Forgets a pump that has ended, and fails the calls that still wait for it.
    pub(super) fn pump_ended(&self, source: &str, number: u64) {
        let mut registry = self.registry.lock();
        if registry.pumps.get(source).is_some_and(|pump| pump.number == number) {
            registry.pumps.remove(source);
            drop(registry);
            self.fail(source, Error::Panicked);
        }
    }
}

/// Gives a channel its receiver, if it needs one and the layer is connected.
pub(super) fn open(core: &Core, channel: &Channel, state: &mut ChannelState) -> Result<(), Error> {
    if let (Source::Receiver(receiver @ None), Some(connected)) = (&mut state.source, core.get()) {
        *receiver = Some(connected.layer.receiver(&[&channel.name])?);
    }
    Ok(())
}

/// Ends a call that waits.
fn cancel(core: &Arc<Core>, channel: &Arc<Channel>, number: u64) {
    let mut state = channel.state();
    state.remove_waiter(number);
    // Another loop may have to poll in the name of its own call.
    let next = state.next_loop();
    drop(state);
    if let Some(next) = next {
        serve::on_loop(&next, core, vec![channel.clone()]);
    }
}

impl Registry {
    fn channel(&mut self, core: &Arc<Core>, name: &str) -> Arc<Channel> {
        if let Some(channel) = self.channels.get(name) {
            return channel.clone();
        }
        let channel = Arc::new(Channel::new(name));
        self.channels.insert(name.into(), channel.clone());
        if !std::mem::replace(&mut self.is_swept, true) {
            core.runtime.spawn(sweep::run(Arc::downgrade(core)));
        }
        channel
    }
}
