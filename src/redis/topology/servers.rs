//! The connection of all servers of a layer, and their disconnection when it closes.

use std::sync::Arc;

use futures_util::future::join_all;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::layer::Event;
use crate::redis::node::cluster::Cluster;
use crate::redis::node::connection::Requirements;
use crate::redis::node::endpoint::source;
use crate::redis::node::shard::{Shard, ShardOptions};
use crate::redis::topology::places::Places;

/// The most events that a listener can be behind. A slower listener misses the oldest ones.
pub(crate) const EVENTS: usize = 256;

/// Tries once to connect to every server of `config`. Returns the identities of the servers, by which a ring may place
/// names, and their shards. Fails if `some_needed` is set and no server is reachable, or if one cannot be used at all.
pub(crate) async fn connect(
    config: &Config,
    requirements: &Requirements,
    events: &broadcast::Sender<Event>,
    some_needed: bool,
) -> Result<(Vec<String>, Vec<Arc<Shard>>)> {
    let (identities, sources): (Vec<_>, Vec<_>) = source::all(config).await?.into_iter().unzip();
    let options = identities.iter().cloned().zip(sources);
    let retries_cancelled = CancellationToken::new();
    let options = options.map(|(host, source)| ShardOptions {
        host,
        source,
        requirements: requirements.clone(),
        retries_cancelled: retries_cancelled.clone(),
    });
    let shards = options.enumerate().map(|(index, options)| Arc::new(Shard::new(index, options, events.clone())));
    let shards: Vec<_> = shards.collect();
    judge(join_all(shards.iter().map(|shard| shard.connect())).await, some_needed)?;
    Ok((identities, shards))
}

/// Tries once to connect to every master of a cluster. `config` names some of its nodes. Fails as [`connect`] does.
pub(crate) async fn connect_cluster(
    config: &Config,
    requirements: &Requirements,
    events: &broadcast::Sender<Event>,
    some_needed: bool,
) -> Result<Places> {
    let cluster = Arc::new(Cluster::new(config)?);
    let places = Places::of_cluster(cluster, requirements.clone(), config.spreads()?, events.clone());
    // The first shard asks the nodes for the layout, which names the others.
    let mut results = vec![places.shard(0).connect().await];
    places.add_new_shards();
    results.extend(join_all(places.shards().skip(1).map(|shard| shard.connect())).await);
    judge(results, some_needed)?;
    Ok(places)
}

/// Decides whether a layer can begin after these attempts to connect to its servers.
fn judge(results: Vec<Result<()>>, some_needed: bool) -> Result<()> {
    let enough = !some_needed || results.iter().any(Result::is_ok);
    let mut failed = results.into_iter().filter_map(Result::err);
    // A layer that works without servers could run forever with a wrong password, and only the log would show it.
    let fatal = |error: &Error| !error.is_transient() || (!some_needed && !error.is_outage());
    match failed.find(|error| !enough || fatal(error)) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// Ends the work of a layer when `closing` is cancelled. Calls `cancel_retries`, waits until readers have put back and
/// queues have sent their messages, then for `format_drain`, and then cancels `drained`, which closes the connections.
/// If the runtime ends first, both tokens are cancelled, because the work cannot continue.
pub(crate) fn drain(
    cancel_retries: impl FnOnce() + Send,
    work: TaskTracker,
    closing: CancellationToken,
    drained: CancellationToken,
    format_drain: impl Future<Output = ()> + Send,
) -> impl Future<Output = ()> + Send {
    let ending = (closing.clone().drop_guard(), drained.drop_guard());
    async move {
        closing.cancelled().await;
        cancel_retries();
        work.close();
        work.wait().await;
        format_drain.await;
        drop(ending);
    }
}
