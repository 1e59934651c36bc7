//! Rules of HTTP that hyper does not check: the form and host of a request, its body, and the content of a response.
//!
//! A request that breaks such a rule is answered before it reaches the application. [`chunked`] watches the end of a
//! request's body, and [`content`] says which responses have a body.

pub(crate) mod chunked;
pub(crate) mod content;
pub(crate) mod host;
pub(crate) mod request;
