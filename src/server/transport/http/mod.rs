//! Rules of HTTP that hyper does not check: the form and host of a request, its body, and the content of a response.

pub(crate) mod chunked;
pub(crate) mod content;
pub(crate) mod host;
pub(crate) mod request;
