//! `Script`: a Lua script that servers load once and run by its hash.

use std::sync::OnceLock;

use redis::{Cmd, ToRedisArgs};

/// A script and its SHA-1. Once a server has loaded the script, the SHA-1 suffices to call it.
#[derive(Debug)]
pub struct Script {
    source: &'static str,
    sha: OnceLock<String>,
}

impl Script {
    pub(crate) const fn new(source: &'static str) -> Self {
        Self { source, sha: OnceLock::new() }
    }

    /// The command that loads this script on a server.
    pub(crate) fn load(&self) -> Cmd {
        let mut command = redis::cmd("SCRIPT");
        command.arg("LOAD").arg(self.source);
        command
    }

    /// The command that runs the script with `keys` on a server that may not have loaded it. The caller appends the
    /// arguments.
    pub(crate) fn call_with_source<K: ToRedisArgs>(&self, keys: &[K]) -> Cmd {
        let mut command = redis::cmd("EVAL");
        command.arg(self.source).arg(keys.len()).arg(keys);
        command
    }

    /// The command that runs the script with `keys`. The caller appends the arguments.
    pub(crate) fn call<K: ToRedisArgs>(&self, keys: &[K]) -> Cmd {
        let mut command = redis::cmd("EVALSHA");
        let sha = self.sha.get_or_init(|| redis::Script::new(self.source).get_hash().to_owned());
        command.arg(sha).arg(keys.len()).arg(keys);
        command
    }
}
