//! What an end of a wire can do, whichever language it is in.

use async_trait::async_trait;
use channel_layer::Message;

/// A layer at one end. What it is told to do has to succeed, and what it waits for has to come.
#[async_trait]
pub trait Side: Send + Sync {
    async fn send(&self, channel: &str, message: &Message);
    /// Receives from `channel`, or from all channels of the same process. Returns the full name as well.
    async fn receive(&self, channel: &str) -> (String, Message);
    /// The name of a process-local channel that this end reads.
    async fn new_local_channel(&self) -> String;
    async fn new_single_reader_channel(&self) -> String;
    async fn group_add(&self, group: &str, channel: &str);
    async fn group_discard(&self, group: &str, channel: &str);
    async fn group_send(&self, group: &str, message: &Message);
    async fn flush(&self);
}
