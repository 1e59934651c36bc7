//! The connection over which published messages come: RESP3 where the server speaks it, else RESP2.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use redis::aio::{MultiplexedConnection, PubSubSink, PubSubStream};
use redis::{AsyncConnectionConfig, Client, ErrorKind, ProtocolVersion, PushInfo, PushKind, RedisError, Value};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::topic::Subscription;
use crate::redis::connection::Timing;
use crate::redis::fault::Fault;

/// How many subscriptions one pipeline asks for.
const AT_ONCE: usize = 1000;
/// After so many messages in a row others get their turn.
const MESSAGES_IN_A_ROW: usize = 256;

/// Takes topic and payload of a message, in the task of the connection and in the order of their coming.
pub(super) type Deliver = Arc<dyn Fn(&[u8], Bytes) + Send + Sync>;

/// A connection that is subscribed to something; cheap to clone. It closes with its last clone.
#[derive(Clone)]
pub(super) struct Subscriber {
    protocol: Protocol,
    /// How long an answer may take.
    patience: Duration,
    lost: CancellationToken,
}

#[derive(Clone)]
enum Protocol {
    /// Messages are pushed between the answers, in one order with them.
    Resp3(MultiplexedConnection),
    Resp2 {
        sink: PubSubSink,
        /// Told when all messages before them are delivered.
        marks: mpsc::UnboundedSender<oneshot::Sender<()>>,
        _reading: Arc<AbortOnDropHandle<()>>,
    },
}

/// Why nothing comes from a connection that still seems to be there.
#[derive(Debug, thiserror::Error)]
enum Silence {
    #[error("the subscribed connection was closed")]
    Closed,
    #[error("the subscribed connection has not answered for {0:?}")]
    Unanswered(Duration),
}

impl Subscriber {
    /// Opens a connection to the server of `client`, whose messages go to `deliver`.
    pub(super) async fn open(client: &Client, timing: &Timing, deliver: Deliver) -> Result<Self, Fault> {
        let limit = timing.connect + timing.command;
        let opening = async {
            match Self::open_resp3(client, timing, deliver.clone()).await {
                // The server answered, but not as RESP3 wants it: it is too old, or the user may not say `HELLO`.
                Err(error) if !error.is_io_error() && !error.is_timeout() => {
                    Self::open_resp2(client, timing, deliver).await
                }
                opened => opened,
            }
        };
        let opened = tokio::time::timeout(limit, opening).await;
        opened.map_err(|_| Fault::unsent(Silence::Unanswered(limit)))?.map_err(Fault::unsent)
    }

    async fn open_resp3(client: &Client, timing: &Timing, deliver: Deliver) -> Result<Self, RedisError> {
        let info = client.get_connection_info().clone();
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let client = Client::open(info.set_redis_settings(settings))?;
        let lost = CancellationToken::new();
        let push = {
            let lost = lost.clone();
            move |push: PushInfo| {
                if push.kind == PushKind::Disconnection {
                    lost.cancel();
                } else if let Some((topic, payload)) = message(push) {
                    deliver(&topic, payload.into());
                }
                Ok::<_, std::convert::Infallible>(())
            }
        };
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(timing.connect))
            .set_response_timeout(Some(timing.command))
            .set_push_sender(push);
        let connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        Ok(Self { protocol: Protocol::Resp3(connection), patience: timing.command, lost })
    }

    async fn open_resp2(client: &Client, timing: &Timing, deliver: Deliver) -> Result<Self, RedisError> {
        let info = client.get_connection_info().clone();
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP2);
        let client = Client::open(info.set_redis_settings(settings))?;
        let (sink, stream) = client.get_async_pubsub().await?.split();
        let (marks, marked) = mpsc::unbounded_channel();
        let lost = CancellationToken::new();
        // It ends with the connection, or with the last clone of the subscriber.
        let reading = tokio::spawn(read(stream, marked, deliver, lost.clone()));
        let protocol = Protocol::Resp2 { sink, marks, _reading: Arc::new(AbortOnDropHandle::new(reading)) };
        Ok(Self { protocol, patience: timing.command, lost })
    }

    /// Waits until the connection is known to be lost.
    pub(super) async fn lost(&self) -> Fault {
        self.lost.cancelled().await;
        Fault::unsent(Silence::Closed)
    }

    /// Subscribes, and gives what the server refused, and why.
    ///
    /// # Errors
    ///
    /// A fault of the connection.
    pub(super) async fn subscribe(&self, all: &[Subscription]) -> Result<Vec<(Subscription, Fault)>, Fault> {
        self.tell(all, Subscription::command).await
    }

    /// Ends subscriptions.
    ///
    /// # Errors
    ///
    /// A fault of the connection.
    pub(super) async fn unsubscribe(&self, all: &[Subscription]) -> Result<(), Fault> {
        self.tell(all, Subscription::reverse).await.map(drop)
    }

    async fn tell(&self, all: &[Subscription], command: Command) -> Result<Vec<(Subscription, Fault)>, Fault> {
        let mut refused = Vec::new();
        for some in all.chunks(AT_ONCE) {
            let answers = match &self.protocol {
                Protocol::Resp3(connection) => tell_resp3(connection.clone(), some, command).await,
                Protocol::Resp2 { sink, .. } => {
                    let telling = tell_resp2(sink.clone(), some, command);
                    self.in_time(telling).await?
                }
            };
            for (subscription, answer) in some.iter().zip(answers.map_err(Fault::from)?) {
                if let Err(error) = answer {
                    refused.push((subscription.clone(), Fault::from(error)));
                }
            }
        }
        Ok(refused)
    }

    /// Waits until everything is delivered that was published before the call.
    ///
    /// # Errors
    ///
    /// A fault of the connection.
    pub(super) async fn catch_up(&self) -> Result<(), Fault> {
        match &self.protocol {
            Protocol::Resp3(connection) => {
                let mut connection = connection.clone();
                connection.send_packed_command(&redis::cmd("PING")).await.map(drop).map_err(Fault::from)
            }
            Protocol::Resp2 { sink, marks, .. } => {
                let (told, passed) = oneshot::channel();
                let mut sink = sink.clone();
                self.in_time(async {
                    sink.ping::<Value>().await.map_err(Fault::from)?;
                    // A mark that is dropped belongs to a connection that has ended.
                    let _ = marks.send(told);
                    passed.await.map_err(|_| Fault::unsent(Silence::Closed))
                })
                .await?
            }
        }
    }

    async fn in_time<T>(&self, answer: impl Future<Output = T>) -> Result<T, Fault> {
        let answered = tokio::time::timeout(self.patience, answer).await;
        answered.map_err(|_| Fault::unsent(Silence::Unanswered(self.patience)))
    }
}

impl Subscription {
    fn command(&self) -> (&'static str, &str) {
        match self {
            Self::Channel(topic) => ("SUBSCRIBE", topic),
            Self::Pattern(pattern) => ("PSUBSCRIBE", pattern),
            Self::Sharded(topic) => ("SSUBSCRIBE", topic),
        }
    }

    fn reverse(&self) -> (&'static str, &str) {
        match self {
            Self::Channel(topic) => ("UNSUBSCRIBE", topic),
            Self::Pattern(pattern) => ("PUNSUBSCRIBE", pattern),
            Self::Sharded(topic) => ("SUNSUBSCRIBE", topic),
        }
    }
}

/// What is said for a subscription, and of which topic.
type Command = fn(&Subscription) -> (&'static str, &str);
type Answers = Vec<Result<(), RedisError>>;

/// One command for each, so that each has one answer.
async fn tell_resp3(
    mut connection: MultiplexedConnection,
    all: &[Subscription],
    command: Command,
) -> Result<Answers, RedisError> {
    let mut pipeline = redis::pipe();
    for subscription in all {
        let (name, topic) = command(subscription);
        pipeline.cmd(name).arg(topic);
    }
    let answers = connection.send_packed_commands(&pipeline, 0, all.len()).await?;
    Ok(answers.into_iter().map(|answer| answer.extract_error().map(drop)).collect())
}

/// One command for all of a kind. What is refused with others is asked for alone, since one bad name fails them all.
async fn tell_resp2(mut sink: PubSubSink, all: &[Subscription], command: Command) -> Result<Answers, RedisError> {
    let mut kinds: HashMap<&str, Vec<(usize, &str)>> = HashMap::new();
    for (at, subscription) in all.iter().enumerate() {
        let (name, topic) = command(subscription);
        kinds.entry(name).or_default().push((at, topic));
    }
    let mut answers: Answers = all.iter().map(|_| Ok(())).collect();
    for (name, topics) in kinds {
        let together: Vec<_> = topics.iter().map(|(_, topic)| *topic).collect();
        match say_resp2(&mut sink, name, &together).await {
            Err(error) if error.is_io_error() => return Err(error),
            Err(error) if topics.len() == 1 => answers[topics[0].0] = Err(error),
            Err(_) => {
                for (at, topic) in topics {
                    answers[at] = say_resp2(&mut sink, name, &[topic]).await;
                }
            }
            Ok(()) => {}
        }
    }
    Ok(answers)
}

async fn say_resp2(sink: &mut PubSubSink, name: &str, topics: &[&str]) -> Result<(), RedisError> {
    match name {
        "SUBSCRIBE" => sink.subscribe(topics).await,
        "UNSUBSCRIBE" => sink.unsubscribe(topics).await,
        "PSUBSCRIBE" => sink.psubscribe(topics).await,
        "PUNSUBSCRIBE" => sink.punsubscribe(topics).await,
        _ => Err((ErrorKind::RESP3NotSupported, "sharded pub/sub needs a server that speaks RESP3").into()),
    }
}

/// Topic and payload of a message that was pushed.
fn message(push: PushInfo) -> Option<(Vec<u8>, Vec<u8>)> {
    let expected = match push.kind {
        PushKind::Message | PushKind::SMessage => 2,
        PushKind::PMessage => 3,
        _ => return None,
    };
    let mut data = push.data;
    if data.len() != expected {
        return None;
    }
    match (data.pop(), data.pop()) {
        (Some(Value::BulkString(payload)), Some(Value::BulkString(topic))) => Some((topic, payload)),
        _ => None,
    }
}

/// Delivers what comes, and tells marks when nothing is before them, until the connection ends.
async fn read(
    mut stream: PubSubStream,
    mut marks: mpsc::UnboundedReceiver<oneshot::Sender<()>>,
    deliver: Deliver,
    lost: CancellationToken,
) {
    let _ended = lost.drop_guard();
    let mut in_a_row = 0;
    loop {
        // A budget that ran out would make the stream look empty, and a mark pass what is before it.
        let next = tokio::task::unconstrained(async {
            tokio::select! {
                biased;
                message = stream.next() => Ok(message),
                Some(mark) = marks.recv() => Err(mark),
            }
        });
        match next.await {
            Ok(Some(message)) => {
                let payload = Bytes::copy_from_slice(message.get_payload_bytes());
                deliver(message.get_channel_name().as_bytes(), payload);
                in_a_row += 1;
                if in_a_row == MESSAGES_IN_A_ROW {
                    in_a_row = 0;
                    tokio::task::yield_now().await;
                }
            }
            Ok(None) => return,
            Err(mark) => drop(mark.send(())),
        }
    }
}
