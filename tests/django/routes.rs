//! All routes of a message from one side to the other.

use channel_layer::Message;

use super::json::message_to_json;
use super::side::Side;
use super::site::{Package, Site};
use crate::support::random_prefix;

/// A sending and a receiving side.
pub struct Wire<'a> {
    pub site: &'a Site,
    pub from: &'a dyn Side,
    pub to: &'a dyn Side,
}

impl Wire<'_> {
    /// Sends `message` by every route of the format, and checks each delivery.
    pub async fn carries(&self, message: &Message) {
        self.to_a_normal_channel(message).await;
        self.to_a_local_channel(message).await;
        if self.site.package == Package::AsgiRedis {
            self.to_a_single_reader_channel(message).await;
        }
        self.to_a_group(message).await;
        self.to_a_normal_channel_in_a_group(message).await;
    }

    /// To a normal channel.
    pub async fn to_a_normal_channel(&self, message: &Message) {
        let channel = random_prefix();
        tokio::join!(self.arrives(&channel, message), self.send(&channel, message));
    }

    /// To a process-local channel.
    async fn to_a_local_channel(&self, message: &Message) {
        let channel = self.to.new_local_channel().await;
        self.send(&channel, message).await;
        self.arrives(&channel, message).await;
    }

    /// To a single-reader channel.
    async fn to_a_single_reader_channel(&self, message: &Message) {
        let channel = self.to.new_single_reader_channel().await;
        self.send(&channel, message).await;
        self.arrives(&channel, message).await;
    }

    /// To a group with two members of one process. Each side adds one member if the format supports it.
    async fn to_a_group(&self, message: &Message) {
        let group = random_prefix();
        let mut members = [self.to.new_local_channel().await, self.to.new_local_channel().await];
        let other = if self.site.package == Package::PubSub { self.to } else { self.from };
        self.to.group_add(&group, &members[0]).await;
        other.group_add(&group, &members[1]).await;
        self.group_send(&group, message).await;
        let mut names = Vec::new();
        for channel in &members {
            let (name, received) = self.to.receive(channel).await;
            assert_same(&received, message);
            names.push(name);
        }
        // A reader may take messages of all process-local channels of the process, in any order.
        names.sort();
        members.sort();
        assert_eq!(names, members);

        other.group_discard(&group, &members[0]).await;
        self.to.group_discard(&group, &members[1]).await;
        self.from.group_send(&group, &Message::new()).await;
        self.send(&members[0], message).await;
        self.arrives(&members[0], message).await;
    }

    /// To a group with a normal channel as a member.
    async fn to_a_normal_channel_in_a_group(&self, message: &Message) {
        let (group, channel) = (random_prefix(), random_prefix());
        let send = async {
            self.site.subscribed(&channel).await;
            self.to.group_add(&group, &channel).await;
            self.group_send(&group, message).await;
        };
        tokio::join!(self.arrives(&channel, message), send);
    }

    async fn send(&self, channel: &str, message: &Message) {
        self.site.subscribed(channel).await;
        self.from.send(channel, message).await;
    }

    async fn group_send(&self, group: &str, message: &Message) {
        self.site.subscribed(&self.site.group_subscription(group)).await;
        self.from.group_send(group, message).await;
    }

    async fn arrives(&self, channel: &str, message: &Message) {
        let (name, received) = self.to.receive(channel).await;
        assert_eq!(name, channel);
        assert_same(&received, message);
    }
}

/// Checks that two messages are equal bit by bit. Panics with the keys that differ, because whole messages are long.
#[track_caller]
pub fn assert_same(received: &Message, sent: &Message) {
    if message_to_json(received) != message_to_json(sent) {
        let keys = sent.map().iter().chain(received.map().iter()).map(|(key, _)| key);
        let other: Vec<_> = keys.filter(|key| received.get(key) != sent.get(key)).collect();
        panic!("the values of {other:?} differ");
    }
}
