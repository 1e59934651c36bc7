//! The access log: one line for each request.

use std::net::SocketAddr;
use std::time::Instant;

use axum::extract::Request;
use axum::http::{Method, StatusCode, Version};

/// Target of the log lines, for filters.
const TARGET: &str = "channel_layer::access";

/// The fields of one request. Only the path of the URL is kept, as the client sent it, because queries contain secrets.
#[derive(Debug)]
pub(crate) struct Entry {
    client: Option<SocketAddr>,
    method: Method,
    path: String,
    version: Version,
    started: Instant,
}

impl Entry {
    pub(crate) fn new(client: Option<SocketAddr>, request: &Request) -> Self {
        Self {
            client,
            method: request.method().clone(),
            path: request.uri().path().to_owned(),
            version: request.version(),
            started: Instant::now(),
        }
    }

    /// Writes the line of a response with this status and this number of bytes.
    pub(crate) fn write(&self, status: StatusCode, bytes: u64) {
        let client = self.client.map(tracing::field::display);
        let (status, milliseconds) = (status.as_u16(), self.started.elapsed().as_secs_f64() * 1000.0);
        let Self { method, path, version, .. } = self;
        tracing::info!(target: TARGET, client, %method, path, ?version, status, bytes, milliseconds, "request");
    }
}
