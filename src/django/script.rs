//! The Lua scripts of Python's formats, each in a file of its own that says what it does.

use crate::redis::node::commands::script::Script;

pub(super) static ZSET_SEND: Script = Script::new(include_str!("scripts/zset_send.lua"));
pub(super) static ZSET_TAKE: Script = Script::new(include_str!("scripts/zset_take.lua"));
pub(super) static ZSET_PUT_BACK: Script = Script::new(include_str!("scripts/zset_put_back.lua"));
pub(super) static ZSET_PENDING: Script = Script::new(include_str!("scripts/zset_pending.lua"));
pub(super) static LIST_SEND: Script = Script::new(include_str!("scripts/list_send.lua"));
pub(super) static LIST_TAKE: Script = Script::new(include_str!("scripts/list_take.lua"));
pub(super) static LIST_FETCH: Script = Script::new(include_str!("scripts/list_fetch.lua"));
pub(super) static LIST_PUT_BACK: Script = Script::new(include_str!("scripts/list_put_back.lua"));
pub(super) static GROUP_ADD: Script = Script::new(include_str!("scripts/group_add.lua"));
pub(super) static GROUP_MEMBERS: Script = Script::new(include_str!("scripts/group_members.lua"));

/// The scripts of `channels_redis`.
pub(super) static CHANNELS_REDIS: [&Script; 6] =
    [&ZSET_SEND, &ZSET_TAKE, &ZSET_PUT_BACK, &ZSET_PENDING, &GROUP_ADD, &GROUP_MEMBERS];

/// The scripts of `asgi_redis`.
pub(super) static ASGI_REDIS: [&Script; 6] =
    [&LIST_SEND, &LIST_TAKE, &LIST_FETCH, &LIST_PUT_BACK, &GROUP_ADD, &GROUP_MEMBERS];
