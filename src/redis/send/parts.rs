//! The task of a queue in a cluster: sends a batch to the shard of the queue by one call, and the messages for each
//! list that is not there by a call of its own.
//!
//! The next batch waits for the calls that the shard of the queue answers. A list whose messages have to be sent to
//! another shard, or again, does not hold up the others: the queue keeps its later messages until they have been sent.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::Instant;

use super::batch::{Batch, Outgoing, TASK, record_size};
use super::format::{Weight, WriteFormat};
use super::queue::BatchReceiver;
use crate::redis::node::fault::Fault;
use crate::redis::node::shard::Shard;
use crate::redis::topology::places::Places;
use crate::supervise::contained;

/// How many lists may wait for other shards, or for an end of a migration, before the queue waits for one of them.
/// In a cluster that serves no slot, each of them is sent again all the time.
const MAX_DELAYED: usize = 100;

/// How long the messages for each list have a call of their own after a call for several lists to a server that took
/// none of the messages. It has just become a replica, for example, or it does not run scripts over several slots.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);

/// What has become of messages on their way to the shard of the queue.
enum Progress<'q, B> {
    Ended,
    /// The messages for each list need a call of their own. `took_none` says that the server took no message.
    Apart {
        batch: Batch<B>,
        took_none: bool,
    },
    Delayed(Part<'q>),
}

/// The messages for one list on their way.
struct Part<'q> {
    /// The name of the list.
    list: Box<str>,
    sending: BoxFuture<'q, ()>,
    /// Whether the first answer of the shard of the queue does not settle the messages.
    is_delayed: Arc<AtomicBool>,
}

/// Sends the messages of a queue of a cluster, until the end of the queue.
pub(super) async fn send_parts<F: WriteFormat>(
    places: Arc<Places>,
    shard: Arc<Shard>,
    format: Arc<F>,
    batches: BatchReceiver<F::Body>,
) {
    let together = async |batch: Batch<F::Body>| {
        let (batch, took_none) = batch.send_together(&*format, &shard).await;
        Progress::Apart { batch, took_none }
    };
    let apart = |batch: Batch<F::Body>| {
        let part = |part| Part::new(part, &*format, &places, &shard, &batches).promptly().boxed();
        batch.by_list().map(part).collect::<Vec<_>>()
    };
    let mut prompt = FuturesUnordered::new();
    let mut delayed = FuturesUnordered::<BoxFuture<'_, Box<str>>>::new();
    // When a batch may be sent by one call again.
    let mut together_from = Instant::now();
    loop {
        tokio::select! {
            biased;
            Some(list) = delayed.next() => batches.resume(&list),
            Some(progress) = prompt.next() => match progress {
                Progress::Ended => {}
                Progress::Apart { batch, took_none } => {
                    if took_none {
                        together_from = Instant::now() + REFUSED_PAUSE;
                    }
                    prompt.extend(apart(batch));
                }
                Progress::Delayed(part) => {
                    let part: Part<'_> = part;
                    batches.hold(part.list.clone());
                    delayed.push(part.finish().boxed());
                }
            },
            messages = batches.next(), if prompt.is_empty() && delayed.len() < MAX_DELAYED => {
                let Some(messages) = messages else { break };
                let batch: Batch<F::Body> = messages.into_iter().collect();
                record_size(batch.message_count());
                let (here, elsewhere) = batch.split_by_home(&places, &shard);
                prompt.extend(apart(elsewhere));
                if here.has_several_lists() && Instant::now() >= together_from {
                    prompt.push(together(here).boxed());
                } else {
                    prompt.extend(apart(here));
                }
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
        let list: Box<str> = messages.names().next().unwrap_or_default().into();
        let is_delayed = Arc::<AtomicBool>::default();
        let (name, delays) = (list.clone(), is_delayed.clone());
        let sending = async move {
            let on_fault = |shard: usize, fault: &Fault| fail_waiting(batches, Some(&name), shard, fault);
            let on_delay = || delays.store(true, Ordering::Relaxed);
            contained(TASK, messages.send(format, places, shard, on_fault, on_delay)).await;
        };
        Self { list, sending: sending.boxed(), is_delayed }
    }

    /// Sends the messages, and returns the list.
    async fn finish(self) -> Box<str> {
        self.sending.await;
        self.list
    }

    /// Sends the messages. Returns the part before they have been sent if they are delayed.
    async fn promptly<B>(mut self) -> Progress<'q, B> {
        let has_ended = poll_fn(|cx| match self.sending.as_mut().poll(cx) {
            Poll::Pending if !self.is_delayed.load(Ordering::Relaxed) => Poll::Pending,
            polled => Poll::Ready(polled.is_ready()),
        });
        if has_ended.await { Progress::Ended } else { Progress::Delayed(self) }
    }
}

/// Fails the messages of a queue that wait behind others with `fault`, except those that [wait for the
/// server](Outgoing::waits_for_server). With a `list`, only the messages for that list.
pub(super) fn fail_waiting<B: Weight>(batches: &BatchReceiver<B>, list: Option<&str>, shard: usize, fault: &Fault) {
    for message in batches.release(list, Outgoing::waits_for_server) {
        message.fail(shard, fault);
    }
}
