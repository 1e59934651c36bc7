//! The connections of this process, by client: how a reply finds its socket.

mod everyone;

pub use everyone::QueueDepths;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use rand::Rng;
use rand::distr::Alphanumeric;
use tokio::time::sleep;

use crate::drops;
use crate::name::{ChannelName, InvalidName};
use crate::server::asgi::lost::Lost;
use crate::server::asgi::messages::Reply;
use crate::server::limits::{Admission, Gate, Refused};
use crate::server::options::SocketOptions;
use crate::server::websocket::queue::{Pushed, Queue};

/// How many messages for clients are taken from the layer at once.
pub(crate) const BATCH: usize = 256;

/// How finely closes are spread over time.
const CLOSING_STEP: Duration = Duration::from_millis(50);

/// All connections, keyed by client id in a sharded map: opening, closing and replying to different clients do not
/// wait for each other.
#[derive(Debug)]
pub(crate) struct Connections {
    /// `websocket.send.<process>!`
    channel: ChannelName,
    queues: DashMap<u64, Arc<Queue>>,
    next: AtomicU64,
    options: SocketOptions,
    gate: Arc<Gate>,
    /// With which code all are closed; 0 while they are not.
    closing: AtomicU16,
}

impl Connections {
    /// For the clients of an interface server, on a channel of their own.
    pub(crate) fn new(options: SocketOptions) -> Result<Arc<Self>, InvalidName> {
        let process: String = rand::rng().sample_iter(Alphanumeric).take(16).map(char::from).collect();
        Ok(Self::on(ChannelName::parse(&format!("websocket.send.{process}!"))?, options))
    }

    /// For clients whose channels begin with `channel`.
    pub(crate) fn on(channel: ChannelName, options: SocketOptions) -> Arc<Self> {
        Arc::new(Self {
            channel,
            queues: DashMap::new(),
            next: AtomicU64::new(1),
            options,
            gate: Arc::new(Gate::new(&options)),
            closing: AtomicU16::new(0),
        })
    }

    /// The process-local channel on which replies to all connections arrive.
    pub(crate) fn channel(&self) -> &ChannelName {
        &self.channel
    }

    /// Registers a connection from an address, if that is known, for as long as what it gives is kept.
    pub(crate) fn open(self: &Arc<Self>, address: Option<IpAddr>) -> Result<Connection, Refused> {
        let admission = Some(self.gate.admit(address)?);
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let queue = Arc::new(Queue::new(&self.options));
        self.queues.insert(id, queue.clone());
        // Either this sees that the server is closing, or the server, which looks through the map after it has said
        // so, sees this connection.
        let closing = self.closing.load(Ordering::SeqCst);
        if closing != 0 {
            queue.close(closing, "going away");
        }
        metrics::gauge!("channel_layer_connections").increment(1.0);
        Ok(Connection { connections: self.clone(), id, queue, admission })
    }

    /// Queues a reply for the client that a reply channel's local part names; `None` if it is not here any more.
    pub(crate) fn push(&self, client: &str, reply: Reply) -> Option<Pushed> {
        let id = u64::from_str_radix(client, 16).ok()?;
        self.queues.get(&id).map(|queue| queue.push(reply))
    }

    /// Closes every connection that there is, each after what is queued for it, spread evenly over a time.
    ///
    /// # Cancel safety
    ///
    /// When dropped, some are not told.
    pub(crate) async fn close_all(&self, over: Duration, code: u16, reason: &'static str) {
        let queues: Vec<_> = self.queues.iter().map(|queue| queue.clone()).collect();
        let steps = u32::try_from(over.as_millis() / CLOSING_STEP.as_millis()).unwrap_or(u32::MAX).max(1);
        let size = queues.len().div_ceil(steps as usize).max(1);
        for (step, part) in queues.chunks(size).enumerate() {
            if step > 0 {
                sleep(over / steps).await;
            }
            for queue in part {
                queue.close(code, reason);
            }
        }
    }

    /// Closes every connection that there is or will be, those that there are spread evenly over a time.
    ///
    /// # Cancel safety
    ///
    /// As [`close_all`](Self::close_all).
    pub(crate) async fn drain(&self, over: Duration, code: u16) {
        self.closing.store(code, Ordering::SeqCst);
        self.close_all(over, code, "going away").await;
    }

    /// Whether all are closed, and those that come.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::SeqCst) != 0
    }

    /// How many clients are connected.
    pub(crate) fn len(&self) -> usize {
        self.gate.open()
    }
}

/// A registered connection; dropping it takes it out.
#[derive(Debug)]
pub(crate) struct Connection {
    connections: Arc<Connections>,
    id: u64,
    queue: Arc<Queue>,
    /// While its client is there.
    admission: Option<Admission>,
}

impl Connection {
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    /// Its channel, which names it among all processes.
    pub(crate) fn name(&self) -> Result<ChannelName, InvalidName> {
        self.connections.name(self.id)
    }

    /// Where the application replies to this connection.
    pub(crate) fn reply_channel(&self) -> String {
        format!("{}{:x}", self.connections.channel, self.id)
    }

    /// The client has gone, and counts against no limit any more. Replies still find the queue until this is dropped.
    pub(crate) fn release(&mut self) {
        if self.admission.take().is_some() {
            metrics::gauge!("channel_layer_connections").decrement(1.0);
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.connections.queues.remove(&self.id);
        drops::count(Lost::ClientGone, self.queue.end());
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::asgi::messages::code;

    #[test]
    fn a_client_is_found_by_the_local_part_of_its_reply_channel() {
        let connections = Connections::new(SocketOptions::default()).unwrap();
        let opened: Vec<_> = (0..100).map(|_| connections.open(None).unwrap()).collect();
        for connection in &opened {
            let channel: ChannelName = connection.reply_channel().parse().unwrap();
            assert_eq!(channel.non_local(), connections.channel().as_str());
            assert_eq!(connections.push(channel.local().unwrap(), Reply::default()), Some(Pushed::Queued));
        }
        drop(opened);
        assert_eq!((connections.len(), connections.queues.len()), (0, 0));
        assert_eq!(connections.push("1", Reply::default()), None);
        assert_eq!(connections.push("not a number", Reply::default()), None);
    }

    #[test]
    fn a_client_that_has_gone_counts_no_more_and_replies_still_find_its_queue() {
        let connections = Connections::new(SocketOptions::new().max_connections(1)).unwrap();
        let mut gone = connections.open(None).unwrap();
        assert!(connections.open(None).is_err());
        gone.release();
        assert_eq!(connections.len(), 0);
        let _next = connections.open(None).unwrap();
        assert_eq!(connections.push("1", Reply::default()), Some(Pushed::Queued));
        drop(gone);
        assert_eq!((connections.len(), connections.queues.len()), (1, 1));
    }

    #[tokio::test]
    async fn a_connection_opened_during_a_drain_is_told_to_close() {
        let connections = Connections::new(SocketOptions::default()).unwrap();
        let before = connections.open(None).unwrap();
        connections.drain(Duration::ZERO, code::SERVICE_RESTART).await;
        let after = connections.open(None).unwrap();
        for connection in [before, after] {
            assert_eq!(connection.queue().take_one().await.unwrap_err().code, 1012);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn closes_are_spread_over_the_time() {
        let connections = Connections::new(SocketOptions::default()).unwrap();
        let opened: Vec<_> = (0..1_000).map(|_| connections.open(None).unwrap()).collect();
        let closing = |connection: &&Connection| connection.queue().push(Reply::default()) == Pushed::Ending;
        let closed = || opened.iter().filter(closing).count();
        let draining = connections.drain(Duration::from_secs(10), code::SERVICE_RESTART);
        tokio::pin!(draining);
        for second in 1..10 {
            assert!(tokio::time::timeout(Duration::from_secs(1), &mut draining).await.is_err());
            assert!((closed().abs_diff(100 * second)) <= 10, "{second} {}", closed());
        }
        draining.await;
        assert_eq!(closed(), 1_000);
    }
}
