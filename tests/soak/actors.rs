//! The actors of a process: writers, readers, and who changes groups and looks on.

use std::pin::pin;
use std::time::Duration;

use channel_layer::{ChannelName, Delivery, Error, Event as LayerEvent, Message, Mode, Receiver, Result, message};
use futures_util::StreamExt;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use tokio::sync::broadcast;
use tokio::time::{Instant, sleep, timeout};

use super::history::{Event, MessageId, Outcome, ReaderKind, Target};
use super::plan::{GROUPS, NORMAL, PROCESSES, Plan, stream};
use super::process::{Context, chain};
use crate::support::Moments;

/// The most messages of one call.
const MOST_AT_ONCE: usize = 20;
/// The pause of an actor after an error, as any caller makes one.
pub const PAUSE: Duration = Duration::from_millis(10);

/// What the calls of a round are cancelled by: some are not, the others at moments that the seed decides.
pub struct Cancelling {
    of_100: u32,
    moments: Moments,
    rng: StdRng,
}

impl Cancelling {
    pub fn new(context: &Context, name: &str) -> Self {
        let mut rng = stream(context.plan.seed, name);
        let of_100 = context.plan.settings[context.slot].cancelled;
        Self { of_100, moments: Moments::new(rng.random()), rng }
    }

    /// Awaits `call`, or drops it on the way; `None` if it was dropped, or did not end in time.
    pub async fn run<F: Future>(
        &mut self,
        context: &Context,
        name: impl FnOnce() -> String,
        call: F,
    ) -> Option<F::Output> {
        if self.rng.random_range(0..100) < self.of_100 {
            return self.moments.cut(call).await;
        }
        context.soon(name, call).await
    }
}

pub fn outcome<T>(result: &Result<T>) -> Outcome {
    match result {
        Ok(_) => Outcome::Done,
        Err(Error::ChannelFull { .. }) => Outcome::Full,
        Err(error) if error.may_have_run() => Outcome::Unknown,
        Err(_) => Outcome::NotRun,
    }
}

/// Writes to everything until it is told to stop.
pub async fn write(context: Context, writer: u32) {
    let name = format!("writer {writer}");
    let mut rng = stream(context.plan.seed, &name);
    let mut cancelling = Cancelling::new(&context, &format!("{name} cancelling"));
    let channels: Vec<_> = (0..PROCESSES).flat_map(Plan::channels).chain(NORMAL.map(str::to_owned)).collect();
    let groups = GROUPS.map(str::to_owned);
    let mut number = 0;
    while !context.writing.is_cancelled() {
        let to_group = rng.random_bool(0.25);
        let count = if rng.random_bool(0.15) { rng.random_range(1..=MOST_AT_ONCE) } else { 1 };
        let mut messages = Vec::with_capacity(count);
        for _ in 0..count {
            number += 1;
            let id = MessageId { writer, number };
            let names: &[_] = if to_group { &groups } else { &channels };
            let to = names.choose(&mut rng).expect("there are names").as_str();
            let expiry = context.plan.settings[context.slot].expiry;
            let target = if to_group { Target::Group(to.to_owned()) } else { Target::Channel(to.to_owned()) };
            context.record(Event::Sending { id, to: target, expiry });
            messages.push((id, to, content(id, context.plan.sizes.draw(&mut rng), !to_group)));
        }
        let call = || format!("a send of {count} by writer {writer}");
        let sending = cancelling.run(&context, call, send(&context, &messages, to_group));
        let results = if to_group {
            context.count_drops(messages.iter().map(|(id, ..)| *id), sending).await
        } else {
            sending.await
        };
        let mut failed = false;
        for (at, (id, ..)) in messages.iter().enumerate() {
            let outcome = results.as_ref().map_or(Outcome::Unknown, |results| {
                context.note_failure("send", &results[at]);
                outcome(&results[at])
            });
            failed |= outcome != Outcome::Done;
            context.record(Event::Sent { id: *id, outcome });
        }
        let pause = context.plan.settings[context.slot].pause;
        sleep(if failed { PAUSE } else { pause.mul_f64(rng.random()) }).await;
    }
}

async fn send(context: &Context, messages: &[(MessageId, &str, Message)], to_group: bool) -> Vec<Result<()>> {
    let layer = &context.layer;
    if let [(_, to, message)] = messages {
        let message = message.clone();
        return vec![if to_group { layer.group_send(to, message).await } else { layer.send(to, message).await }];
    }
    let messages: Vec<_> = messages.iter().map(|(_, to, message)| (*to, message.clone())).collect();
    if to_group { layer.group_send_many(&messages).await } else { layer.send_many(&messages).await }
}

pub fn content(id: MessageId, size: usize, is_direct: bool) -> Message {
    message! {
        "type": "soak.message",
        "writer": i64::from(id.writer),
        "number": i64::from(id.number),
        "direct": i64::from(is_direct),
        "padding": "x".repeat(size),
    }
}

pub fn id_of(message: &Message) -> Option<MessageId> {
    let part = |key| message.int(key).and_then(|part| u32::try_from(part).ok());
    Some(MessageId { writer: part("writer")?, number: part("number")? })
}

/// Reads `routes` by calls of every kind, one after the other, until it is told to stop.
pub async fn read(context: Context, routes: Vec<String>) {
    let name = format!("reader of {}", routes.join(", "));
    let mut reader = Reading {
        rng: stream(context.plan.seed, &format!("{name} in process {}", context.process)),
        cancelling: Cancelling::new(&context, &format!("{name} cancelling")),
        routes: routes.iter().map(String::as_str).collect(),
        name,
        context,
    };
    while !reader.context.reading.is_cancelled() {
        let until = Instant::now() + Duration::from_millis(reader.rng.random_range(100..2000));
        match reader.rng.random_range(0..5) {
            0 => reader.by_single_calls(until).await,
            1 => reader.without_waiting(until).await,
            2 => reader.as_a_stream(until).await,
            _ => reader.by_a_receiver(until).await,
        }
    }
}

struct Reading<'r> {
    context: Context,
    name: String,
    routes: Vec<&'r str>,
    rng: StdRng,
    cancelling: Cancelling,
}

impl Reading<'_> {
    /// Whether the reader is to go on as it does.
    fn goes_on(&self, until: Instant) -> bool {
        Instant::now() < until && !self.context.reading.is_cancelled()
    }

    fn received(&self, asked: Duration, delivery: &Delivery) {
        let event = match id_of(&delivery.message) {
            Some(id) => Event::Received { id, channel: delivery.channel.to_string(), asked },
            None => {
                Event::Left { what: format!("a message of nobody on {}: {:?}", delivery.channel, delivery.message) }
            }
        };
        self.context.record(event);
    }

    /// Whether the reader requeues a message, as workers do with messages that they have no time for. On publish and
    /// subscribe all processes would get it once more.
    fn requeues(&mut self, delivery: &Delivery) -> bool {
        let is_of_workers = NORMAL.contains(&delivery.channel.as_str()) && !self.context.plan.backend.is_pubsub();
        is_of_workers && delivery.message.int("direct") == Some(1) && self.rng.random_bool(0.1)
    }

    async fn requeue(&mut self, delivery: &Delivery) {
        let Some(id) = id_of(&delivery.message) else { return };
        let expiry = self.context.plan.settings[self.context.slot].expiry;
        self.context.record(Event::Requeueing { id, expiry });
        let messages = [(delivery.channel.as_str(), delivery.message.clone())];
        let requeueing = self.context.layer.requeue(&messages);
        let results = self.cancelling.run(&self.context, || format!("requeue of {id}"), requeueing).await;
        let outcome = results.as_ref().map_or(Outcome::Unknown, |results| {
            self.context.note_failure("requeue", &results[0]);
            outcome(&results[0])
        });
        self.context.record(Event::Requeued { id, outcome });
    }

    async fn failed(&self, error: &Error) {
        if !matches!(error, Error::Closed) {
            let (reader, reason) = (self.name.clone(), chain(error));
            self.context.record(Event::ReadFailed { reader, reason });
        }
        // So short that a layer which does not wait for its servers is found out.
        sleep(Duration::from_millis(1)).await;
    }

    fn begins(&self, kind: ReaderKind) {
        let routes = self.routes.iter().map(|&route| route.to_owned()).collect();
        self.context.record(Event::Reading { routes, kind });
    }

    async fn by_single_calls(&mut self, until: Instant) {
        self.begins(ReaderKind::Receive);
        while self.goes_on(until) {
            let asked = self.context.history.now();
            let receiving = self.context.layer.receive(&self.routes);
            // Cancelled at a random poll, or when the reader goes on otherwise.
            match self.cancelling.moments.cut(timeout(until - Instant::now(), receiving)).await {
                Some(Ok(Ok(delivery))) if self.requeues(&delivery) => self.requeue(&delivery).await,
                Some(Ok(Ok(delivery))) => self.received(asked, &delivery),
                Some(Ok(Err(error))) => self.failed(&error).await,
                Some(Err(_)) | None => {}
            }
        }
    }

    async fn without_waiting(&mut self, until: Instant) {
        self.begins(ReaderKind::TryReceive);
        while self.goes_on(until) {
            let asked = self.context.history.now();
            let looking = self.context.layer.try_receive(&self.routes);
            let call = || format!("try_receive by the {}", self.name);
            match self.cancelling.run(&self.context, call, looking).await {
                Some(Ok(Some(delivery))) => self.received(asked, &delivery),
                Some(Ok(None)) => sleep(Duration::from_millis(5)).await,
                // It does not wait for a server that is away.
                Some(error) => {
                    self.context.note_failure("try_receive", &error);
                    sleep(PAUSE).await;
                }
                None => {}
            }
        }
    }

    async fn by_a_receiver(&mut self, until: Instant) {
        let Some(mut receiver) = self.receiver(ReaderKind::Receiver).await else { return };
        let limit = self.rng.random_range(1..50);
        let mut deliveries = Vec::new();
        while self.goes_on(until) {
            let asked = self.context.history.now();
            let receiving = timeout(until - Instant::now(), receiver.recv_many(&mut deliveries, limit));
            let ended = self.cancelling.moments.cut(receiving).await;
            deliveries.drain(..).for_each(|delivery| self.received(asked, &delivery));
            if let Some(Ok(Err(error))) = ended {
                self.failed(&error).await;
            }
        }
        if self.rng.random() {
            // What cannot be put back is counted.
            let _ = self.context.soon(|| format!("close by the {}", self.name), receiver.close()).await;
        }
    }

    async fn as_a_stream(&mut self, until: Instant) {
        let Some(receiver) = self.receiver(ReaderKind::Stream).await else { return };
        let mut receiver = pin!(receiver);
        while self.goes_on(until) {
            let asked = self.context.history.now();
            match timeout(until - Instant::now(), receiver.next()).await {
                Ok(Some(Ok(delivery))) => self.received(asked, &delivery),
                Ok(Some(Err(error))) => self.failed(&error).await,
                Ok(None) => return self.failed(&Error::Closed).await,
                Err(_) => return,
            }
        }
    }

    async fn receiver(&self, kind: ReaderKind) -> Option<Receiver> {
        match self.context.layer.receiver(&self.routes) {
            Ok(receiver) => {
                self.begins(kind);
                Some(receiver)
            }
            Err(error) => {
                self.failed(&error).await;
                None
            }
        }
    }
}

/// Adds channels of the process to groups and takes them out, until it is told to stop.
pub async fn change_groups(context: Context) {
    let name = format!("members of process {}", context.process);
    let mut rng = stream(context.plan.seed, &name);
    let mut cancelling = Cancelling::new(&context, &format!("{name} cancelling"));
    let mut channels = Plan::channels(context.slot);
    if context.slot == 0 {
        channels.extend(NORMAL.map(str::to_owned));
    }
    while !context.writing.is_cancelled() {
        let group = *GROUPS.choose(&mut rng).expect("there are groups");
        let channel = channels.choose(&mut rng).expect("there are channels");
        // One group is often empty.
        let joins = rng.random_bool(if group == GROUPS[2] { 0.1 } else { 0.6 });
        let change = context.history.number();
        let expiry = context.plan.settings[context.slot].group_expiry;
        context.record(Event::Changing { change, group: group.to_owned(), channel: channel.clone(), joins, expiry });
        let layer = &context.layer;
        let changing = async {
            if joins { layer.group_add(group, channel).await } else { layer.group_discard(group, channel).await }
        };
        let result = cancelling.run(&context, || format!("a change of {group}"), changing).await;
        let outcome = result.as_ref().map_or(Outcome::Unknown, |result| {
            context.note_failure("a change of a group", result);
            outcome(result)
        });
        context.record(Event::Changed { change, outcome });
        sleep(Duration::from_millis(rng.random_range(1..200))).await;
    }
}

/// Looks at how many messages wait on the route that nobody reads, until it is told to stop.
pub async fn measure(context: Context) {
    let route = Plan::silent_route(context.slot);
    while !context.writing.is_cancelled() {
        let measuring = context.layer.channel_statistics(&route);
        if let Some(measured) = context.soon(|| format!("channel_statistics of {route}"), measuring).await {
            context.note_failure("channel_statistics", &measured);
            if let Ok(statistics) = measured {
                context.record(Event::Waiting { route: route.clone(), messages: statistics.messages_pending });
            }
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Records what the layer announces, until it is told to stop.
pub async fn watch(context: Context, mut events: broadcast::Receiver<LayerEvent>) {
    // What was announced before somebody listened.
    if *context.layer.mode().borrow() != Mode::Remote {
        context.record(Event::CutOff { shard: None });
    }
    loop {
        let event = tokio::select! {
            // What was announced before it was told to stop is recorded.
            biased;
            event = events.recv() => event,
            () = context.watching.cancelled() => return,
        };
        match event {
            Ok(event) => context.record(announced(event, context.plan.durable)),
            Err(broadcast::error::RecvError::Lagged(events)) => {
                context.record(Event::Left { what: format!("{events} events were skipped") });
            }
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

fn announced(event: LayerEvent, is_durable: bool) -> Event {
    match event {
        LayerEvent::ReadInterrupted { channels, .. } => {
            let route = |channel: &ChannelName| channel.non_local().to_owned();
            Event::Interrupted { routes: channels.iter().map(route).collect() }
        }
        LayerEvent::LocalOnly { shard, .. } | LayerEvent::SubscriptionLost { shard, .. } => {
            Event::CutOff { shard: Some(shard) }
        }
        LayerEvent::Remote { shard } | LayerEvent::SubscriptionRestored { shard } => Event::Connected { shard },
        LayerEvent::DataLost { shard } if is_durable => {
            Event::Left { what: format!("server {shard} was said to have lost its data") }
        }
        event => Event::Fault(format!("announced: {event:?}")),
    }
}
