//! The health probe of a `PubSubLayer`: a message that is published and arrives over the subscribed connection.

use super::interest::Interest;
use super::layer::PubSubLayer;
use super::topic::Target;
use crate::config::Fallback;
use crate::error::BoxError;
use crate::health::Health;
use crate::layer::{ChannelLayer, Mode};
use crate::message;
use crate::message::Message;
use crate::name::ChannelName;
use crate::redis::node::shard::Shard;
use crate::redis::pubsub::subscribe::manager::Reachability;
use crate::redis::topology::probe;

#[derive(Debug, thiserror::Error)]
#[error("the message stayed in this process")]
struct Stayed;

impl PubSubLayer {
    /// The health of the servers, with a probe of each.
    pub(crate) async fn examine(&self) -> Health {
        let mut health = self.health_probe.health(self.places.shards(), |shard| self.send_through(shard)).await;
        for status in self.status() {
            match status.mode {
                Mode::Remote => {}
                Mode::LocalOnly => health.falls_back(status.shard, status.reason),
                Mode::Down => health.fails(status.shard, status.reason),
            }
        }
        let managers = self.inbox.interest.managers();
        for (shard, error) in managers.all_unserved() {
            match managers.fallback() {
                Fallback::Local => health.falls_back(shard, Some(error.to_string())),
                Fallback::Fail => health.fails(shard, Some(error.to_string())),
            }
        }
        for manager in managers.all() {
            // There is no fallback for a refused subscription: messages of other processes do not arrive.
            if let Some(fault) = manager.refusal() {
                let refusal = manager.shard.error(fault);
                health.fails(manager.shard.index, Some(format!("a subscription was refused: {refusal}")));
            }
        }
        health
    }

    /// Publishes a message through `shard` and receives it, on a channel of its own.
    async fn send_through(&self, shard: &Shard) -> Result<(), BoxError> {
        let interest = &self.inbox.interest;
        let managers = interest.managers();
        if let Some(Reachability::Unreachable(fault)) = managers.of_shard(shard.index).map(|it| it.reachability()) {
            return Err(shard.error(fault).into());
        }
        if !managers.is_used(shard.index) {
            return Ok(());
        }
        let place = |channel: &ChannelName| {
            ((), managers.shard_at(self.topics.address(&Target::Channel(channel.clone())).place))
        };
        let (channel, ()) = probe::channel_on(shard, place).await?;
        let _opened = Opened { interest, channel: &channel };
        self.subscribe(&[channel.as_str()]).await?;
        // The copy that would stay in this process is another message.
        let probe = message! { "published": true };
        let publication = self.enqueue(Target::Channel(channel.clone()), &probe, Message::default())?;
        self.outcome(publication).await.read()?;
        let received = self.receive(&[channel.as_str()]).await?.message;
        if received == probe { Ok(()) } else { Err(Stayed.into()) }
    }
}

/// An open channel. It is closed on drop, because no other message is sent to it.
struct Opened<'p> {
    interest: &'p Interest,
    channel: &'p ChannelName,
}

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        self.interest.close(self.channel);
    }
}
