//! `Scan`: walks over the keys of a server, and deletes the keys of a deployment.

#![allow(missing_debug_implementations, reason = "the types cannot be named outside of the crate")]

use futures_util::future::{join_all, try_join_all};
use redis::{FromRedisValue, Value};
use tokio::time::Instant;

use crate::error::Result;
use crate::layer::Parts;
use crate::redis::node::fault::Fault;
use crate::redis::node::shard::Shard;
use crate::redis::topology::places::Places;

/// The number of keys that one step of a scan examines.
const SCAN_STEP: usize = 1000;
/// The most channels of one script call. The script reads two messages of each, and Redis serves no other client
/// meanwhile.
pub(crate) const CHANNELS_PER_CALL: usize = 16;

/// The fewest passes over a cluster. A key that moves while the first one scans, past the scans of both shards, is
/// found by the second one.
const FEWEST_PASSES: usize = 2;
/// The most passes over a cluster while slots move.
const MOST_PASSES: usize = 10;

#[derive(Debug, thiserror::Error)]
#[error("slots of the cluster keep moving from node to node, and keys may be left")]
struct SlotsMove;

/// Deletes the keys that the `scans` of all shards find. In a cluster, repeats that while slots move.
pub(crate) async fn delete_all<'p>(places: &'p Places, scans: impl Fn(&'p Shard) -> Vec<Scan<'p>>) -> Result<()> {
    let delete_found = || delete(places, places.shards().flat_map(|shard| scans(shard)).collect());
    let Some(cluster) = places.cluster() else { return delete_found().await };
    for pass in 1..=MOST_PASSES {
        let changes = cluster.changes();
        delete_found().await?;
        // This process may not have noticed that slots have moved.
        cluster.refresh_since(Instant::now()).await.map_err(|error| places.error(0, error.into()))?;
        if pass >= FEWEST_PASSES && cluster.changes() == changes {
            return Ok(());
        }
    }
    Err(places.error(0, Fault::busy(SlotsMove)))
}

async fn delete(places: &Places, scans: Vec<Scan<'_>>) -> Result<()> {
    let deleted = join_all(scans.into_iter().map(|mut scan| async move {
        let mut deleted = Parts::default();
        while let Some(step) = scan.delete_next(places).await.transpose() {
            let failed = step.is_err();
            deleted.add(step);
            if failed {
                break;
            }
        }
        deleted.result()
    }));
    deleted.await.into_iter().collect::<Parts>().result()
}

/// A walk over the keys of a shard that match a pattern and belong to a deployment.
pub struct Scan<'s> {
    shard: &'s Shard,
    pattern: String,
    /// The type of the keys. `None` for all types.
    kind: Option<&'static str>,
    /// Whether a key that matches the pattern belongs to the deployment.
    is_ours: Box<dyn Fn(&str) -> bool + Send + Sync + 's>,
    /// The cursor of the next step. `None` after the last step.
    cursor: Option<u64>,
}

impl<'s> Scan<'s> {
    /// A walk over the keys that match `pattern` and for which `is_ours` returns `true`.
    pub(crate) fn new(shard: &'s Shard, pattern: String, is_ours: impl Fn(&str) -> bool + Send + Sync + 's) -> Self {
        Self { shard, pattern, kind: None, is_ours: Box::new(is_ours), cursor: Some(0) }
    }

    /// A walk over the keys of one type that begin with `prefix` and for which `is_ours` returns `true`.
    pub(crate) fn of_kind(
        shard: &'s Shard,
        kind: &'static str,
        prefix: &str,
        is_ours: impl Fn(&str) -> bool + Send + Sync + 's,
    ) -> Self {
        Self { kind: Some(kind), ..Self::new(shard, format!("{}*", glob_escaped(prefix)), is_ours) }
    }

    /// Deletes the next keys. Returns `None` after the last ones.
    async fn delete_next(&mut self, places: &Places) -> Result<Option<()>> {
        let Some(keys) = self.next().await.map_err(|fault| self.shard.error(fault))? else { return Ok(None) };
        // A command in a cluster has the keys of one slot.
        let per_command = if places.is_cluster() { 1 } else { keys.len() };
        let shard = self.shard;
        let deleted = keys.chunks(per_command).map(|keys| async move {
            let mut command = redis::cmd("UNLINK");
            command.arg(keys);
            places.run_on(shard, &keys[0], &command).await
        });
        try_join_all(deleted).await.map_err(|(shard, fault)| places.error(shard, fault))?;
        Ok(Some(()))
    }

    /// The keys of the next step that finds any, or `None` after the last one.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<String>>, Fault> {
        while let Some(cursor) = self.cursor {
            let mut command = redis::cmd("SCAN");
            command.arg(cursor).arg("MATCH").arg(&self.pattern).arg("COUNT").arg(SCAN_STEP);
            if let Some(kind) = self.kind {
                command.arg("TYPE").arg(kind);
            }
            let (next, keys): (u64, Vec<Vec<u8>>) = parse(self.shard.query(&command).await?)?;
            self.cursor = (next != 0).then_some(next);
            // The keys of a deployment are text.
            let keys = keys.into_iter().filter_map(|key| String::from_utf8(key).ok());
            let keys: Vec<_> = keys.filter(|key| (self.is_ours)(key)).collect();
            if !keys.is_empty() {
                return Ok(Some(keys));
            }
        }
        Ok(None)
    }
}

pub(crate) fn parse<T: FromRedisValue>(answer: Value) -> Result<T, Fault> {
    redis::from_redis_value(answer).map_err(|error| Fault::unexpected(&error.to_string()))
}

/// `text` as a glob pattern that matches only itself.
pub(crate) fn glob_escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if matches!(character, '*' | '?' | '[' | ']' | '\\' | '^' | '-') {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}
