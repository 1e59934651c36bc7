//! `PubSubSource`: the source of a receiver of published messages.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;
use tokio::sync::watch;

use super::inbox::Inbox;
use super::interest::RequestedSubscriptions;
use crate::config::Fallback;
use crate::drops;
use crate::error::{Error, Result};
use crate::layer::{Sink, Source};
use crate::memory::MemorySource;
use crate::name::ChannelName;
use crate::redis::pubsub::subscribe::manager::{Progress, Reachability, SubscriptionManager};

/// Keeps channels open and reads their queues in this process. It holds no message itself.
pub(crate) struct PubSubSource {
    inbox: Arc<Inbox>,
    /// Without repetitions.
    channels: Vec<ChannelName>,
    queues: MemorySource,
    /// Ready when a server has refused the subscription of a channel.
    refusal: Option<Pin<Box<dyn Future<Output = Error> + Send + Sync>>>,
    outages: Vec<Outage>,
}

/// Reports each outage of a server once. Used if messages do not stay in this process meanwhile.
struct Outage {
    manager: Arc<SubscriptionManager>,
    reported: bool,
    /// Ready with the next change of the manager's progress. Returns the receiver of the progress.
    change: Option<Pin<Box<dyn Future<Output = watch::Receiver<Progress>> + Send + Sync>>>,
}

impl PubSubSource {
    /// A source of `channels`, which have no local part.
    pub(crate) fn new(inbox: Arc<Inbox>, mut channels: Vec<ChannelName>) -> Result<Self> {
        channels.sort();
        channels.dedup();
        let names: Vec<_> = channels.iter().map(ChannelName::as_str).collect();
        let queues = inbox.memory.source(&names).map_err(|error| inbox.closing.explain(error))?;
        let requested = RequestedSubscriptions::all(channels.iter().map(|channel| inbox.interest.add_reader(channel)));
        let managers = inbox.interest.managers_of(&channels).into_iter();
        let outages = managers.filter(|manager| manager.fallback == Fallback::Fail).map(Outage::of).collect();
        let asked = inbox.clone();
        let refusal = Box::pin(async move { asked.interest.refused(&requested).await });
        Ok(Self { inbox, channels, queues, refusal: Some(refusal), outages })
    }

    fn poll_fault(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        if let Some(refusal) = &mut self.refusal
            && let Poll::Ready(error) = refusal.as_mut().poll(cx)
        {
            self.refusal = None;
            return Poll::Ready(error);
        }
        for outage in &mut self.outages {
            if let Poll::Ready(error) = outage.poll(cx) {
                return Poll::Ready(error);
            }
        }
        Poll::Pending
    }
}

impl Outage {
    fn of(manager: Arc<SubscriptionManager>) -> Self {
        Self { manager, reported: false, change: None }
    }

    /// Ready with the error of an outage that has not been reported.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        loop {
            let mut progress = match &mut self.change {
                None => self.manager.progress(),
                Some(change) => match change.as_mut().poll(cx) {
                    Poll::Ready(progress) => progress,
                    Poll::Pending => return Poll::Pending,
                },
            };
            let reachability = progress.borrow_and_update().reachability.clone();
            self.change = Some(Box::pin(async move {
                // The manager is gone when the layer is closed. The queues report that.
                if progress.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
                progress
            }));
            match reachability {
                Reachability::Unreachable(fault) if !self.reported => {
                    self.reported = true;
                    return Poll::Ready(self.manager.shard.error(fault));
                }
                Reachability::Reachable(..) => self.reported = false,
                _ => {}
            }
        }
    }
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
