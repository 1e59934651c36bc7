//! `Sharded`: a subscribed connection to a node of a cluster, which ends subscriptions by itself when their slot moves.
//!
//! The client takes every `sunsubscribe` for the answer to the oldest command under way (redis-rs 1.8.1), although none
//! may have asked for it. So an answer may belong to another command, and answers that no command waits for are
//! dropped. But the client hands over every push, in the order of arrival. So confirmations are taken from the pushes.
//! One request is under way at a time. Its last command ends the subscription to a Redis channel with a name of its
//! own, which does not exist. The server confirms that by a push, so the push marks the end of all answers.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::{Pipeline, PushInfo, PushKind, RedisError, Value};
use tokio::sync::{mpsc, watch};

use crate::redis::node::connection::Identity;
use crate::redis::node::fault::Fault;
use crate::redis::pubsub::subscribe::protocol::{Command, Deliver, is_login};
use crate::redis::pubsub::subscribe::subscriber::message;
use crate::redis::pubsub::topic::Subscription;

/// The name of the Redis channel that ends a request, before the number of the request.
const END: &str = "channel-layer.end-of-request.";

/// A connection to a node of a cluster. Cheap to clone. It closes with its last clone.
#[derive(Clone)]
pub(crate) struct Sharded(Arc<Shared>);

struct Shared {
    /// Held during a request.
    connection: tokio::sync::Mutex<MultiplexedConnection>,
    /// The number of the last request.
    last: AtomicU64,
    /// The longest time until the end of a request.
    timeout: Duration,
    pushes: Pushes,
    /// Held to wait.
    ended: tokio::sync::Mutex<mpsc::UnboundedReceiver<String>>,
}

/// Takes the pushes of a connection.
#[derive(Clone)]
pub(crate) struct Pushes {
    deliver: Deliver,
    /// Held only to read or change it.
    request: Arc<Mutex<Request>>,
    /// The number of the last request that the server has answered.
    answered: watch::Sender<u64>,
    ended: mpsc::UnboundedSender<String>,
}

/// What the server has confirmed of the request under way.
#[derive(Default)]
struct Request {
    subscribed: HashSet<String>,
    /// The Redis channels whose end the request asks for and that the server has not confirmed.
    leaving: HashSet<String>,
}

#[derive(Debug, thiserror::Error)]
#[error("the subscription was not confirmed")]
struct Unconfirmed;

impl Pushes {
    /// The pushes of a new connection, and the Redis channels whose subscriptions the server ends. Messages go to
    /// `deliver`.
    pub(crate) fn new(deliver: Deliver) -> (Self, mpsc::UnboundedReceiver<String>) {
        let (ended, ends) = mpsc::unbounded_channel();
        (Self { deliver, request: Arc::default(), answered: watch::Sender::new(0), ended }, ends)
    }

    pub(crate) fn take(&self, push: PushInfo) {
        match push.kind {
            PushKind::SSubscribe => {
                if let Some(topic) = topic(&push) {
                    self.request.lock().subscribed.insert(topic);
                }
            }
            PushKind::SUnsubscribe => {
                if let Some(topic) = topic(&push)
                    && !self.request.lock().leaving.remove(&topic)
                {
                    // Nobody waits for it when the connection is being closed.
                    let _ = self.ended.send(topic);
                }
            }
            PushKind::Unsubscribe => {
                let number = topic(&push).and_then(|topic| topic.strip_prefix(END)?.parse().ok());
                if let Some(number) = number {
                    self.answered.send_replace(number);
                }
            }
            _ => {
                if let Some((topic, payload)) = message(push) {
                    (self.deliver)(&topic, Bytes::from(payload));
                }
            }
        }
    }
}

impl Sharded {
    pub(crate) fn new(
        connection: MultiplexedConnection,
        timeout: Duration,
        pushes: Pushes,
        ended: mpsc::UnboundedReceiver<String>,
    ) -> Self {
        let (connection, ended) = (tokio::sync::Mutex::new(connection), tokio::sync::Mutex::new(ended));
        Self(Arc::new(Shared { connection, last: AtomicU64::new(0), timeout, pushes, ended }))
    }

    /// The identity of the server.
    pub(crate) async fn identity(&self) -> Result<Identity, RedisError> {
        Identity::of(&mut *self.0.connection.lock().await).await
    }

    /// Subscribes. Returns the subscriptions that the server did not confirm, with the reasons.
    pub(crate) async fn subscribe(&self, all: &[Subscription]) -> Result<Vec<(Subscription, Fault)>, Fault> {
        let (errors, request) = self.0.send(all, Subscription::subscribe_command, Request::default()).await?;
        let is_missing = |one: &&Subscription| !request.subscribed.contains(one.topic());
        let unconfirmed: Vec<_> = all.iter().filter(is_missing).cloned().collect();
        if let Some(error) = errors.iter().find(|error| is_login(error)) {
            return Err(Fault::unsent(error));
        }
        // An answer may have been dropped. Then it is unknown which error belongs to which command.
        let errors = if errors.len() == unconfirmed.len() {
            errors.into_iter().map(Fault::from).collect()
        } else {
            vec![Fault::busy(Unconfirmed).while_replaced(); unconfirmed.len()]
        };
        Ok(unconfirmed.into_iter().zip(errors).collect())
    }

    /// Ends subscriptions. A node that does not have their slot any more has ended them, so none is refused.
    pub(crate) async fn unsubscribe(&self, all: &[Subscription]) -> Result<Vec<(Subscription, Fault)>, Fault> {
        let leaving = all.iter().map(|subscription| subscription.topic().to_owned()).collect();
        let request = Request { leaving, ..Request::default() };
        self.0.send(all, Subscription::unsubscribe_command, request).await.map(|_| Vec::new())
    }

    /// Waits until all messages are delivered that were published before the call. One request is enough for all calls
    /// that waited before it was sent.
    pub(crate) async fn catch_up(&self) -> Result<(), RedisError> {
        let before = self.0.last.load(Ordering::Acquire);
        let mut connection = self.0.connection.lock().await;
        if *self.0.pushes.answered.borrow() > before {
            return Ok(());
        }
        self.0.run(&mut connection, redis::pipe()).await.map(drop)
    }

    /// Waits until the server has ended subscriptions by itself. Returns their Redis channels.
    pub(crate) async fn ended(&self) -> Vec<String> {
        let mut ended = self.0.ended.lock().await;
        let mut topics = Vec::new();
        ended.recv_many(&mut topics, usize::MAX).await;
        topics
    }
}

impl Shared {
    /// Sends one command for each subscription, because a command may not have Redis channels of two slots. Returns the
    /// errors in their order, and `request` with what the server has confirmed.
    async fn send(
        &self,
        all: &[Subscription],
        command: Command,
        request: Request,
    ) -> Result<(Vec<RedisError>, Request), Fault> {
        let mut pipeline = redis::pipe();
        for subscription in all {
            let (name, topic) = command(subscription);
            pipeline.cmd(name).arg(topic);
        }
        let mut connection = self.connection.lock().await;
        *self.pushes.request.lock() = request;
        let answers = self.run(&mut connection, pipeline).await?;
        let request = std::mem::take(&mut *self.pushes.request.lock());
        Ok((answers.into_iter().filter_map(|answer| answer.extract_error().err()).collect(), request))
    }

    /// Runs commands. Returns their answers when all pushes before the answers have been recorded. Answers may be
    /// missing.
    async fn run(
        &self,
        connection: &mut MultiplexedConnection,
        mut commands: Pipeline,
    ) -> Result<Vec<Value>, RedisError> {
        let number = self.last.fetch_add(1, Ordering::AcqRel) + 1;
        commands.cmd("UNSUBSCRIBE").arg(format!("{END}{number}"));
        let mut answers = connection.send_packed_commands(&commands, 0, commands.len()).await?;
        let mut answered = self.pushes.answered.subscribe();
        let has_ended = answered.wait_for(|answered| *answered >= number);
        if tokio::time::timeout(self.timeout, has_ended).await.is_err() {
            // The user may not be allowed to run the last command.
            answers.pop().map(Value::extract_error).transpose()?;
            return Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into());
        }
        Ok(answers)
    }
}

/// The Redis channel that `push` is about.
fn topic(push: &PushInfo) -> Option<String> {
    match push.data.first() {
        Some(Value::BulkString(topic)) => String::from_utf8(topic.clone()).ok(),
        _ => None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use redis::{AsyncConnectionConfig, RedisConnectionInfo};
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream};
    use tokio_util::task::AbortOnDropHandle;

    use super::*;

    pub(in super::super) const TIMEOUT: Duration = Duration::from_secs(5);

    /// A connection, the other end of its stream, and the task that drives it.
    pub(in super::super) async fn open() -> (Sharded, BufReader<DuplexStream>, AbortOnDropHandle<()>) {
        let (near, far) = tokio::io::duplex(1 << 16);
        let mut far = BufReader::new(far);
        let (pushes, ended) = Pushes::new(Arc::new(|_, _| {}));
        let taking = pushes.clone();
        let push = move |push: PushInfo| {
            taking.take(push);
            Ok::<_, std::convert::Infallible>(())
        };
        let info = RedisConnectionInfo::default().set_protocol(redis::ProtocolVersion::RESP3).set_skip_set_lib_name();
        let config = AsyncConnectionConfig::new().set_push_sender(push).set_response_timeout(Some(TIMEOUT));
        let opening = MultiplexedConnection::new_with_config(&info, near, config);
        let greeting = async {
            commands(&mut far, "HELLO").await;
            far.write_all(b"%1\r\n$5\r\nproto\r\n:3\r\n").await.unwrap();
        };
        let (opened, ()) = tokio::join!(opening, greeting);
        let (connection, driver) = opened.unwrap();
        let driving = AbortOnDropHandle::new(tokio::spawn(driver));
        (Sharded::new(connection, TIMEOUT, pushes, ended), far, driving)
    }

    /// Reads up to a line that begins with `last`. Returns the line behind its length.
    async fn commands(far: &mut BufReader<DuplexStream>, last: &str) -> String {
        let mut line = String::new();
        while !line.starts_with(last) {
            line.clear();
            far.read_line(&mut line).await.unwrap();
        }
        line.trim_end().to_owned()
    }

    fn push(kind: &str, topic: &str) -> String {
        format!(">3\r\n${}\r\n{kind}\r\n${}\r\n{topic}\r\n:1\r\n", kind.len(), topic.len())
    }

    fn subscription(topic: &str) -> Subscription {
        Subscription::Sharded(topic.to_owned())
    }

    /// Confirms the ends of the requests of the client until none comes any more.
    async fn confirm_ends(far: &mut BufReader<DuplexStream>) {
        loop {
            let end = commands(far, END).await;
            far.write_all(push("unsubscribe", &end).as_bytes()).await.unwrap();
        }
    }

    async fn subscribed(answers: &str, topics: &[&str]) -> (Sharded, Vec<(Subscription, Fault)>) {
        let (connection, mut far, _driving) = open().await;
        let all: Vec<_> = topics.iter().map(|topic| subscription(topic)).collect();
        let server = async {
            commands(&mut far, topics[topics.len() - 1]).await;
            far.write_all(answers.as_bytes()).await.unwrap();
            confirm_ends(&mut far).await;
        };
        let refused = tokio::select! {
            refused = connection.subscribe(&all) => refused.unwrap(),
            () = server => unreachable!(),
        };
        (connection, refused)
    }

    #[tokio::test]
    async fn a_subscription_that_the_server_ends_by_itself_answers_no_command() {
        let answers = [push("sunsubscribe", "{0}moved"), push("ssubscribe", "{1}a"), push("ssubscribe", "{2}b")];
        let (connection, refused) = subscribed(&answers.concat(), &["{1}a", "{2}b"]).await;
        assert!(refused.is_empty(), "{refused:?}");
        assert_eq!(connection.ended().await, ["{0}moved"]);
    }

    #[tokio::test]
    async fn each_refusal_belongs_to_its_subscription() {
        let answers = [
            push("ssubscribe", "{1}a"),
            "-MOVED 1 b:2\r\n".to_owned(),
            push("ssubscribe", "{3}c"),
            "-NOPERM\r\n".to_owned(),
        ];
        let (_, refused) = subscribed(&answers.concat(), &["{1}a", "{2}b", "{3}c", "{4}d"]).await;
        let topics: Vec<_> = refused.iter().map(|(subscription, _)| subscription.topic()).collect();
        assert_eq!(topics, ["{2}b", "{4}d"]);
        assert!(refused[0].1.redirect.is_some() && refused[1].1.redirect.is_none(), "{refused:?}");
    }

    #[tokio::test]
    async fn a_subscription_whose_answer_was_displaced_is_postponed() {
        let moved = push("sunsubscribe", "{0}moved").repeat(3);
        let answers = [moved, push("ssubscribe", "{1}a"), "-MOVED 1 b:2\r\n".to_owned()];
        let (connection, refused) = subscribed(&answers.concat(), &["{1}a", "{2}b"]).await;
        let topics: Vec<_> = refused.iter().map(|(subscription, _)| subscription.topic()).collect();
        assert_eq!(topics, ["{2}b"]);
        assert!(refused[0].1.redirect.is_some(), "{refused:?}");
        assert_eq!(connection.ended().await, ["{0}moved"; 3]);
    }

    #[tokio::test]
    async fn an_end_that_was_asked_for_is_not_reported() {
        let (connection, mut far, _driving) = open().await;
        let server = async {
            commands(&mut far, "{1}a").await;
            let ends = [push("sunsubscribe", "{1}a"), push("sunsubscribe", "{2}b")];
            far.write_all(ends.concat().as_bytes()).await.unwrap();
            confirm_ends(&mut far).await;
        };
        let all = [subscription("{1}a")];
        tokio::select! {
            ended = connection.unsubscribe(&all) => assert!(ended.unwrap().is_empty()),
            () = server => unreachable!(),
        }
        assert_eq!(connection.ended().await, ["{2}b"]);
    }

    #[tokio::test]
    async fn a_subscription_that_ends_before_the_answer_to_a_request_costs_no_further_request() {
        let (connection, mut far, _driving) = open().await;
        let server = async {
            let first = commands(&mut far, END).await;
            far.write_all(push("sunsubscribe", "{0}moved").as_bytes()).await.unwrap();
            assert_eq!(connection.ended().await, ["{0}moved"]);
            far.write_all(push("unsubscribe", &first).as_bytes()).await.unwrap();
            let second = commands(&mut far, END).await;
            far.write_all(push("unsubscribe", &second).as_bytes()).await.unwrap();
            [first, second]
        };
        let catching_up = async {
            connection.catch_up().await.unwrap();
            connection.catch_up().await.unwrap();
        };
        let (ends, ()) = tokio::join!(server, catching_up);
        assert_eq!(ends, [1, 2].map(|number| format!("{END}{number}")));
    }

    #[tokio::test]
    async fn one_request_serves_all_that_waited_before_it_was_sent() {
        let (connection, mut far, _driving) = open().await;
        let server = async {
            // The other calls begin while the first request is under way.
            let first = commands(&mut far, END).await;
            let waiting = futures_util::future::join_all((0..10).map(|_| connection.catch_up()));
            let answering = async {
                tokio::task::yield_now().await;
                far.write_all(push("unsubscribe", &first).as_bytes()).await.unwrap();
                let second = commands(&mut far, END).await;
                far.write_all(push("unsubscribe", &second).as_bytes()).await.unwrap();
            };
            let (caught_up, ()) = tokio::join!(waiting, answering);
            caught_up.into_iter().for_each(Result::unwrap);
        };
        let (first, ()) = tokio::join!(connection.catch_up(), server);
        first.unwrap();
        assert_eq!(connection.0.last.load(Ordering::Relaxed), 2);
    }
}
