//! The bridge between tokio and the event loops of Python.
//!
//! A call of a layer creates a future of the caller's own loop. The result comes from a thread of tokio, which never
//! touches Python: it adds the number of the call to the [`Mailbox`](mailbox::Mailbox) of the loop and wakes the loop
//! once for all results that have come since. The loop then sets its futures itself, in
//! [`Bridge`](event_loop::Bridge). [`Call`](call::Call) is the awaitable that Python code sees.

pub(crate) mod call;
pub(crate) mod event_loop;
pub(crate) mod mailbox;
mod wake;
