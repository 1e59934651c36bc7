//! The Lua scripts of the native format. Each is a file with a header that describes it.

use crate::redis::node::script::Script;

pub(crate) static PUSH: Script = Script::new(include_str!("scripts/push.lua"));
pub(crate) static PUSH_LARGE: Script = Script::new(include_str!("scripts/push_large.lua"));
pub(crate) static COUNT: Script = Script::new(include_str!("scripts/count.lua"));
pub(crate) static BOUND_POP: Script = Script::new(include_str!("scripts/bound_pop.lua"));
pub(crate) static PUT_BACK: Script = Script::new(include_str!("scripts/put_back.lua"));
pub(crate) static QUARANTINE: Script = Script::new(include_str!("scripts/quarantine.lua"));
pub(crate) static RESTORE: Script = Script::new(include_str!("scripts/restore.lua"));
pub(crate) static MARK_DELETED: Script = Script::new(include_str!("scripts/mark_deleted.lua"));
pub(crate) static PENDING: Script = Script::new(include_str!("scripts/pending.lua"));
pub(crate) static GROUP_ADD: Script = Script::new(include_str!("scripts/group_add.lua"));
pub(crate) static GROUP_DISCARD: Script = Script::new(include_str!("scripts/group_discard.lua"));
pub(crate) static GROUP_ROUTES: Script = Script::new(include_str!("scripts/group_routes.lua"));
pub(crate) static GROUP_MEMBERS: Script = Script::new(include_str!("scripts/group_members.lua"));
pub(crate) static GROUP_REMEMBER: Script = Script::new(include_str!("scripts/group_remember.lua"));

/// The scripts of the native format.
pub(crate) static NATIVE: [&Script; 12] = [
    &PUSH,
    &COUNT,
    &PUT_BACK,
    &QUARANTINE,
    &RESTORE,
    &MARK_DELETED,
    &PENDING,
    &GROUP_ADD,
    &GROUP_DISCARD,
    &GROUP_ROUTES,
    &GROUP_MEMBERS,
    &GROUP_REMEMBER,
];
