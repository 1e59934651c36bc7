//! `Subscriber`: a subscribed connection. It speaks RESP3 if the server does, else RESP2.

use std::future::Future;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ProtocolVersion, PushInfo, PushKind, RedisError, Value};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::redis::node::connection::connect_error::ConnectError;
use crate::redis::node::connection::{Identity, Timing};
use crate::redis::node::fault::Fault;
use crate::redis::pubsub::subscribe::protocol::{Answers, Command, Deliver, is_login};
use crate::redis::pubsub::subscribe::resp2::Resp2;
use crate::redis::pubsub::subscribe::sharded::{Pushes, Sharded};
use crate::redis::pubsub::topic::Subscription;

/// The most subscriptions of one pipeline.
const PIPELINE: usize = 1000;

/// A subscribed connection. Cheap to clone. It closes with its last clone.
#[derive(Clone)]
pub(crate) struct Subscriber {
    protocol: Protocol,
    /// The longest time until an answer.
    timeout: Duration,
    lost: CancellationToken,
}

#[derive(Clone)]
enum Protocol {
    /// The server pushes messages between the answers, in one order with them.
    Resp3(MultiplexedConnection),
    Resp2(Resp2),
    /// RESP3 with a node of a cluster, which ends subscriptions by itself.
    Sharded(Sharded),
}

/// Why a connection delivers nothing more.
#[derive(Debug, thiserror::Error)]
enum Silence {
    #[error("the subscribed connection was closed")]
    Closed,
    #[error("no answer on the subscribed connection within {0:?}")]
    Unanswered(Duration),
}

impl Subscriber {
    /// Opens a connection to the server of `client`. Its messages go to `deliver`. `in_cluster` says whether it is a
    /// master of a cluster.
    pub(crate) async fn open(
        client: &Client,
        timing: &Timing,
        deliver: Deliver,
        in_cluster: bool,
    ) -> Result<Self, Fault> {
        let limit = timing.connect + timing.command;
        let opening = async {
            match Self::open_resp3(client, timing, deliver.clone(), in_cluster).await {
                // The server answered, but does not speak RESP3: it is too old, or the user may not run `HELLO`.
                Err(error) if !error.is_io_error() && !error.is_timeout() && !is_login(&error) => {
                    Self::open_resp2(client, timing, deliver).await
                }
                opened => opened,
            }
        };
        let opened = tokio::time::timeout(limit, opening).await;
        match opened.map_err(|_| ConnectError::Timeout(limit)).and_then(|opened| opened.map_err(ConnectError::from)) {
            Ok(subscriber) => Ok(subscriber),
            Err(error) => Err(Fault::from(error.explained(client, timing.command).await).into_outage()),
        }
    }

    async fn open_resp3(
        client: &Client,
        timing: &Timing,
        deliver: Deliver,
        in_cluster: bool,
    ) -> Result<Self, RedisError> {
        let info = client.get_connection_info().clone();
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let client = Client::open(info.set_redis_settings(settings))?;
        let lost = CancellationToken::new();
        let (pushes, ended) = Pushes::new(deliver.clone());
        let push = {
            let (lost, pushes) = (lost.clone(), pushes.clone());
            move |push: PushInfo| {
                if push.kind == PushKind::Disconnection {
                    lost.cancel();
                } else if in_cluster {
                    pushes.take(push);
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
        let protocol = if in_cluster {
            Protocol::Sharded(Sharded::new(connection, timing.command, pushes, ended))
        } else {
            Protocol::Resp3(connection)
        };
        Ok(Self { protocol, timeout: timing.command, lost })
    }

    async fn open_resp2(client: &Client, timing: &Timing, deliver: Deliver) -> Result<Self, RedisError> {
        let lost = CancellationToken::new();
        let connection = Resp2::open(client, deliver, lost.clone()).await?;
        Ok(Self { protocol: Protocol::Resp2(connection), timeout: timing.command, lost })
    }

    /// The identity of the server. `None` in RESP2, where a subscribed connection cannot ask for it.
    ///
    /// # Errors
    ///
    /// A fault of the connection.
    pub(crate) async fn identity(&self) -> Result<Option<Identity>, Fault> {
        match &self.protocol {
            Protocol::Resp3(connection) => Ok(Some(Identity::of(&mut connection.clone()).await?)),
            Protocol::Resp2(_) => Ok(None),
            Protocol::Sharded(connection) => Ok(Some(connection.identity().await?)),
        }
    }

    /// Marks the connection as lost when the guard is dropped. Calls that wait for an answer fail then.
    pub(crate) fn lost_on_drop(&self) -> DropGuard {
        self.lost.clone().drop_guard()
    }

    /// Waits until the connection is known to be lost.
    pub(crate) async fn lost(&self) -> Fault {
        self.lost.cancelled().await;
        Fault::unsent(Silence::Closed)
    }

    /// Waits until the server has ended subscriptions by itself, which only a node of a cluster does. Returns their
    /// Redis channels.
    pub(crate) async fn ended(&self) -> Vec<String> {
        match &self.protocol {
            Protocol::Sharded(connection) => connection.ended().await,
            _ => std::future::pending().await,
        }
    }

    /// Subscribes. Returns the subscriptions that the server refused, with the reasons.
    ///
    /// # Errors
    ///
    /// A fault of the connection.
    pub(crate) async fn subscribe(&self, all: &[Subscription]) -> Result<Vec<(Subscription, Fault)>, Fault> {
        self.send(all, Subscription::subscribe_command, Sharded::subscribe).await
    }

    /// Ends subscriptions.
    ///
    /// # Errors
    ///
    /// A fault of the connection.
    pub(crate) async fn unsubscribe(&self, all: &[Subscription]) -> Result<(), Fault> {
        self.send(all, Subscription::unsubscribe_command, Sharded::unsubscribe).await.map(drop)
    }

    /// Sends `command` for each subscription, or `sharded` for some at a time. Returns those that the server refused.
    async fn send(
        &self,
        all: &[Subscription],
        command: Command,
        sharded: impl AsyncFn(&Sharded, &[Subscription]) -> Result<Vec<(Subscription, Fault)>, Fault>,
    ) -> Result<Vec<(Subscription, Fault)>, Fault> {
        let mut refused = Vec::new();
        for some in all.chunks(PIPELINE) {
            let answers = match &self.protocol {
                Protocol::Resp3(connection) => send_resp3(connection.clone(), some, command).await,
                Protocol::Resp2(connection) => self.in_time(connection.send(some, command)).await?,
                Protocol::Sharded(connection) => {
                    refused.extend(sharded(connection, some).await?);
                    continue;
                }
            };
            for (subscription, answer) in some.iter().zip(answers.map_err(Fault::from)?) {
                if let Err(error) = answer {
                    if is_login(&error) {
                        // The server refuses every command on this connection.
                        return Err(Fault::unsent(error));
                    }
                    refused.push((subscription.clone(), Fault::from(error)));
                }
            }
        }
        Ok(refused)
    }

    /// Waits until all messages are delivered that were published before the call. A failure marks the connection as
    /// lost, so that other calls do not wait for it too.
    ///
    /// # Errors
    ///
    /// A fault of the connection.
    pub(crate) async fn catch_up(&self) -> Result<(), Fault> {
        tokio::select! {
            answered = self.ping() => answered.inspect_err(|_| self.lost.cancel()),
            fault = self.lost() => Err(fault),
        }
    }

    async fn ping(&self) -> Result<(), Fault> {
        match &self.protocol {
            Protocol::Resp3(connection) => {
                let mut connection = connection.clone();
                connection.send_packed_command(&redis::cmd("PING")).await.map(drop).map_err(Fault::from)
            }
            Protocol::Resp2(connection) => self.in_time(connection.catch_up()).await?,
            Protocol::Sharded(connection) => connection.catch_up().await.map_err(Fault::from),
        }
    }

    async fn in_time<T>(&self, answer: impl Future<Output = T>) -> Result<T, Fault> {
        let answered = tokio::time::timeout(self.timeout, answer).await;
        answered.map_err(|_| Fault::unsent(Silence::Unanswered(self.timeout)))
    }
}

/// Sends one command for each subscription, so that each has one answer.
async fn send_resp3(
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

/// The topic and the payload of a pushed message. `None` for other pushes.
pub(crate) fn message(push: PushInfo) -> Option<(Vec<u8>, Vec<u8>)> {
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

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;
    use tokio::time::Instant;

    use super::super::sharded::tests::{TIMEOUT, open};
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_silent_connection_fails_all_calls_within_the_time_of_one() {
        let (connection, _far, _driving) = open().await;
        let protocol = Protocol::Sharded(connection);
        let subscriber = Subscriber { protocol, timeout: TIMEOUT, lost: CancellationToken::new() };
        let began = Instant::now();
        let caught_up = join_all((0..10).map(|_| subscriber.catch_up())).await;
        assert!(caught_up.iter().all(Result::is_err));
        assert!(began.elapsed() < 2 * TIMEOUT, "{:?}", began.elapsed());
        assert!(subscriber.lost.is_cancelled());
    }
}
