//! The HTTP requests of this process that wait for their response, by client: how a response finds its request.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use dashmap::DashMap;
use rand::distr::{Alphanumeric, SampleString};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::memory::{Holder, Memory};
use super::response::{PART_OVERHEAD, Part};
use crate::drops::{self, DropReason};
use crate::layer::{Delivery, Receiver, RetryingReceiver};
use crate::name::{ChannelName, InvalidName};
use crate::server::asgi::connections::BATCH;
use crate::server::asgi::lost::Lost;
use crate::server::transport::streams::Progress;
use crate::supervise::contain;
use crate::trace::TraceParent;

#[derive(Debug)]
pub(crate) struct Exchanges {
    /// `http.response.<process>!`
    channel: ChannelName,
    open: DashMap<u64, Line>,
    next: AtomicU64,
    /// How much may wait for one client, in bytes of memory.
    buffer: usize,
    memory: Arc<Memory>,
}

/// The way to a request.
#[derive(Debug)]
struct Line {
    /// Bounded by the memory that the parts in it take.
    parts: mpsc::UnboundedSender<Waiting>,
    bytes: Arc<AtomicUsize>,
    holder: Arc<Holder>,
}

/// A part that waits for its client, and what it takes in memory.
#[derive(Debug)]
struct Waiting {
    part: Result<Part, Broken>,
    size: usize,
}

/// The application sent something that is no part of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Broken;

impl Exchanges {
    pub(crate) fn new(buffer: usize, memory: usize) -> Result<Arc<Self>, InvalidName> {
        let process = Alphanumeric.sample_string(&mut rand::rng(), 16);
        let channel = ChannelName::parse(&format!("http.response.{process}!"))?;
        let memory = Memory::new(memory);
        Ok(Arc::new(Self { channel, open: DashMap::new(), next: AtomicU64::new(1), buffer, memory }))
    }

    /// The process-local channel on which responses to all requests arrive.
    pub(crate) fn channel(&self) -> &ChannelName {
        &self.channel
    }

    /// Registers a request for as long as what it gives is kept.
    pub(crate) fn open(self: &Arc<Self>) -> Exchange {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, parts) = mpsc::unbounded_channel();
        let bytes = Arc::new(AtomicUsize::new(0));
        let holder = self.memory.share(Progress::current());
        self.open.insert(id, Line { parts: sender, bytes: bytes.clone(), holder });
        metrics::gauge!("channel_layer_http_requests").increment(1.0);
        Exchange { exchanges: self.clone(), id, parts, bytes }
    }

    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }

    /// Gives a part to the request that a reply channel's local part names; never waits.
    fn push(&self, client: &str, part: Result<Part, Broken>) -> Pushed {
        let Ok(id) = u64::from_str_radix(client, 16) else { return Pushed::Gone };
        let Some(line) = self.open.get(&id) else { return Pushed::Gone };
        let overhead = part.as_ref().map_or(PART_OVERHEAD, Part::overhead);
        let size = overhead + part.as_ref().map_or(0, |part| part.content.len());
        if line.bytes.fetch_add(size, Ordering::Relaxed) > self.buffer {
            let holder = line.holder.clone();
            drop(line);
            self.open.remove(&id);
            // The client may take none of what waits for it, and the request would not find out that nothing more comes.
            holder.cut_off();
            return Pushed::TooSlow;
        }
        let part = part.map(|part| Part { content: line.holder.hold(part.content, overhead), ..part });
        if line.parts.send(Waiting { part, size }).is_ok() { Pushed::Queued } else { Pushed::Gone }
    }
}

enum Pushed {
    Queued,
    /// The client does not read as fast as the application writes.
    TooSlow,
    Gone,
}

/// The task that gives responses to their requests.
const DISPATCH: &str = "dispatch of responses";

/// Gives responses to their requests until `stop` or the end of the layer.
pub(crate) async fn dispatch(receiver: Receiver, exchanges: Arc<Exchanges>, stop: CancellationToken) {
    let mut receiver = RetryingReceiver::new(receiver, "responses");
    let mut batch = Vec::new();
    loop {
        tokio::select! {
            taken = receiver.recv_many(&mut batch, BATCH) => if taken.is_err() { break },
            () = stop.cancelled() => break,
        }
        for delivery in batch.drain(..) {
            if contain(DISPATCH, || hand_over(&delivery, &exchanges)).is_none() {
                contain(DISPATCH, || give(&delivery, Err(Broken), &exchanges));
            }
        }
    }
    receiver.close().await;
}

/// Gives a message on the process-local channel to its request.
fn hand_over(delivery: &Delivery, exchanges: &Exchanges) {
    if let Some(trace) = TraceParent::of(&delivery.message) {
        trace.tell("given to the response", delivery.channel.as_str());
    }
    let part = Part::read(&delivery.message).map_err(|reason| {
        tracing::warn!(channel = %delivery.channel, reason, "the application sent a response that is none");
        Broken
    });
    give(delivery, part, exchanges);
}

/// Gives what a message holds to its request, and counts it if that does not get it.
fn give(delivery: &Delivery, part: Result<Part, Broken>, exchanges: &Exchanges) {
    if part.is_err() {
        drops::count(DropReason::Malformed, 1);
    }
    match delivery.channel.local().map(|client| exchanges.push(client, part)) {
        Some(Pushed::Queued) => {}
        Some(Pushed::TooSlow) => {
            tracing::info!(channel = %delivery.channel, "a client does not keep up with its response and is cut off");
            drops::count(Lost::SlowConsumer, 1);
        }
        Some(Pushed::Gone) | None => drops::count(Lost::ClientGone, 1),
    }
}

/// A registered request; dropping it takes it out.
#[derive(Debug)]
pub(crate) struct Exchange {
    exchanges: Arc<Exchanges>,
    id: u64,
    parts: mpsc::UnboundedReceiver<Waiting>,
    bytes: Arc<AtomicUsize>,
}

impl Exchange {
    /// Where the application answers.
    pub(crate) fn reply_channel(&self) -> String {
        format!("{}{:x}", self.exchanges.channel, self.id)
    }

    /// Waits for the next part; nothing comes any more for a client that is too slow.
    ///
    /// # Cancel safety
    ///
    /// When dropped, nothing has been taken.
    pub(crate) async fn next(&mut self) -> Option<Result<Part, Broken>> {
        let Waiting { part, size } = self.parts.recv().await?;
        self.bytes.fetch_sub(size, Ordering::Relaxed);
        Some(part)
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.exchanges.open.remove(&self.id);
        self.parts.close();
        let mut left = 0;
        while self.parts.try_recv().is_ok() {
            left += 1;
        }
        drops::count(Lost::ClientGone, left);
        metrics::gauge!("channel_layer_http_requests").decrement(1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message;
    use crate::message::Value;

    fn part(size: usize) -> Part {
        Part { head: None, content: vec![0; size].into(), more: true }
    }

    #[tokio::test]
    async fn a_request_is_found_by_the_local_part_of_its_reply_channel() {
        let exchanges = Exchanges::new(1_000, 10_000).unwrap();
        let mut exchange = exchanges.open();
        let channel: ChannelName = exchange.reply_channel().parse().unwrap();
        assert_eq!(channel.non_local(), exchanges.channel().as_str());
        assert!(matches!(exchanges.push(channel.local().unwrap(), Ok(part(1))), Pushed::Queued));
        assert_eq!(exchange.next().await, Some(Ok(part(1))));
        drop(exchange);
        assert!(matches!(exchanges.push(channel.local().unwrap(), Ok(part(1))), Pushed::Gone));
        assert_eq!(exchanges.len(), 0);
    }

    #[tokio::test]
    async fn what_waits_for_a_client_is_bounded() {
        let exchanges = Exchanges::new(10_000, 100_000).unwrap();
        let mut exchange = exchanges.open();
        for _ in 0..10 {
            assert!(matches!(exchanges.push("1", Ok(part(8_000))), Pushed::Queued));
            assert_eq!(exchange.next().await, Some(Ok(part(8_000))));
        }
        assert!(matches!(exchanges.push("1", Ok(part(10_001))), Pushed::Queued), "one large part alone fits");
        assert!(matches!(exchanges.push("1", Ok(part(1))), Pushed::TooSlow));
        assert!(matches!(exchanges.push("1", Ok(part(1))), Pushed::Gone));
        assert_eq!(exchange.next().await, Some(Ok(part(10_001))));
        assert_eq!(exchange.next().await, None);
    }

    #[tokio::test]
    async fn parts_without_content_are_bounded_as_well() {
        let headed = || {
            let headers = (0..100).map(|number| Value::list([format!("x-{number}").as_bytes(), b"1"]));
            Part::read(&message! { "status": 200, "headers": Value::list(headers), "more_content": true }).unwrap()
        };
        let read = |kind| match kind {
            "empty" => Ok(part(0)),
            "broken" => Err(Broken),
            _ => Ok(headed()),
        };
        for (kind, most) in [("empty", 4_096), ("broken", 4_096), ("with headers", 100)] {
            let exchanges = Exchanges::new(1 << 20, 1 << 30).unwrap();
            let _exchange = exchanges.open();
            let queued = (0..10_000).take_while(|_| matches!(exchanges.push("1", read(kind)), Pushed::Queued)).count();
            assert!((10..=most + 1).contains(&queued), "{kind}: {queued}");
        }
    }
}
