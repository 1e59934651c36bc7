//! The registry of HTTP requests without a complete response: it finds a request by its reply channel.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use dashmap::DashMap;
use rand::distr::{Alphanumeric, SampleString};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::memory::{MemoryShare, ResponseMemory};
use super::response::{PART_OVERHEAD, Part};
use crate::drops::{self, DropReason};
use crate::layer::{Delivery, Receiver, RetryingReceiver};
use crate::name::{ChannelName, InvalidName};
use crate::server::counters::ClientDropReason;
use crate::server::reader::read_each;
use crate::server::transport::streams::Progress;
use crate::supervise::update_metric;
use crate::trace::TraceParent;

/// All pending requests of a process, keyed by request id.
#[derive(Debug)]
pub(crate) struct PendingRequests {
    /// `http.response.<process>!`
    channel: ChannelName,
    open: DashMap<u64, ResponseQueue>,
    next: AtomicU64,
    /// Limit of what waits for one client, in bytes of memory.
    buffer: usize,
    memory: Arc<ResponseMemory>,
}

/// The queue of response parts for one request.
#[derive(Debug)]
struct ResponseQueue {
    /// Bounded by the memory of the parts in it.
    parts: mpsc::UnboundedSender<QueuedPart>,
    bytes: Arc<AtomicUsize>,
    memory_share: Arc<MemoryShare>,
}

/// A part that waits for its client, and its size in memory.
#[derive(Debug)]
struct QueuedPart {
    part: Result<Part, InvalidResponse>,
    size: usize,
}

/// The application sent an invalid part of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InvalidResponse;

impl PendingRequests {
    pub(crate) fn new(buffer: usize, memory: usize) -> Result<Arc<Self>, InvalidName> {
        let process = Alphanumeric.sample_string(&mut rand::rng(), 16);
        let channel = ChannelName::parse(&format!("http.response.{process}!"))?;
        let memory = ResponseMemory::new(memory);
        Ok(Arc::new(Self { channel, open: DashMap::new(), next: AtomicU64::new(1), buffer, memory }))
    }

    /// Returns the process-local channel on which all responses arrive.
    pub(crate) fn channel(&self) -> &ChannelName {
        &self.channel
    }

    /// Registers a request until the returned value is dropped.
    pub(crate) fn open(self: &Arc<Self>) -> PendingRequest {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, parts) = mpsc::unbounded_channel();
        let bytes = Arc::new(AtomicUsize::new(0));
        let memory_share = self.memory.share(Progress::current());
        self.open.insert(id, ResponseQueue { parts: sender, bytes: bytes.clone(), memory_share });
        update_metric(|| metrics::gauge!("channel_layer_http_requests").increment(1.0));
        PendingRequest { requests: self.clone(), id, parts, bytes }
    }

    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }

    /// Pushes a part to the request that the local part of a reply channel names, without waiting.
    fn push(&self, client: &str, part: Result<Part, InvalidResponse>) -> Pushed {
        let Ok(id) = u64::from_str_radix(client, 16) else { return Pushed::Gone };
        let Some(queue) = self.open.get(&id) else { return Pushed::Gone };
        let overhead = part.as_ref().map_or(PART_OVERHEAD, Part::overhead);
        let size = overhead + part.as_ref().map_or(0, |part| part.content.len());
        if queue.bytes.fetch_add(size, Ordering::Relaxed) > self.buffer {
            let memory_share = queue.memory_share.clone();
            drop(queue);
            self.open.remove(&id);
            // The client may accept none of the waiting parts, and the request would not notice that no more follow.
            memory_share.cut_off();
            return Pushed::TooSlow;
        }
        let part = part.map(|part| Part { content: queue.memory_share.hold(part.content, overhead), ..part });
        if queue.parts.send(QueuedPart { part, size }).is_ok() { Pushed::Queued } else { Pushed::Gone }
    }
}

enum Pushed {
    Queued,
    /// The client reads more slowly than the application writes.
    TooSlow,
    Gone,
}

/// Passes responses to their requests until `stop` or the end of the layer.
pub(crate) async fn dispatch(receiver: Receiver, requests: Arc<PendingRequests>, stop: CancellationToken) {
    let receiver = RetryingReceiver::new(receiver, "responses");
    let on_panic = |delivery: &Delivery| push_part(delivery, Err(InvalidResponse), &requests);
    read_each(receiver, "dispatch of responses", stop, |delivery| deliver(delivery, &requests), on_panic).await;
}

/// Parses a message and pushes it to its request.
fn deliver(delivery: &Delivery, requests: &PendingRequests) {
    if let Some(trace) = TraceParent::of(&delivery.message) {
        trace.record("passed to the response", delivery.channel.as_str());
    }
    let part = Part::read(&delivery.message).map_err(|reason| {
        tracing::warn!(channel = %delivery.channel, reason, "the application sent an invalid response");
        InvalidResponse
    });
    push_part(delivery, part, requests);
}

/// Pushes a part to its request, and counts it if it is dropped. An invalid part counts once, when it is queued.
fn push_part(delivery: &Delivery, part: Result<Part, InvalidResponse>, requests: &PendingRequests) {
    let invalid = usize::from(part.is_err());
    match delivery.channel.local().map(|client| requests.push(client, part)) {
        Some(Pushed::Queued) => drops::count(DropReason::Malformed, invalid),
        Some(Pushed::TooSlow) => {
            tracing::info!(channel = %delivery.channel, "response cut off: the client reads too slowly");
            drops::count(ClientDropReason::SlowConsumer, 1);
        }
        Some(Pushed::Gone) | None => drops::count(ClientDropReason::ClientGone, 1),
    }
}

/// A registered request; removed from the registry on drop.
#[derive(Debug)]
pub(crate) struct PendingRequest {
    requests: Arc<PendingRequests>,
    id: u64,
    parts: mpsc::UnboundedReceiver<QueuedPart>,
    bytes: Arc<AtomicUsize>,
}

impl PendingRequest {
    /// Returns the channel on which the application answers.
    pub(crate) fn reply_channel(&self) -> String {
        format!("{}{:x}", self.requests.channel, self.id)
    }

    /// Waits for the next part. Returns `None` if the client was too slow.
    ///
    /// # Cancel safety
    ///
    /// When dropped, nothing has been taken.
    pub(crate) async fn next(&mut self) -> Option<Result<Part, InvalidResponse>> {
        let QueuedPart { part, size } = self.parts.recv().await?;
        self.bytes.fetch_sub(size, Ordering::Relaxed);
        Some(part)
    }
}

impl Drop for PendingRequest {
    fn drop(&mut self) {
        self.requests.open.remove(&self.id);
        self.parts.close();
        let mut left = 0;
        while let Ok(QueuedPart { part, .. }) = self.parts.try_recv() {
            left += usize::from(part.is_ok());
        }
        drops::count(ClientDropReason::ClientGone, left);
        update_metric(|| metrics::gauge!("channel_layer_http_requests").decrement(1.0));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use metrics_util::debugging::{DebugValue, DebuggingRecorder};

    use super::*;
    use crate::message;
    use crate::message::Value;

    fn part(size: usize) -> Part {
        Part { head: None, content: vec![0; size].into(), more: true }
    }

    #[tokio::test]
    async fn a_request_is_found_by_the_local_part_of_its_reply_channel() {
        let requests = PendingRequests::new(1_000, 10_000).unwrap();
        let mut request = requests.open();
        let channel: ChannelName = request.reply_channel().parse().unwrap();
        assert_eq!(channel.non_local(), requests.channel().as_str());
        assert!(matches!(requests.push(channel.local().unwrap(), Ok(part(1))), Pushed::Queued));
        assert_eq!(request.next().await, Some(Ok(part(1))));
        drop(request);
        assert!(matches!(requests.push(channel.local().unwrap(), Ok(part(1))), Pushed::Gone));
        assert_eq!(requests.len(), 0);
    }

    #[tokio::test]
    async fn each_part_that_is_dropped_counts_once() {
        let recorder = DebuggingRecorder::new();
        let _recording = metrics::set_default_local_recorder(&recorder);
        let requests = PendingRequests::new(10_000, 100_000).unwrap();
        let request = requests.open();
        let part = |status: Value| {
            let message = message! { "status": status, "more_content": true };
            deliver(&Delivery::new(request.reply_channel().parse().unwrap(), message), &requests);
        };
        part(200.into());
        part("no number".into());
        requests.open.remove(&request.id);
        part("no number".into());
        drop(request);
        let counted = recorder.snapshotter().snapshot().into_vec().into_iter();
        let dropped = counted.filter_map(|(key, _, _, value)| match value {
            DebugValue::Counter(parts) => Some((key.key().labels().next()?.value().to_owned(), parts)),
            _ => None,
        });
        let expected = [("client_gone".to_owned(), 2), ("malformed".to_owned(), 1)];
        assert_eq!(dropped.collect::<BTreeMap<_, _>>(), BTreeMap::from(expected));
    }

    #[tokio::test]
    async fn the_queue_of_a_request_is_bounded() {
        let requests = PendingRequests::new(10_000, 100_000).unwrap();
        let mut request = requests.open();
        for _ in 0..10 {
            assert!(matches!(requests.push("1", Ok(part(8_000))), Pushed::Queued));
            assert_eq!(request.next().await, Some(Ok(part(8_000))));
        }
        assert!(matches!(requests.push("1", Ok(part(10_001))), Pushed::Queued), "one large part alone fits");
        assert!(matches!(requests.push("1", Ok(part(1))), Pushed::TooSlow));
        assert!(matches!(requests.push("1", Ok(part(1))), Pushed::Gone));
        assert_eq!(request.next().await, Some(Ok(part(10_001))));
        assert_eq!(request.next().await, None);
    }

    #[tokio::test]
    async fn parts_without_content_are_bounded_as_well() {
        let headed = || {
            let headers = (0..100).map(|number| Value::list([format!("x-{number}").as_bytes(), b"1"]));
            Part::read(&message! { "status": 200, "headers": Value::list(headers), "more_content": true }).unwrap()
        };
        let read = |kind| match kind {
            "empty" => Ok(part(0)),
            "broken" => Err(InvalidResponse),
            _ => Ok(headed()),
        };
        for (kind, most) in [("empty", 4_096), ("broken", 4_096), ("with headers", 100)] {
            let requests = PendingRequests::new(1 << 20, 1 << 30).unwrap();
            let _request = requests.open();
            let queued = (0..10_000).take_while(|_| matches!(requests.push("1", read(kind)), Pushed::Queued)).count();
            assert!((10..=most + 1).contains(&queued), "{kind}: {queued}");
        }
    }
}
