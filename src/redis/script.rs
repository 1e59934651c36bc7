//! The Lua scripts, each in a file of its own that says what it does.

use std::sync::OnceLock;

use redis::{Cmd, ToRedisArgs};

/// A script and its SHA-1, by which it is called once a server has loaded it.
#[derive(Debug)]
pub struct Script {
    source: &'static str,
    sha: OnceLock<String>,
}

pub(crate) static PUSH: Script = Script::new(include_str!("scripts/push.lua"));
pub(crate) static PUSH_LARGE: Script = Script::new(include_str!("scripts/push_large.lua"));
pub(crate) static BOUND_POP: Script = Script::new(include_str!("scripts/bound_pop.lua"));
pub(crate) static PUT_BACK: Script = Script::new(include_str!("scripts/put_back.lua"));
pub(crate) static QUARANTINE: Script = Script::new(include_str!("scripts/quarantine.lua"));
pub(crate) static RESTORE: Script = Script::new(include_str!("scripts/restore.lua"));
pub(crate) static PENDING: Script = Script::new(include_str!("scripts/pending.lua"));
pub(crate) static GROUP_ADD: Script = Script::new(include_str!("scripts/group_add.lua"));
pub(crate) static GROUP_DISCARD: Script = Script::new(include_str!("scripts/group_discard.lua"));
pub(crate) static GROUP_ROUTES: Script = Script::new(include_str!("scripts/group_routes.lua"));
pub(crate) static GROUP_MEMBERS: Script = Script::new(include_str!("scripts/group_members.lua"));
pub(crate) static GROUP_REMEMBER: Script = Script::new(include_str!("scripts/group_remember.lua"));

/// The scripts of the native format.
pub(crate) static NATIVE: [&Script; 10] = [
    &PUSH,
    &PUT_BACK,
    &QUARANTINE,
    &RESTORE,
    &PENDING,
    &GROUP_ADD,
    &GROUP_DISCARD,
    &GROUP_ROUTES,
    &GROUP_MEMBERS,
    &GROUP_REMEMBER,
];

impl Script {
    pub(crate) const fn new(source: &'static str) -> Self {
        Self { source, sha: OnceLock::new() }
    }

    /// The command that makes a server remember this script.
    pub(crate) fn load(&self) -> Cmd {
        let mut command = redis::cmd("SCRIPT");
        command.arg("LOAD").arg(self.source);
        command
    }

    /// The command that calls it with `keys` on a server that may not know it; its arguments are added behind.
    pub(crate) fn call_with_source<K: ToRedisArgs>(&self, keys: &[K]) -> Cmd {
        let mut command = redis::cmd("EVAL");
        command.arg(self.source).arg(keys.len()).arg(keys);
        command
    }

    /// The command that calls it with `keys`; its arguments are added behind.
    pub(crate) fn call<K: ToRedisArgs>(&self, keys: &[K]) -> Cmd {
        let mut command = redis::cmd("EVALSHA");
        let sha = self.sha.get_or_init(|| redis::Script::new(self.source).get_hash().to_owned());
        command.arg(sha).arg(keys.len()).arg(keys);
        command
    }
}
