//! `Connections`: the registry of connections, which finds the queue of a client by its reply channel.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use rand::distr::{Alphanumeric, SampleString};
use tokio::time::sleep;

use crate::drops;
use crate::name::{ChannelName, InvalidName};
use crate::server::counters::ClientDropReason;
use crate::server::limits::{ConnectionLimiter, ConnectionPermit, Refused};
use crate::server::options::SocketOptions;
use crate::server::websocket::queue::{DroppedReplies, Pushed, Queue};
use crate::server::websocket::reply::Reply;
use crate::supervise::update_metric;

/// Interval of the steps in which a spread close closes sockets.
const CLOSING_STEP: Duration = Duration::from_millis(50);

/// All connections of a process, keyed by client id in a sharded map, so that operations on different clients do not
/// wait for each other.
#[derive(Debug)]
pub(crate) struct Connections {
    /// `websocket.send.<process>!`
    channel: ChannelName,
    queues: DashMap<u64, Arc<Queue>>,
    next: AtomicU64,
    options: SocketOptions,
    limiter: Arc<ConnectionLimiter>,
    /// Close code of all connections; 0 while the registry is open.
    closing: AtomicU16,
}

/// The messages that wait for the clients of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueDepths {
    /// Messages that wait for all clients together.
    pub messages: usize,
    /// Bytes of memory that these messages take.
    pub bytes: usize,
    /// Messages that wait for the client with the longest queue.
    pub longest: usize,
}

impl Connections {
    /// Creates the registry of an interface server, with a channel of its own.
    pub(crate) fn new(options: SocketOptions) -> Result<Arc<Self>, InvalidName> {
        let process = Alphanumeric.sample_string(&mut rand::rng(), 16);
        Ok(Self::on(ChannelName::parse(&format!("websocket.send.{process}!"))?, options))
    }

    /// Creates a registry whose clients have channels that start with `channel`.
    pub(crate) fn on(channel: ChannelName, options: SocketOptions) -> Arc<Self> {
        Arc::new(Self {
            channel,
            queues: DashMap::new(),
            next: AtomicU64::new(1),
            options,
            limiter: Arc::new(ConnectionLimiter::new(&options)),
            closing: AtomicU16::new(0),
        })
    }

    /// Returns the process-local channel on which replies to all connections arrive.
    pub(crate) fn channel(&self) -> &ChannelName {
        &self.channel
    }

    /// Registers a connection, from `address` if it is known, until the returned value is dropped.
    pub(crate) fn open(self: &Arc<Self>, address: Option<IpAddr>) -> Result<Connection, Refused> {
        let permit = Some(self.limiter.acquire(address)?);
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let queue = Arc::new(Queue::new(&self.options));
        self.queues.insert(id, queue.clone());
        // A drain first stores `closing` and then iterates over the map. So either this code sees `closing`, or the
        // drain sees this connection.
        let closing = self.closing.load(Ordering::SeqCst);
        if closing != 0 {
            queue.close(closing, "going away");
        }
        update_metric(|| metrics::gauge!("channel_layer_connections").increment(1.0));
        Ok(Connection { connections: self.clone(), id, queue, permit })
    }

    /// Pushes a reply to the queue of the client that the local part of a reply channel names. Returns `None` if the
    /// client is not connected.
    pub(crate) fn push(&self, client: &str, reply: Reply) -> Option<Pushed> {
        let id = u64::from_str_radix(client, 16).ok()?;
        self.queues.get(&id).map(|queue| queue.push(reply))
    }

    /// Pushes a reply to a client as [`push`](Self::push), and counts it if it is dropped.
    pub(crate) fn send(&self, client: &str, reply: Reply) -> Option<()> {
        self.push(client, reply).map(Pushed::count)
    }

    /// Pushes a reply to every client. Returns the number of clients.
    pub(crate) fn push_all(&self, reply: &Reply) -> usize {
        let mut dropped = DroppedReplies::default();
        let clients = self.queues.iter().map(|queue| dropped.add(queue.push(reply.clone()))).count();
        dropped.count();
        clients
    }

    /// Returns the channel of a client.
    pub(crate) fn name(&self, id: u64) -> Result<ChannelName, InvalidName> {
        ChannelName::from_parts(self.channel.as_str(), &format!("{id:x}"))
    }

    /// Returns the depths of all queues.
    pub(crate) fn depths(&self) -> QueueDepths {
        let mut depths = QueueDepths::default();
        for queue in &self.queues {
            let (messages, bytes) = queue.depth();
            depths.messages += messages;
            depths.bytes += bytes;
            depths.longest = depths.longest.max(messages);
        }
        depths
    }

    /// Closes every current connection after the messages in its queue. The closes are spread evenly over `over`.
    ///
    /// # Cancel safety
    ///
    /// When dropped, some connections stay open.
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

    /// Closes every current connection, spread evenly over `over`, and every later one immediately.
    ///
    /// # Cancel safety
    ///
    /// As [`close_all`](Self::close_all).
    pub(crate) async fn drain(&self, over: Duration, code: u16) {
        self.closing.store(code, Ordering::SeqCst);
        self.close_all(over, code, "going away").await;
    }

    /// Returns `true` once a drain has started.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::SeqCst) != 0
    }

    /// Returns the number of connected clients.
    pub(crate) fn len(&self) -> usize {
        self.limiter.open()
    }
}

/// A registered connection; removed from the registry on drop.
#[derive(Debug)]
pub(crate) struct Connection {
    connections: Arc<Connections>,
    id: u64,
    queue: Arc<Queue>,
    /// `None` once the client has disconnected.
    permit: Option<ConnectionPermit>,
}

impl Connection {
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    /// Returns the channel of the connection, which is unique among all processes.
    pub(crate) fn name(&self) -> Result<ChannelName, InvalidName> {
        self.connections.name(self.id)
    }

    /// Returns the channel on which the application replies to this connection.
    pub(crate) fn reply_channel(&self) -> String {
        format!("{}{:x}", self.connections.channel, self.id)
    }

    /// Releases the permit of a client that has disconnected. Replies still reach its queue until this is dropped.
    pub(crate) fn release(&mut self) {
        if self.permit.take().is_some() {
            update_metric(|| metrics::gauge!("channel_layer_connections").decrement(1.0));
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.connections.queues.remove(&self.id);
        drops::count(ClientDropReason::ClientGone, self.queue.end());
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;
    use crate::server::websocket::close_code;
    use crate::supervise::trap::CallingRecorder;

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
    fn a_released_connection_frees_its_permit_and_still_gets_replies() {
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

    #[test]
    fn a_reply_that_is_dropped_for_all_clients_is_counted_outside_of_locks() {
        let connections = Connections::new(SocketOptions::default()).unwrap();
        let open = Mutex::new(Some(connections.open(None).unwrap()));
        connections.queues.iter().for_each(|queue| {
            queue.end();
        });
        let recorder = CallingRecorder::new(move || drop(open.lock().take()));
        let _recording = metrics::set_default_local_recorder(&recorder);
        assert_eq!(connections.push_all(&Reply::default()), 1);
        assert_eq!(recorder.returned(), [true]);
    }

    #[tokio::test]
    async fn a_connection_opened_during_a_drain_is_closed() {
        let connections = Connections::new(SocketOptions::default()).unwrap();
        let before = connections.open(None).unwrap();
        connections.drain(Duration::ZERO, close_code::SERVICE_RESTART).await;
        let after = connections.open(None).unwrap();
        for connection in [before, after] {
            assert_eq!(connection.queue().take_one().await.unwrap_err().code, 1012);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn closes_are_spread_over_the_time() {
        let connections = Connections::new(SocketOptions::default()).unwrap();
        let opened: Vec<_> = (0..1_000).map(|_| connections.open(None).unwrap()).collect();
        let closing = |connection: &&Connection| connection.queue().push(Reply::default()) == Pushed::Closing;
        let closed = || opened.iter().filter(closing).count();
        let draining = connections.drain(Duration::from_secs(10), close_code::SERVICE_RESTART);
        tokio::pin!(draining);
        for second in 1..10 {
            assert!(tokio::time::timeout(Duration::from_secs(1), &mut draining).await.is_err());
            assert!((closed().abs_diff(100 * second)) <= 10, "{second} {}", closed());
        }
        draining.await;
        assert_eq!(closed(), 1_000);
    }
}
