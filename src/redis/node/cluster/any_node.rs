//! `AnyNode`: a node of a cluster for messages that all nodes forward to each other, as `PUBLISH` sends them.
//!
//! On a node that is cut off from the others, nothing fails and nothing arrives. Only the report of the node itself
//! shows it: such a node knows of fewer slots that are served.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, RedisError};
use tokio::time::Instant;

use super::info::ClusterInfo;
use super::state::{ASKED_AT_ONCE, most_telling};
use super::{Cluster, Slot};
use crate::redis::node::connection::connect_error::ConnectError;
use crate::redis::node::endpoint::Endpoint;

/// How often a connected node is asked whether it is cut off.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// The pause after all nodes have been asked in vain.
const CHECK_ALL_EVERY: Duration = Duration::from_secs(5);
/// How long a node that counts the cluster as working may know of fewer served slots than another one. The nodes notice
/// the failure of a master one after the other, within their node timeout, which is 15 s by default.
const NOTICED_AFTER: Duration = Duration::from_secs(15);

/// The node of a cluster that knows most of it.
pub(crate) struct AnyNode {
    cluster: Arc<Cluster>,
}

/// A node that answered, and the number of slots that are served as far as it knows.
type Reached = (Arc<Client>, usize);

impl AnyNode {
    pub(crate) fn of(cluster: Cluster) -> Self {
        Self { cluster: Arc::new(cluster) }
    }

    /// The addresses of the configured nodes as text.
    pub(crate) fn seed_addresses(&self) -> String {
        self.cluster.seed_addresses()
    }

    /// A client for the first node that answers and is not cut off, or else for the node that knows of the most slots.
    pub(crate) async fn locate(&self) -> Result<Arc<Client>, ConnectError> {
        Ok(self.best().await?.0)
    }

    /// Waits until the node of `connection` is cut off from the others: another one knows of more served slots.
    pub(crate) async fn cut_off(&self, mut connection: MultiplexedConnection) {
        let (mut pause, mut doubted) = (CHECK_EVERY, None);
        loop {
            tokio::time::sleep(pause).await;
            pause = CHECK_EVERY;
            // The supervisor of the shard detects a lost connection.
            let Ok(info) = info(&mut connection).await else { continue };
            if info.served == Slot::COUNT {
                doubted = None;
                continue;
            }
            pause = CHECK_ALL_EVERY;
            if !self.best().await.is_ok_and(|(_, most)| most > info.served) {
                doubted = None;
                continue;
            }
            let doubted_for = doubted.get_or_insert_with(Instant::now).elapsed();
            if !info.is_ok || info.assigned < Slot::COUNT || doubted_for >= NOTICED_AFTER {
                return;
            }
        }
    }

    async fn best(&self) -> Result<Reached, ConnectError> {
        // The nodes may have changed since the last connection. A failure shows in the attempts below.
        let _ = self.cluster.refresh().await;
        self.cluster.disconnect().await;
        let mut best: Option<Reached> = None;
        let mut failures = Vec::new();
        let nodes = stream::iter(self.cluster.endpoints());
        let mut answers = nodes.map(|node| self.reach(node)).buffer_unordered(ASKED_AT_ONCE);
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(reached) if reached.1 == Slot::COUNT => return Ok(reached),
                Ok(reached) => best = best.filter(|(_, most)| *most >= reached.1).or(Some(reached)),
                Err(failure) => failures.push(failure),
            }
        }
        best.ok_or_else(|| most_telling(failures))
    }

    async fn reach(&self, node: Endpoint) -> Result<Reached, (String, ConnectError)> {
        let named = |error| (node.address(), error);
        let client = node.client().map_err(|error| named(error.into()))?;
        let asking = async {
            let timeout = Some(self.cluster.timeout);
            let config = AsyncConnectionConfig::new().set_connection_timeout(timeout).set_response_timeout(timeout);
            let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
            Ok(info(&mut connection).await?.served)
        };
        match asking.await {
            Ok(served) => Ok((client, served)),
            Err(error) => Err(named(ConnectError::explained(error, &client, self.cluster.timeout).await)),
        }
    }
}

async fn info(connection: &mut MultiplexedConnection) -> Result<ClusterInfo, RedisError> {
    let info: String = redis::cmd("CLUSTER").arg("INFO").query_async(connection).await?;
    Ok(ClusterInfo::parse(&info))
}
