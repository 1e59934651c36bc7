//! `Side`: the operations of a layer at one end of a connection, in either language.

use async_trait::async_trait;
use channel_layer::Message;

/// A layer in one language. A method panics if the operation fails, or if no message arrives in time.
#[async_trait]
pub trait Side: Send + Sync {
    async fn send(&self, channel: &str, message: &Message);
    /// Receives from `channel`, or from all process-local channels of its process. Returns the full name and the
    /// message.
    async fn receive(&self, channel: &str) -> (String, Message);
    /// Returns the name of a process-local channel that this side reads.
    async fn new_local_channel(&self) -> String;
    async fn new_single_reader_channel(&self) -> String;
    async fn group_add(&self, group: &str, channel: &str);
    async fn group_discard(&self, group: &str, channel: &str);
    async fn group_send(&self, group: &str, message: &Message);
    async fn flush(&self);
}
