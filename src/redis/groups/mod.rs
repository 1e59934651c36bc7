//! Groups of the native format: the routes of a group, their versions, and the members behind each route.
//!
//! A route is the non-local part of a member's name: all process-local members of a process share one. This folder has
//! no access to a server: [`native::groups`](super::native::groups) calls the scripts. [`answers`] parses what they
//! return, [`routes`] remembers the routes of the last send, and [`membership`] computes without I/O the members at the
//! version of a message. [`lookup_failures`] knows since when members cannot be looked up.

pub(crate) mod answers;
pub(crate) mod lookup_failures;
pub(crate) mod membership;
pub(crate) mod routes;
