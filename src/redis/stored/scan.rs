//! `Scan`: walks over the keys of a server, and deletes the keys of a deployment.

use futures_util::future::join_all;
use redis::{FromRedisValue, Value};

use crate::error::Result;
use crate::layer::Parts;
use crate::redis::native::keys::glob_escaped;
use crate::redis::node::fault::Fault;
use crate::redis::node::shard::Shard;

/// The number of keys that one step of a scan examines.
const SCAN_STEP: usize = 1000;
/// The most channels of one script call. The script reads two messages of each, and Redis serves no other client meanwhile.
pub(crate) const CHANNELS_AT_ONCE: usize = 16;

/// Deletes the keys that the scans find and for which `is_ours` returns `true`. It is called with the key and the type of the
/// scan.
pub(crate) async fn delete(scans: Vec<Scan<'_>>, is_ours: &(dyn Fn(&str, Option<&str>) -> bool + Sync)) -> Result<()> {
    let deleted = join_all(scans.into_iter().map(|mut scan| async move {
        let mut deleted = Parts::default();
        while let Some(step) = scan.delete_next(is_ours).await.transpose() {
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

/// A walk over the keys of a shard that match a pattern.
#[derive(Debug)]
pub struct Scan<'s> {
    shard: &'s Shard,
    pattern: String,
    /// The type of the keys. `None` for all types.
    kind: Option<&'static str>,
    /// The cursor of the next step. `None` after the last step.
    cursor: Option<u64>,
}

impl<'s> Scan<'s> {
    /// A walk over the keys that match `pattern`.
    pub(crate) fn new(shard: &'s Shard, pattern: String) -> Self {
        Self { shard, pattern, kind: None, cursor: Some(0) }
    }

    /// A walk over the keys of one type that begin with `prefix`.
    pub(crate) fn of_kind(shard: &'s Shard, prefix: &str, kind: &'static str) -> Self {
        Self { shard, pattern: format!("{}*", glob_escaped(prefix)), kind: Some(kind), cursor: Some(0) }
    }

    /// Deletes the keys of the next step that are ours. Returns `None` after the last step.
    async fn delete_next(&mut self, is_ours: &(dyn Fn(&str, Option<&str>) -> bool + Sync)) -> Result<Option<()>> {
        let Some(mut keys) = self.next().await.map_err(|fault| self.shard.error(fault))? else { return Ok(None) };
        keys.retain(|key| is_ours(key, self.kind));
        if !keys.is_empty() {
            let mut command = redis::cmd("UNLINK");
            command.arg(keys);
            self.shard.run(&command).await.map_err(|fault| self.shard.error(fault))?;
        }
        Ok(Some(()))
    }

    /// The keys of the next step, or `None` after the last step.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<String>>, Fault> {
        let Some(cursor) = self.cursor else { return Ok(None) };
        let mut command = redis::cmd("SCAN");
        command.arg(cursor).arg("MATCH").arg(&self.pattern).arg("COUNT").arg(SCAN_STEP);
        if let Some(kind) = self.kind {
            command.arg("TYPE").arg(kind);
        }
        let step = self.shard.run(&command).await.and_then(|answer| {
            // The keys of a deployment are text.
            let (next, keys): (u64, Vec<Vec<u8>>) = parse(answer)?;
            Ok((next, keys.into_iter().filter_map(|key| String::from_utf8(key).ok()).collect()))
        });
        let (next, keys) = step?;
        self.cursor = (next != 0).then_some(next);
        Ok(Some(keys))
    }
}

pub(crate) fn parse<T: FromRedisValue>(answer: Value) -> Result<T, Fault> {
    redis::from_redis_value(answer).map_err(|error| Fault::unexpected(&error.to_string()))
}
