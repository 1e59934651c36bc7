//! The body of a request: its first chunk is sent with the request, the rest over a separate channel.

use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use tokio::time::{Instant, timeout};

use super::settings::HttpSettings;
use crate::error::Result;
use crate::layer::{ChannelLayer, send_while_full};
use crate::message;

/// Maximum size of the part of a body in one message.
const CHUNK: usize = 256 * 1024;

/// Reads a request body within its limits.
pub(crate) struct RequestBody {
    body: axum::body::BodyDataStream,
    /// Size of a chunk, which goes into one message.
    chunk: usize,
    /// Bytes that are read and not returned yet.
    unread: Bytes,
    /// Timeout of each part.
    part_timeout: Duration,
    /// Time that the client has left. The time that the application takes does not count.
    time_left: Duration,
    /// Number of bytes that the client may still send.
    allowance: usize,
    /// Whether the client has sent the whole body.
    ended: bool,
}

impl RequestBody {
    /// Creates a reader whose chunks fit into messages of `max_message_size` together with the head of the request.
    pub(crate) fn new(body: Body, settings: &HttpSettings, max_message_size: usize) -> Self {
        Self {
            body: body.into_data_stream(),
            chunk: (max_message_size / 2).clamp(1, CHUNK),
            unread: Bytes::new(),
            part_timeout: settings.body_timeout,
            time_left: settings.upload_timeout,
            allowance: settings.max_body_size,
            ended: false,
        }
    }

    /// Returns `true` when the whole body has been returned.
    pub(crate) fn is_done(&self) -> bool {
        self.ended && self.unread.is_empty()
    }

    /// Reads a whole chunk, or the rest of the body.
    ///
    /// # Errors
    ///
    /// The status for a client that is too slow, sends too much, or disconnects.
    pub(crate) async fn chunk(&mut self) -> Result<Bytes, StatusCode> {
        let mut chunk = std::mem::take(&mut self.unread);
        // Most bodies are one frame, which is passed on without a copy.
        if chunk.is_empty() {
            chunk = self.frame().await?.unwrap_or_default();
        }
        if chunk.len() < self.chunk && !self.ended {
            let mut whole = BytesMut::from(chunk);
            while whole.len() < self.chunk
                && let Some(frame) = self.frame().await?
            {
                whole.extend_from_slice(&frame);
            }
            chunk = whole.freeze();
        }
        if chunk.len() > self.chunk {
            self.unread = chunk.split_off(self.chunk);
        }
        Ok(chunk)
    }

    async fn frame(&mut self) -> Result<Option<Bytes>, StatusCode> {
        if self.ended {
            return Ok(None);
        }
        let (started, time) = (Instant::now(), self.part_timeout.min(self.time_left));
        let frame = timeout(time, self.body.next()).await.map_err(|_| StatusCode::REQUEST_TIMEOUT)?;
        self.time_left = self.time_left.saturating_sub(started.elapsed());
        let Some(frame) = frame else {
            self.ended = true;
            return Ok(None);
        };
        let frame = frame.map_err(|_| StatusCode::BAD_REQUEST)?;
        self.allowance = self.allowance.checked_sub(frame.len()).ok_or(StatusCode::PAYLOAD_TOO_LARGE)?;
        Ok(Some(frame))
    }

    /// Sends the rest of the body to `channel`, and waits while the channel is full.
    ///
    /// # Errors
    ///
    /// As [`chunk`](Self::chunk), and 503 if the application does not accept the body. The caller sends the disconnect
    /// notice.
    pub(crate) async fn send(
        mut self,
        layer: &dyn ChannelLayer,
        channel: &str,
        timeout: Duration,
    ) -> Result<(), StatusCode> {
        while !self.is_done() {
            let content = self.chunk().await?;
            let message = message! { "content": content, "more_content": !self.is_done() };
            send_while_full(layer, channel, message, timeout).await.map_err(|error| {
                tracing::debug!(%error, "cannot send the rest of a request body");
                StatusCode::SERVICE_UNAVAILABLE
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::stream;
    use tokio::time::sleep;

    use super::*;

    fn upload(pause: Duration) -> RequestBody {
        let parts = stream::repeat_with(|| Ok::<_, Infallible>(Bytes::from(vec![0; CHUNK])));
        let body = parts.then(move |part| async move {
            sleep(pause).await;
            part
        });
        let settings = HttpSettings { max_body_size: usize::MAX, ..HttpSettings::default() };
        RequestBody::new(Body::from_stream(body), &settings, usize::MAX)
    }

    #[tokio::test(start_paused = true)]
    async fn the_parts_of_a_body_share_the_upload_timeout() {
        let mut upload = upload(Duration::from_secs(29));
        let mut chunks = 0;
        while upload.chunk().await.is_ok() {
            chunks += 1;
        }
        assert_eq!(chunks, 10, "29 s for each, and 5 minutes for all");
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_of_the_application_does_not_count_for_the_client() {
        let mut upload = upload(Duration::from_secs(1));
        for _ in 0..100 {
            assert!(upload.chunk().await.is_ok());
            sleep(Duration::from_mins(1)).await;
        }
    }
}
