//! `Sharded`: a subscribed connection to a node of a cluster, which ends subscriptions by itself when their slot moves.
//!
//! The client takes every `sunsubscribe` for the answer to the oldest command under way (redis-rs 1.8.1), although none
//! may have asked for it. Each of these shifts all later answers by one, and answers that no command waits for are
//! dropped. But the client hands over every push, in the order of arrival. So confirmations are taken from the pushes.
//! One request is under way at a time. It ends with pings, each with a text of its own, until one is answered with its
//! text.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::{Pipeline, PushInfo, PushKind, RedisError, Value};
use tokio::sync::mpsc;

use crate::redis::node::connection::Identity;
use crate::redis::node::fault::Fault;
use crate::redis::pubsub::subscribe::protocol::{Deliver, is_login};
use crate::redis::pubsub::subscribe::subscriber::message;
use crate::redis::pubsub::topic::Subscription;

/// A connection to a node of a cluster. Cheap to clone. It closes with its last clone.
#[derive(Clone)]
pub(crate) struct Sharded {
    /// Held during a request.
    requests: Arc<tokio::sync::Mutex<Requests>>,
    pushes: Pushes,
    /// Held to wait.
    ended: Arc<tokio::sync::Mutex<mpsc::UnboundedReceiver<String>>>,
}

struct Requests {
    connection: MultiplexedConnection,
    pings: u64,
}

/// Takes the pushes of a connection.
#[derive(Clone)]
pub(crate) struct Pushes {
    deliver: Deliver,
    /// Held only to read or change it.
    request: Arc<Mutex<Request>>,
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
        (Self { deliver, request: Arc::default(), ended }, ends)
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
        pushes: Pushes,
        ended: mpsc::UnboundedReceiver<String>,
    ) -> Self {
        let requests = Arc::new(tokio::sync::Mutex::new(Requests { connection, pings: 0 }));
        Self { requests, pushes, ended: Arc::new(tokio::sync::Mutex::new(ended)) }
    }

    /// The identity of the server.
    pub(crate) async fn identity(&self) -> Result<Identity, RedisError> {
        Identity::of(&mut self.requests.lock().await.connection).await
    }

    /// Subscribes. Returns the subscriptions that the server did not confirm, with the reasons.
    pub(crate) async fn subscribe(&self, all: &[Subscription]) -> Result<Vec<(Subscription, Fault)>, Fault> {
        let mut requests = self.requests.lock().await;
        *self.pushes.request.lock() = Request::default();
        let errors = requests.send(all, Subscription::subscribe_command).await?;
        let subscribed = std::mem::take(&mut *self.pushes.request.lock()).subscribed;
        let unconfirmed: Vec<_> = all.iter().filter(|one| !subscribed.contains(one.topic())).cloned().collect();
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

    /// Ends subscriptions. A node that does not have their slot any more has ended them.
    pub(crate) async fn unsubscribe(&self, all: &[Subscription]) -> Result<(), Fault> {
        let mut requests = self.requests.lock().await;
        let leaving = all.iter().map(|subscription| subscription.topic().to_owned()).collect();
        *self.pushes.request.lock() = Request { leaving, ..Request::default() };
        requests.send(all, Subscription::unsubscribe_command).await?;
        *self.pushes.request.lock() = Request::default();
        Ok(())
    }

    /// Waits until all messages are delivered that were published before the call.
    pub(crate) async fn catch_up(&self) -> Result<(), RedisError> {
        self.requests.lock().await.run(redis::pipe()).await.map(drop)
    }

    /// Waits until the server has ended subscriptions by itself. Returns their Redis channels.
    pub(crate) async fn ended(&self) -> Vec<String> {
        let mut ended = self.ended.lock().await;
        let mut topics = Vec::new();
        ended.recv_many(&mut topics, usize::MAX).await;
        topics
    }
}

impl Requests {
    /// Sends one command for each subscription, because a command may not have Redis channels of two slots. Returns the
    /// errors in their order.
    async fn send(
        &mut self,
        all: &[Subscription],
        command: fn(&Subscription) -> (&'static str, &str),
    ) -> Result<Vec<RedisError>, Fault> {
        let mut pipeline = redis::pipe();
        for subscription in all {
            let (name, topic) = command(subscription);
            pipeline.cmd(name).arg(topic);
        }
        let answers = self.run(pipeline).await?;
        Ok(answers.into_iter().filter_map(|answer| answer.extract_error().err()).collect())
    }

    /// Runs commands. Returns their answers when all pushes before the answers have been recorded. Answers may be
    /// missing.
    async fn run(&mut self, mut commands: Pipeline) -> Result<Vec<Value>, RedisError> {
        let mut answers = Vec::new();
        loop {
            self.pings += 1;
            let text = format!("ping {}", self.pings);
            commands.cmd("PING").arg(&text);
            answers.extend(self.connection.send_packed_commands(&commands, 0, commands.len()).await?);
            if is_text(answers.last(), &text) {
                return Ok(answers);
            }
            // A push has taken the place of an answer.
            commands = redis::pipe();
        }
    }
}

fn is_text(answer: Option<&Value>, text: &str) -> bool {
    match answer {
        Some(Value::BulkString(bytes)) => bytes == text.as_bytes(),
        Some(Value::SimpleString(answer)) => answer == text,
        _ => false,
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
mod tests {
    use redis::{AsyncConnectionConfig, RedisConnectionInfo};
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream};
    use tokio_util::task::AbortOnDropHandle;

    use super::*;

    /// A connection, the other end of its stream, and the task that drives it.
    async fn open() -> (Sharded, BufReader<DuplexStream>, AbortOnDropHandle<()>) {
        let (near, far) = tokio::io::duplex(1 << 16);
        let mut far = BufReader::new(far);
        let (pushes, ended) = Pushes::new(Arc::new(|_, _| {}));
        let taking = pushes.clone();
        let push = move |push: PushInfo| {
            taking.take(push);
            Ok::<_, std::convert::Infallible>(())
        };
        let info = RedisConnectionInfo::default().set_protocol(redis::ProtocolVersion::RESP3).set_skip_set_lib_name();
        let config = AsyncConnectionConfig::new().set_push_sender(push);
        let opening = MultiplexedConnection::new_with_config(&info, near, config);
        let greeting = async {
            commands(&mut far, "HELLO").await;
            far.write_all(b"%1\r\n$5\r\nproto\r\n:3\r\n").await.unwrap();
        };
        let (opened, ()) = tokio::join!(opening, greeting);
        let (connection, driver) = opened.unwrap();
        let driving = AbortOnDropHandle::new(tokio::spawn(driver));
        (Sharded::new(connection, pushes, ended), far, driving)
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

    /// Answers the pings of the client until none comes any more.
    async fn answer_pings(far: &mut BufReader<DuplexStream>) {
        loop {
            let text = commands(far, "ping ").await;
            far.write_all(format!("${}\r\n{text}\r\n", text.len()).as_bytes()).await.unwrap();
        }
    }

    async fn subscribed(answers: &str, topics: &[&str]) -> (Sharded, Vec<(Subscription, Fault)>) {
        let (connection, mut far, _driving) = open().await;
        let all: Vec<_> = topics.iter().map(|topic| subscription(topic)).collect();
        let server = async {
            commands(&mut far, topics[topics.len() - 1]).await;
            far.write_all(answers.as_bytes()).await.unwrap();
            answer_pings(&mut far).await;
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
            answer_pings(&mut far).await;
        };
        let all = [subscription("{1}a")];
        tokio::select! {
            ended = connection.unsubscribe(&all) => ended.unwrap(),
            () = server => unreachable!(),
        }
        assert_eq!(connection.ended().await, ["{2}b"]);
    }
}
