//! `Resp2`: a subscribed connection in RESP2, in which the client hands over answers and messages separately.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{FutureExt, Stream, StreamExt};
use redis::aio::PubSubSink;
use redis::{Client, ErrorKind, Msg, ProtocolVersion, RedisError, Value};
use tokio::sync::{mpsc, oneshot};
use tokio::task::unconstrained;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::redis::node::fault::Fault;
use crate::redis::pubsub::subscribe::protocol::{Answers, Command, Deliver};
use crate::redis::pubsub::topic::Subscription;

/// The task yields after this many messages in a row.
const MESSAGES_IN_A_ROW: usize = 256;

/// A place in the stream of messages. It is signalled when all messages before it are delivered.
type Mark = oneshot::Sender<()>;

/// A connection in RESP2. Cheap to clone. It closes with its last clone.
#[derive(Clone)]
pub(crate) struct Resp2 {
    sink: PubSubSink,
    marks: mpsc::UnboundedSender<Mark>,
    _reading: Arc<AbortOnDropHandle<()>>,
}

#[derive(Debug, thiserror::Error)]
#[error("the subscribed connection was closed")]
struct Closed;

impl Resp2 {
    /// Opens a connection to the server of `client`. Its messages go to `deliver`, and `lost` is cancelled when it
    /// ends.
    pub(crate) async fn open(client: &Client, deliver: Deliver, lost: CancellationToken) -> Result<Self, RedisError> {
        let info = client.get_connection_info().clone();
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP2);
        let client = Client::open(info.set_redis_settings(settings))?;
        let (sink, stream) = client.get_async_pubsub().await?.split();
        let (marks, marked) = mpsc::unbounded_channel();
        // The task ends with the connection, or with the last clone.
        let reading = tokio::spawn(read(stream, marked, deliver, lost));
        Ok(Self { sink, marks, _reading: Arc::new(AbortOnDropHandle::new(reading)) })
    }

    /// Sends one command for all subscriptions of a kind. If it is refused, sends one for each, because one bad name
    /// fails all of them.
    pub(crate) async fn send(&self, all: &[Subscription], command: Command) -> Result<Answers, RedisError> {
        let mut kinds: HashMap<&str, Vec<(usize, &str)>> = HashMap::new();
        for (at, subscription) in all.iter().enumerate() {
            let (name, topic) = command(subscription);
            kinds.entry(name).or_default().push((at, topic));
        }
        let mut answers: Answers = all.iter().map(|_| Ok(())).collect();
        for (name, topics) in kinds {
            let together: Vec<_> = topics.iter().map(|(_, topic)| *topic).collect();
            match self.send_command(name, &together).await {
                Err(error) if error.is_io_error() => return Err(error),
                Err(error) if topics.len() == 1 => answers[topics[0].0] = Err(error),
                Err(_) => {
                    for (at, topic) in topics {
                        answers[at] = self.send_command(name, &[topic]).await;
                    }
                }
                Ok(()) => {}
            }
        }
        Ok(answers)
    }

    async fn send_command(&self, name: &str, topics: &[&str]) -> Result<(), RedisError> {
        let mut sink = self.sink.clone();
        match name {
            "SUBSCRIBE" => sink.subscribe(topics).await,
            "UNSUBSCRIBE" => sink.unsubscribe(topics).await,
            "PSUBSCRIBE" => sink.psubscribe(topics).await,
            "PUNSUBSCRIBE" => sink.punsubscribe(topics).await,
            _ => Err((ErrorKind::RESP3NotSupported, "sharded pub/sub requires a server that speaks RESP3").into()),
        }
    }

    /// Waits until all messages are delivered that were published before the call.
    pub(crate) async fn catch_up(&self) -> Result<(), Fault> {
        // The answer comes behind these messages, so all of them are in the stream then.
        self.sink.clone().ping::<Value>().await.map_err(Fault::from)?;
        let (mark, delivered) = oneshot::channel();
        // A dropped mark means that the connection has ended.
        let _ = self.marks.send(mark);
        delivered.await.map_err(|_| Fault::unsent(Closed))
    }
}

/// Delivers messages and signals marks until the connection ends.
///
/// The length of the stream is bounded by time: a connection whose marks are not signalled in time is closed.
async fn read(
    stream: impl Stream<Item = Msg> + Unpin,
    marks: mpsc::UnboundedReceiver<Mark>,
    deliver: Deliver,
    lost: CancellationToken,
) {
    let _ended = lost.drop_guard();
    let mut arrivals = Arrivals { stream, marks, waiting: VecDeque::new() };
    let mut in_a_row = 0;
    while let Some(arrival) = arrivals.next().await {
        match arrival {
            Arrival::Message(message) => {
                let payload = Bytes::copy_from_slice(message.get_payload_bytes());
                deliver(message.get_channel_name().as_bytes(), payload);
                in_a_row += 1;
                if in_a_row == MESSAGES_IN_A_ROW {
                    in_a_row = 0;
                    tokio::task::yield_now().await;
                }
            }
            Arrival::Mark(mark) => drop(mark.send(())),
        }
    }
}

/// The stream of messages with the marks in their places.
struct Arrivals<S> {
    stream: S,
    marks: mpsc::UnboundedReceiver<Mark>,
    /// Messages that were taken from the stream to find the place of a mark.
    waiting: VecDeque<Arrival>,
}

enum Arrival {
    Message(Msg),
    Mark(Mark),
}

impl<S: Stream<Item = Msg> + Unpin> Arrivals<S> {
    /// The next message or mark. `None` when the connection has ended.
    async fn next(&mut self) -> Option<Arrival> {
        if let Ok(mark) = self.marks.try_recv() {
            self.place(mark);
        }
        if let Some(arrival) = self.waiting.pop_front() {
            return Some(arrival);
        }
        // With an exhausted budget the stream would look empty, and a mark would overtake messages.
        let next = unconstrained(async {
            tokio::select! {
                biased;
                message = self.stream.next() => message.map(Arrival::Message),
                Some(mark) = self.marks.recv() => Some(Arrival::Mark(mark)),
            }
        });
        next.await
    }

    /// Puts `mark` behind the messages in the stream. Messages arrive meanwhile, but more slowly than they are moved.
    fn place(&mut self, mark: Mark) {
        while let Some(Some(message)) = unconstrained(self.stream.next()).now_or_never() {
            self.waiting.push_back(Arrival::Message(message));
        }
        self.waiting.push_back(Arrival::Mark(mark));
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;

    fn message(number: usize) -> Msg {
        let text = |text: &str| Value::BulkString(text.into());
        let value = Value::Array(vec![text("message"), text("work"), text(&number.to_string())]);
        Msg::from_owned_value(value).expect("it has the form of one")
    }

    #[tokio::test]
    async fn in_a_flood_a_mark_is_signalled_after_the_messages_before_it() {
        let (sender, mut flood) = mpsc::unbounded_channel();
        let (marks, marked) = mpsc::unbounded_channel();
        let delivered = Arc::new(Mutex::new(Vec::new()));
        let deliver: Deliver = {
            let delivered = delivered.clone();
            Arc::new(move |_, payload| delivered.lock().push(payload))
        };
        let stream = futures_util::stream::poll_fn(move |cx| flood.poll_recv(cx));
        let _reading = AbortOnDropHandle::new(tokio::spawn(read(stream, marked, deliver, CancellationToken::new())));
        let sent = Mutex::new(0);
        // Whenever the task yields, more messages arrive than it has delivered.
        let flooding = async {
            for _ in 0..300 {
                for _ in 0..2 * MESSAGES_IN_A_ROW {
                    let mut number = sent.lock();
                    sender.send(message(*number)).expect("it is read");
                    *number += 1;
                }
                tokio::task::yield_now().await;
            }
        };
        let marking = async {
            for _ in 0..3 {
                let before = *sent.lock();
                let (mark, signalled) = oneshot::channel();
                marks.send(mark).expect("it is read");
                signalled.await.expect("it is signalled");
                assert!(delivered.lock().len() >= before, "the mark overtook messages");
            }
        };
        tokio::select! {
            () = flooding => panic!("no mark was signalled"),
            () = marking => {}
        }
        let order: Vec<_> = delivered.lock().iter().map(|payload| payload.to_vec()).collect();
        assert!(order.iter().enumerate().all(|(at, number)| *number == at.to_string().into_bytes()), "not in order");
    }
}
