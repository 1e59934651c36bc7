//! A shared layer is a layer, for code that takes any and is given an `Arc<dyn ChannelLayer>`.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, watch};

use super::{ChannelLayer, Delivery, Event, Mode, Receiver, Statistics};
use crate::error::Result;
use crate::health::{Health, RedisStats};
use crate::message::Message;
use crate::name::ChannelName;

/// What the methods of the trait become. A call through an `Arc` finds this implementation first, and the future of
/// the layer itself is passed on so that such calls, which are most, do not put it into a second box.
type Pending<'f, T> = Pin<Box<dyn Future<Output = T> + Send + 'f>>;

impl<L: ChannelLayer + ?Sized> ChannelLayer for Arc<L> {
    fn send<'a, 'b, 'f>(&'a self, channel: &'b str, message: Message) -> Pending<'f, Result<()>>
    where
        'a: 'f,
        'b: 'f,
        Self: 'f,
    {
        (**self).send(channel, message)
    }

    fn send_many<'a, 'b, 'c, 'f>(&'a self, messages: &'b [(&'c str, Message)]) -> Pending<'f, Vec<Result<()>>>
    where
        'a: 'f,
        'b: 'f,
        'c: 'f,
        Self: 'f,
    {
        (**self).send_many(messages)
    }

    fn give_back<'a, 'b, 'c, 'f>(&'a self, messages: &'b [(&'c str, Message)]) -> Pending<'f, Vec<Result<()>>>
    where
        'a: 'f,
        'b: 'f,
        'c: 'f,
        Self: 'f,
    {
        (**self).give_back(messages)
    }

    fn receive<'a, 'b, 'c, 'f>(&'a self, channels: &'b [&'c str]) -> Pending<'f, Result<Delivery>>
    where
        'a: 'f,
        'b: 'f,
        'c: 'f,
        Self: 'f,
    {
        (**self).receive(channels)
    }

    fn try_receive<'a, 'b, 'c, 'f>(&'a self, channels: &'b [&'c str]) -> Pending<'f, Result<Option<Delivery>>>
    where
        'a: 'f,
        'b: 'f,
        'c: 'f,
        Self: 'f,
    {
        (**self).try_receive(channels)
    }

    fn receiver(&self, channels: &[&str]) -> Result<Receiver> {
        (**self).receiver(channels)
    }

    fn new_channel<'a, 'b, 'f>(&'a self, pattern: &'b str) -> Pending<'f, Result<ChannelName>>
    where
        'a: 'f,
        'b: 'f,
        Self: 'f,
    {
        (**self).new_channel(pattern)
    }

    fn group_add<'a, 'b, 'c, 'f>(&'a self, group: &'b str, channel: &'c str) -> Pending<'f, Result<()>>
    where
        'a: 'f,
        'b: 'f,
        'c: 'f,
        Self: 'f,
    {
        (**self).group_add(group, channel)
    }

    fn group_add_for<'a, 'b, 'c, 'f>(
        &'a self,
        group: &'b str,
        channel: &'c str,
        lasts: Duration,
    ) -> Pending<'f, Result<()>>
    where
        'a: 'f,
        'b: 'f,
        'c: 'f,
        Self: 'f,
    {
        (**self).group_add_for(group, channel, lasts)
    }

    fn group_discard<'a, 'b, 'c, 'f>(&'a self, group: &'b str, channel: &'c str) -> Pending<'f, Result<()>>
    where
        'a: 'f,
        'b: 'f,
        'c: 'f,
        Self: 'f,
    {
        (**self).group_discard(group, channel)
    }

    fn group_channels<'a, 'b, 'f>(&'a self, group: &'b str) -> Pending<'f, Result<Vec<ChannelName>>>
    where
        'a: 'f,
        'b: 'f,
        Self: 'f,
    {
        (**self).group_channels(group)
    }

    fn lists_all_members(&self) -> bool {
        (**self).lists_all_members()
    }

    fn group_send<'a, 'b, 'f>(&'a self, group: &'b str, message: Message) -> Pending<'f, Result<()>>
    where
        'a: 'f,
        'b: 'f,
        Self: 'f,
    {
        (**self).group_send(group, message)
    }

    fn group_send_many<'a, 'b, 'c, 'f>(&'a self, messages: &'b [(&'c str, Message)]) -> Pending<'f, Vec<Result<()>>>
    where
        'a: 'f,
        'b: 'f,
        'c: 'f,
        Self: 'f,
    {
        (**self).group_send_many(messages)
    }

    fn flush<'a, 'f>(&'a self) -> Pending<'f, Result<()>>
    where
        'a: 'f,
        Self: 'f,
    {
        (**self).flush()
    }

    fn global_statistics<'a, 'f>(&'a self) -> Pending<'f, Result<Statistics>>
    where
        'a: 'f,
        Self: 'f,
    {
        (**self).global_statistics()
    }

    fn channel_statistics<'a, 'b, 'f>(&'a self, channel: &'b str) -> Pending<'f, Result<Statistics>>
    where
        'a: 'f,
        'b: 'f,
        Self: 'f,
    {
        (**self).channel_statistics(channel)
    }

    fn close<'a, 'f>(&'a self) -> Pending<'f, Result<()>>
    where
        'a: 'f,
        Self: 'f,
    {
        (**self).close()
    }

    fn health<'a, 'f>(&'a self) -> Pending<'f, Health>
    where
        'a: 'f,
        Self: 'f,
    {
        (**self).health()
    }

    fn redis_stats<'a, 'f>(&'a self) -> Pending<'f, Result<Vec<RedisStats>>>
    where
        'a: 'f,
        Self: 'f,
    {
        (**self).redis_stats()
    }

    fn group_expiry(&self) -> Duration {
        (**self).group_expiry()
    }

    fn max_message_size(&self) -> usize {
        (**self).max_message_size()
    }

    fn events(&self) -> broadcast::Receiver<Event> {
        (**self).events()
    }

    fn mode(&self) -> watch::Receiver<Mode> {
        (**self).mode()
    }

    fn outage(&self) -> Option<usize> {
        (**self).outage()
    }
}
