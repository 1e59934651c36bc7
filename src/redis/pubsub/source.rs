//! `PubSubSource`: the source of a receiver of published messages.

use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;

use super::inbox::Inbox;
use super::interest::RequestedSubscriptions;
use super::managers::Managers;
use crate::config::Fallback;
use crate::drops;
use crate::error::{Error, Result};
use crate::layer::{Sink, Source};
use crate::memory::MemorySource;
use crate::name::ChannelName;

/// Keeps channels open and reads their queues in this process. It holds no message itself.
pub(crate) struct PubSubSource {
    inbox: Arc<Inbox>,
    /// Without repetitions.
    channels: Vec<ChannelName>,
    queues: MemorySource,
    /// Ready when a server has refused the subscription of a channel.
    refusal: Option<Pin<Box<dyn Future<Output = Error> + Send + Sync>>>,
    outages: Vec<Outage>,
    /// The shards whose outages have been reported and last. Several places may be on one of them.
    reported: HashSet<usize>,
}

/// Follows the outages at a place. Used if messages do not stay in this process meanwhile.
struct Outage {
    managers: Arc<Managers>,
    place: usize,
    /// The number of the shard at the place when the present outage began. The place may be on another one at its end.
    shard: usize,
    /// Ready with the error of an outage, then with `None` at its end, and so on.
    next: Pin<Box<dyn Future<Output = Option<Error>> + Send + Sync>>,
}

impl PubSubSource {
    /// A source of `channels`, which have no local part.
    pub(crate) fn new(inbox: Arc<Inbox>, mut channels: Vec<ChannelName>) -> Result<Self> {
        channels.sort();
        channels.dedup();
        let names: Vec<_> = channels.iter().map(ChannelName::as_str).collect();
        let queues = inbox.memory.source(&names).map_err(|error| inbox.closing.explain(error))?;
        let requested = RequestedSubscriptions::all(channels.iter().map(|channel| inbox.interest.add_reader(channel)));
        let managers = inbox.interest.managers();
        let outages = match managers.fallback() {
            Fallback::Fail => {
                inbox.interest.places_of(&channels).into_iter().map(|place| Outage::at(managers, place)).collect()
            }
            Fallback::Local => Vec::new(),
        };
        let asked = inbox.clone();
        let refusal = Box::pin(async move { asked.interest.refused(&requested).await });
        Ok(Self { inbox, channels, queues, refusal: Some(refusal), outages, reported: HashSet::new() })
    }

    fn poll_fault(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        if let Some(refusal) = &mut self.refusal
            && let Poll::Ready(error) = refusal.as_mut().poll(cx)
        {
            self.refusal = None;
            return Poll::Ready(error);
        }
        for outage in &mut self.outages {
            while let Poll::Ready(change) = outage.poll(cx) {
                match change {
                    Some(error) if self.reported.insert(outage.shard) => return Poll::Ready(error),
                    Some(_) => {}
                    None => drop(self.reported.remove(&outage.shard)),
                }
            }
        }
        Poll::Pending
    }
}

impl Outage {
    fn at(managers: &Arc<Managers>, place: usize) -> Self {
        let next = next_outage(managers.clone(), place);
        Self { managers: managers.clone(), place, shard: managers.shard_at(place), next: Box::pin(next) }
    }

    /// Ready with the error of an outage when it begins, and with `None` when it ends.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Error>> {
        let change = std::task::ready!(self.next.as_mut().poll(cx));
        if change.is_some() {
            self.shard = self.managers.shard_at(self.place);
        }
        let (managers, place) = (self.managers.clone(), self.place);
        self.next = match &change {
            None => Box::pin(next_outage(managers, place)),
            Some(_) => Box::pin(async move {
                managers.reachable(place).await;
                None
            }),
        };
        Poll::Ready(change)
    }
}

async fn next_outage(managers: Arc<Managers>, place: usize) -> Option<Error> {
    Some(managers.outage(place).await)
}

#[async_trait]
impl Source for PubSubSource {
    fn poll_recv_many(&mut self, cx: &mut Context<'_>, sink: Sink<'_>, limit: usize) -> Poll<Result<usize>> {
        if let Poll::Ready(result) = self.queues.poll_recv_many(cx, sink, limit) {
            if let Ok(taken) = result {
                drops::count_received(taken);
            }
            return Poll::Ready(result.map_err(|error| self.inbox.closing.explain(error)));
        }
        self.poll_fault(cx).map(Err)
    }

    fn pause(&mut self) {
        self.queues.pause();
    }

    async fn close(&mut self) -> Result<()> {
        self.queues.close().await
    }
}

impl Drop for PubSubSource {
    fn drop(&mut self) {
        for channel in &self.channels {
            self.inbox.interest.remove_reader(channel);
        }
    }
}
