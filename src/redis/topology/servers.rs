//! All servers of a layer: reached together, let go when its work is done.

use std::sync::Arc;

use futures_util::future::join_all;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::layer::Event;
use crate::redis::node::connection::Requirements;
use crate::redis::node::shard::{Shard, ShardOptions};
use crate::redis::node::source as origin;

/// Events that a slow listener can be behind before it misses the oldest.
pub(crate) const EVENTS: usize = 256;

/// Tries every server of `config` once; gives their identities, by which a ring may place names, and their shards. Fails if
/// none is there though one is needed, or one is of no use whatever happens.
pub(crate) async fn connect(
    config: &Config,
    needs: &Requirements,
    events: &broadcast::Sender<Event>,
    some_needed: bool,
) -> Result<(Vec<String>, Vec<Arc<Shard>>)> {
    let (identities, origins): (Vec<_>, Vec<_>) = origin::all(config).await?.into_iter().unzip();
    let options = identities.iter().cloned().zip(origins);
    let options = options.map(|(host, origin)| ShardOptions { host, origin, needs: needs.clone() });
    let shards = options.enumerate().map(|(index, options)| Arc::new(Shard::new(index, options, events.clone())));
    let shards: Vec<_> = shards.collect();
    let results = join_all(shards.iter().map(|shard| shard.connect())).await;
    let enough = !some_needed || results.iter().any(Result::is_ok);
    let mut failed = results.into_iter().filter_map(Result::err);
    // Who does without servers may go on for ever where a login is wrong, and nobody would be told.
    let wrong = |error: &Error| !error.is_transient() || (!some_needed && !error.is_outage());
    match failed.find(|error| !enough || wrong(error)) {
        Some(error) => Err(error),
        None => Ok((identities, shards)),
    }
}

/// When `closing`, has nobody wait for servers that are away, and waits until readers have put back and lanes have sent what
/// they hold, and then for what has to follow it, `behind`; then says so by `drained`, which closes the connections. If the
/// runtime ends before, the layer is closed and drained all the same: nobody is left to do its work.
pub(crate) fn drain(
    shards: Vec<Arc<Shard>>,
    work: TaskTracker,
    closing: CancellationToken,
    drained: CancellationToken,
    behind: impl Future<Output = ()> + Send,
) -> impl Future<Output = ()> + Send {
    let ending = (closing.clone().drop_guard(), drained.drop_guard());
    async move {
        closing.cancelled().await;
        for shard in shards {
            shard.hurry();
        }
        work.close();
        work.wait().await;
        behind.await;
        drop(ending);
    }
}
