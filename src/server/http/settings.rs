//! What can be set about HTTP requests, and its defaults.

use std::time::Duration;

#[derive(Clone, Copy, Debug)]
pub(crate) struct HttpSettings {
    /// Whether the application answers requests for which there is no page.
    pub(crate) enabled: bool,
    /// How long the application may take for the response, and for each further part of it.
    pub(crate) response_timeout: Duration,
    /// How long the client may take for each part of its body.
    pub(crate) body_timeout: Duration,
    /// How long it may take for all parts together.
    pub(crate) upload_timeout: Duration,
    pub(crate) max_body_size: usize,
    /// How much of a response may wait for a client that reads more slowly than the application writes.
    pub(crate) response_buffer: usize,
    /// How much all responses may hold that wait for their clients.
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
