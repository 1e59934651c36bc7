//! Finding out whether messages arrive: one that is published, and comes back over the subscribed connection.

use super::interest::Interest;
use super::layer::PubSubLayer;
use super::topic::Target;
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
    /// How the servers are, and whether messages arrive through them.
    pub(crate) async fn examine(&self) -> Health {
        let mut health = self.health_probe.health(&self.shards, |shard| self.travel(shard)).await;
        for (shard, status) in self.status().into_iter().enumerate() {
            match status.mode {
                Mode::Remote => {}
                Mode::LocalOnly => health.falls_back(shard, status.reason),
                Mode::Down => health.fails(shard, status.reason),
            }
            // Without a fallback for them: messages of others do not arrive.
            if let Some(fault) = self.inbox.interest.stations()[shard].refusal() {
                let refusal = self.shards[shard].error(fault);
                health.fails(shard, Some(format!("a subscription was refused: {refusal}")));
            }
        }
        health
    }

    /// Publishes a message through `shard` and hears it, on a channel that nobody else has.
    async fn travel(&self, shard: &Shard) -> Result<(), BoxError> {
        let interest = &self.inbox.interest;
        if let Reachability::Away(fault) = interest.stations()[shard.index].reach() {
            return Err(shard.error(fault).into());
        }
        let place = |channel: &ChannelName| ((), self.topics.address(&Target::Channel(channel.clone())).shard);
        let (channel, ()) = probe::channel_on(shard, place)?;
        let _opened = Opened { interest, channel: &channel };
        self.subscribe(&[channel.as_str()]).await?;
        // One that stays in this process does not say so.
        let probe = message! { "published": true };
        let posted = self.post(Target::Channel(channel.clone()), &probe, Message::default())?;
        self.outcome(posted).await?;
        let heard = self.receive(&[channel.as_str()]).await?.message;
        if heard == probe { Ok(()) } else { Err(Stayed.into()) }
    }
}

/// A channel that closes at once when this is dropped, since nothing else will be sent to it.
struct Opened<'p> {
    interest: &'p Interest,
    channel: &'p ChannelName,
}

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        self.interest.close(self.channel);
    }
}
