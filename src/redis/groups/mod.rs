//! Groups of the native format: the routes of a group, their versions, and the members behind each route.
//!
//! A route is the non-local part of a member's name: all process-local members of a process share one. [`directory`] changes
//! groups on their server, [`routes`] remembers where the last send went, and [`membership`] decides without I/O who was a
//! member at the version of a message.

pub(crate) mod directory;
pub(crate) mod membership;
pub(crate) mod routes;
