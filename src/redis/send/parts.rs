//! The task of a queue in a cluster: sends each channel of a batch by a call of its own.
//!
//! The next batch waits for the calls that the shard of the queue answers. A channel whose messages have to be sent to
//! another shard, or again, does not hold up the others: the queue keeps its later messages until they have been sent.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use futures_util::stream::{FuturesUnordered, StreamExt};

use super::batch::{Batch, Outgoing, TASK, record_size};
use super::format::{Weight, WriteFormat};
use super::queue::BatchReceiver;
use crate::name::ChannelName;
use crate::redis::node::fault::Fault;
use crate::redis::node::shard::Shard;
use crate::redis::topology::places::Places;
use crate::supervise::contained;

/// How many channels may wait for other shards, or for an end of a migration, before the queue waits for one of them.
/// In a cluster that serves no slot, each of them is sent again all the time.
const MAX_DELAYED: usize = 100;

/// The messages to one channel on their way.
struct Part<'q> {
    /// The non-local part of the name of the channel.
    channel: Box<str>,
    sending: Pin<Box<dyn Future<Output = ()> + Send + 'q>>,
    /// Whether the messages need more than one attempt on the shard of the queue.
    is_delayed: Arc<AtomicBool>,
}

/// Sends the messages of a queue of a cluster, until the end of the queue.
pub(super) async fn send_parts<F: WriteFormat>(
    places: Arc<Places>,
    shard: Arc<Shard>,
    format: Arc<F>,
    batches: BatchReceiver<F::Body>,
) {
    let (mut prompt, mut delayed) = (FuturesUnordered::new(), FuturesUnordered::new());
    loop {
        tokio::select! {
            biased;
            Some(channel) = delayed.next() => {
                let channel: Box<str> = channel;
                batches.resume(&channel);
            }
            Some(part) = prompt.next() => {
                let Some(part): Option<Part<'_>> = part else { continue };
                batches.hold(part.channel.clone());
                delayed.push(part.finish());
            }
            messages = batches.next(), if prompt.is_empty() && delayed.len() < MAX_DELAYED => {
                let Some(messages) = messages else { break };
                let batch: Batch<F::Body> = messages.into_iter().collect();
                record_size(batch.message_count());
                prompt.extend(batch.by_channel().map(|part| Part::new(part, &*format, &places, &shard, &batches).promptly()));
            }
        }
    }
    while delayed.next().await.is_some() {}
}

impl<'q> Part<'q> {
    fn new<F: WriteFormat>(
        messages: Batch<F::Body>,
        format: &'q F,
        places: &'q Places,
        shard: &'q Shard,
        batches: &'q BatchReceiver<F::Body>,
    ) -> Self {
        let channel: Box<str> = messages.names().next().unwrap_or_default().into();
        let is_delayed = Arc::<AtomicBool>::default();
        let (name, delays) = (channel.clone(), is_delayed.clone());
        let sending = async move {
            let is_same = |channel: &ChannelName| channel.non_local() == &*name;
            let on_fault = |shard: usize, fault: &Fault| fail_waiting(batches, is_same, shard, fault);
            let on_delay = || delays.store(true, Ordering::Relaxed);
            contained(TASK, messages.send(format, places, shard, on_fault, on_delay)).await;
        };
        Self { channel, sending: Box::pin(sending), is_delayed }
    }

    /// Sends the messages, and returns the channel.
    async fn finish(self) -> Box<str> {
        self.sending.await;
        self.channel
    }

    /// Sends the messages. Returns the part before they have been sent if they are delayed.
    async fn promptly(mut self) -> Option<Self> {
        let has_ended = poll_fn(|cx| match self.sending.as_mut().poll(cx) {
            Poll::Pending if !self.is_delayed.load(Ordering::Relaxed) => Poll::Pending,
            polled => Poll::Ready(polled.is_ready()),
        });
        if has_ended.await { None } else { Some(self) }
    }
}

/// Fails the messages of a queue that wait behind others with `fault`, except those that [wait for the
/// server](Outgoing::waits_for_server).
pub(super) fn fail_waiting<B: Weight>(
    batches: &BatchReceiver<B>,
    concerns: impl Fn(&ChannelName) -> bool,
    shard: usize,
    fault: &Fault,
) {
    for message in batches.release(|message: &Outgoing<B>| message.waits_for_server() || !concerns(&message.channel)) {
        message.fail(shard, fault);
    }
}
