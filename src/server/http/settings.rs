//! Settings of HTTP requests and their defaults.

use std::time::Duration;

/// Settings of the HTTP requests that go to the application.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HttpSettings {
    /// Whether requests that match no page and no route go to the application.
    pub(crate) enabled: bool,
    /// How long the application may take for a response, and for each further part of it.
    pub(crate) response_timeout: Duration,
    /// How long a client may take for each part of a body.
    pub(crate) body_timeout: Duration,
    /// How long a client may take for a whole body.
    pub(crate) upload_timeout: Duration,
    pub(crate) max_body_size: usize,
    /// Bytes of memory that a response may take while it waits for its client.
    pub(crate) response_buffer: usize,
    /// Bytes of memory that all responses may take while they wait for their clients.
    pub(crate) response_memory: usize,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            response_timeout: Duration::from_mins(2),
            body_timeout: Duration::from_secs(30),
            upload_timeout: Duration::from_mins(5),
            max_body_size: 16 * 1024 * 1024,
            response_buffer: 16 * 1024 * 1024,
            response_memory: 1024 * 1024 * 1024,
        }
    }
}
