//! The Lua scripts of the native format. Each is a file with a header that describes it.
//!
//! A script is one atomic step on one server. A server loads it once, and calls name it by its hash.

use crate::redis::node::commands::script::Script;

pub(crate) static PUSH: Script = Script::new(include_str!("push.lua"));
pub(crate) static PUSH_ONE: Script = Script::new(include_str!("push_one.lua"));
pub(crate) static PUSH_LARGE: Script = Script::new(include_str!("push_large.lua"));
pub(crate) static COUNT: Script = Script::new(include_str!("count.lua"));
pub(crate) static BOUND_POP: Script = Script::new(include_str!("bound_pop.lua"));
pub(crate) static DROP_EXPIRED: Script = Script::new(include_str!("drop_expired.lua"));
pub(crate) static PUT_BACK: Script = Script::new(include_str!("put_back.lua"));
pub(crate) static QUARANTINE: Script = Script::new(include_str!("quarantine.lua"));
pub(crate) static RESTORE: Script = Script::new(include_str!("restore.lua"));
pub(crate) static MARK_DELETED: Script = Script::new(include_str!("mark_deleted.lua"));
pub(crate) static PENDING: Script = Script::new(include_str!("pending.lua"));
pub(crate) static GROUP_ADD: Script = Script::new(include_str!("groups/add.lua"));
pub(crate) static GROUP_DISCARD: Script = Script::new(include_str!("groups/discard.lua"));
pub(crate) static GROUP_ROUTES: Script = Script::new(include_str!("groups/routes.lua"));
pub(crate) static GROUP_MEMBERS: Script = Script::new(include_str!("groups/members.lua"));
pub(crate) static GROUP_REMEMBER: Script = Script::new(include_str!("groups/remember.lua"));

/// The scripts of the native format.
pub(crate) static NATIVE: [&Script; 14] = [
    &PUSH,
    &PUSH_ONE,
    &COUNT,
    &DROP_EXPIRED,
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

#[cfg(test)]
mod tests {
    use crate::redis::native::send::write::STAMP_TOLERANCE;

    #[test]
    fn push_one_has_the_tolerance_of_the_other_scripts() {
        let line = format!("\nlocal tolerance = {}\n", STAMP_TOLERANCE.as_millis());
        assert!(include_str!("push_one.lua").contains(&line));
    }
}
